"""The Python blocks of README and docs run, in order, as one program a page."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/approvals.md",
    "docs/chaos.md",
    "docs/cli.md",
    "docs/deploys.md",
    "docs/guide.md",
    "docs/local_models.md",
    "docs/mcp.md",
    "docs/models.md",
    "docs/newsroom.md",
    "docs/openapi.md",
    "docs/operations_report.md",
    "docs/postgres.md",
    "docs/router.md",
    "docs/sandbox.md",
    "docs/testing.md",
    "docs/tools.md",
    "docs/upkeep.md",
    "docs/time_travel.md",
    "docs/web_game.md",
]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(blocks(page)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_console_session_of_the_command_line_page_goes_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(blocks("docs/cli.md")[-1], "utf-8")
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    (session,) = re.findall(r"^```console\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "FLOWKIT_DB": str(tmp_path / "r.db")}
    for each in session.removeprefix("$ ").split("\n$ "):
        command, *said = each.splitlines()
        program, *args = shlex.split(command)
        assert program == "flowkit"
        done = subprocess.run(
            [sys.executable, "-m", program, *args],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        given = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        assert [line for line in said if line not in given] == [f"[exit code {done.returncode}]"]


def test_every_page_with_python_blocks_is_run() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    found = {
        str(page.relative_to(ROOT)) for page in pages if "```python" in page.read_text("utf-8")
    }
    assert found == set(PAGES)


def test_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [f"docs/{page.name}" for page in ROOT.glob("docs/*.md")]
    assert [page for page in pages if f"]({page})" not in readme] == []


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not dead
