"""The example by the command line, its pages in a real Chromium, and its PDF."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from flowkit import Engine
from flowkit.model import OfflineModel
from flowkit.nodes.tools.python import Bubblewrap
from flowkit.store import MemoryStore
from flowkit.workflows.operations_report import (
    EXAMPLE,
    OFFLINE_RULES,
    OperationsReport,
    Printer,
    operations_report,
)
from flowkit.workflows.operations_report.printing import NoPdf
from tests.scenario.test_report_browser import QUIET

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.mark.long
@needs_chromium
def test_the_example_by_the_command_line_gives_all_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "flowkit", "run", "operations_report", "--example", "--json",
            "--db", str(tmp_path / "runs.db"), "--out", str(tmp_path / "out"),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = OperationsReport.model_validate(json.loads(done.stdout)["result"])
    assert (report.gmv, report.computed) == (34692.26, True)
    made = {each.name for each in (tmp_path / "out").iterdir()}
    assert {"report.md", "report.html", "report.pdf"} < made
    assert {each.name for each in report.charts} < made
    assert (tmp_path / "out" / "report.pdf").read_bytes().startswith(b"%PDF-")


async def made(tmp_path: Path, brand: str) -> tuple[OperationsReport, Path]:
    store = MemoryStore()
    async with Engine(store, model=OfflineModel(OFFLINE_RULES)) as engine:
        query = EXAMPLE.model_copy(update={"brand": brand})
        report = await engine.run(operations_report, query)
    for each in (report.html, report.pdf):
        assert each is not None
        await anyio.Path(tmp_path / each.name).write_bytes(await store.get(each.sha256))
    return report, tmp_path


@pytest.mark.long
@needs_chromium
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("brand", ["Harbour Tea", "青岚茶"])
async def test_the_page_opens_without_a_console_error_and_the_pdf_holds_its_text(
    tmp_path: Path, brand: str
) -> None:
    report, folder = await made(tmp_path, brand)
    done = await anyio.run_process(
        [
            str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr",
            "--virtual-time-budget=2000", "--dump-dom", (folder / "report.html").as_uri(),
        ],
    )  # fmt: skip
    dom = done.stdout.decode()
    assert report.title in dom
    assert len(re.findall(r'<img src="data:image/', dom)) == 3
    assert not [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    if importlib.util.find_spec("pypdf") is not None:
        from pypdf import PdfReader

        pages = PdfReader(io.BytesIO((folder / "report.pdf").read_bytes())).pages
        text = "".join(page.extract_text() for page in pages)
        assert f"{report.gmv:,.2f}" in text
        assert "numbers_recounted" in text
        assert len(pages) >= 2


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None or bool(Bubblewrap().why_not()),
    reason="needs matplotlib and bubblewrap",
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("brand", ["Harbour Tea", "青岚茶"])
async def test_the_shipped_program_draws_in_the_sandbox(brand: str) -> None:
    query = EXAMPLE.model_copy(update={"brand": brand})
    none = Printer(None, "not printed here")
    async with Engine(MemoryStore(), model=OfflineModel(OFFLINE_RULES), resources=[none]) as engine:
        report = await engine.run(operations_report, query)
    assert [each.name for each in report.charts] == ["daily.png", "channels.png", "buyers.png"]


# ---- printing


async def test_a_browser_that_is_none_gives_no_pdf_but_a_reason(tmp_path: Path) -> None:
    with pytest.raises(NoPdf, match="there is none"):
        await Printer(None, "there is none").print(b"<p>hello")
    broken = tmp_path / "browser"
    broken.write_text("#!/bin/sh\necho this build is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(NoPdf, match="browser made none: this build is broken"):
        await Printer(broken).print(b"<p>hello")
    half = tmp_path / "half"
    half.write_text(
        '#!/bin/sh\nfor each; do case $each in --print-to-pdf=*) echo %PDF-1.4 > "${each#*=}";; esac; done\n'
    )
    half.chmod(0o755)
    with pytest.raises(NoPdf, match="half wrote is no whole PDF"):
        await Printer(half).print(b"<p>hello")


def test_the_browser_is_named_by_the_environment(tmp_path: Path) -> None:
    assert Printer.found({"FLOWKIT_CHROMIUM": "none"}).why_not == "FLOWKIT_CHROMIUM is none"
    assert Printer.found({"FLOWKIT_CHROMIUM": str(tmp_path / "x")}).program is None
    (tmp_path / "x").touch()
    assert Printer.found({"FLOWKIT_CHROMIUM": str(tmp_path / "x")}).program == tmp_path / "x"
