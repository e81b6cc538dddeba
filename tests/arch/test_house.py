"""The rules of the house that no linter knows, each with a message that says what to do.

Import floors are in pyproject.toml (import-linter); prints and relative imports are ruff's.
"""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import tarfile
import tokenize
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("nodes", "store", "workflows")  # real folders at the root, links inside flowkit/
ABOVE_THE_CORE = (
    "cli",
    "service",
    "engines",
    "testing",
    "history",
    "view",
    "model",
)  # folders, or modules, of flowkit/

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
CORE_LINES_MAX = 6_000
"""5,000; what forks and deploys in flight take (rewind, changes, fork); 40 for `probe=`, 170 for asking a person,
150 for what is checked."""
FRONT_DOOR_NAMES_MAX = 30

HEAVY = ("networkx", "openai", "pandas", "psycopg", "rich", "sqlalchemy", "starlette", "typer")
REBUILDS_CODE = ("cloudpickle", "dill", "jsonpickle", "marshal", "pickle", "shelve")
RUNS_TEXT = ("eval", "exec", "compile", "__import__")
LIVES_IN = {  # third-party packages with one home below the workflows
    "networkx": "flowkit/graph.py",
    "openai": "flowkit/model/",
    "psycopg": "store/postgres.py",
    "sqlalchemy": "store/",
}

INSIDE_A_SANDBOX = ("nodes/tools/python/guest.py",)  # a program that runs what a model wrote, there

FRONT_DOOR = ROOT / "flowkit" / "__init__.py"
needs_front_door = pytest.mark.skipif(
    not FRONT_DOOR.exists(), reason="flowkit/__init__.py is not written yet"
)


# ---- reading the house ----


class Place(NamedTuple):
    """A line of the library, written as editors open it."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the Python files of a folder; links are not walked, so each file comes once."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not Path(place, f).is_symlink())
        yield from (Path(place, name) for name in sorted(names) if name.endswith(".py"))


@cache
def library() -> tuple[Path, ...]:
    return tuple(file for top in ("flowkit", *LINKED) for file in files_below(ROOT / top))


@cache
def core() -> tuple[Path, ...]:
    """Floors 0 to 4, without nodes, stores and models."""
    inside = (file for file in library() if name_of(file).startswith("flowkit/"))
    outside = {*ABOVE_THE_CORE, "__main__"}
    return tuple(f for f in inside if Path(name_of(f)).parts[1].removesuffix(".py") not in outside)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), filename=str(file))


def nodes_of(file: Path) -> Iterator[ast.AST]:
    return ast.walk(tree_of(file))


def code_lines(source: str) -> int:
    """Count the lines that hold a token which is neither a comment nor part of a docstring."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            case _:
                pass
    layout = {
        tokenize.COMMENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
        tokenize.INDENT,
        tokenize.NEWLINE,
        tokenize.NL,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


def imported(node: ast.AST) -> tuple[str, ...]:
    """Name the modules that an import statement names."""
    if isinstance(node, ast.Import):
        return tuple(alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return (node.module,)
    return ()


def lines(found: list[Place]) -> str:
    return "\n" + "\n".join(f"  {place}" for place in found)


# ---- size ----


def test_lines_are_counted_as_the_rule_says() -> None:
    source = '"""Prose."""\n\n# prose\nx = """two\nlines"""  # code\ndef f():\n    "Prose."\n    return (\n        1\n    )\n'
    assert code_lines(source) == 6


def test_the_house_is_found() -> None:
    assert library(), "tests/arch found no file of the library: has the layout changed?"
    assert core(), "tests/arch found no file of the core: has the layout changed?"
    assert len({file.resolve() for file in library()}) == len(library())


def test_no_file_is_too_long() -> None:
    sizes = {name_of(file): code_lines(file.read_text("utf-8")) for file in library()}
    found = [Place(name, 1, f"{n} lines") for name, n in sizes.items() if n > FILE_LINES_MAX]
    assert not found, (
        f"at most {FILE_LINES_MAX} code lines in a file. A file that outgrows it holds two things; "
        f"find the seam between them and give the second a file and a name:{lines(found)}"
    )


def test_no_function_is_too_long() -> None:
    found: list[Place] = []
    for file in library():
        for node in nodes_of(file):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX:
                    what = f"{node.name} has {length} lines"
                    found.append(Place(name_of(file), node.lineno, what))
    assert not found, (
        f"at most {FUNCTION_LINES_MAX} lines in a function. Push the ifs up into the caller and the "
        f"fors down into a helper that has a name:{lines(found)}"
    )


def test_the_core_stays_small() -> None:
    sizes = {name_of(file): code_lines(file.read_text("utf-8")) for file in core()}
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert total <= CORE_LINES_MAX, (
        f"the core has {total} code lines, {CORE_LINES_MAX} are the limit: a feature that fits on top "
        f"belongs in nodes/, store/ or workflows/. The largest files: {largest}"
    )


# ---- imports ----


def test_nobody_inside_imports_the_front_door() -> None:
    found = [
        Place(name_of(file), node.lineno, "imports flowkit itself")
        for file in library()
        if not name_of(file).startswith("workflows/")
        for node in nodes_of(file)
        if isinstance(node, ast.Import | ast.ImportFrom) and "flowkit" in imported(node)
    ]
    assert not found, (
        "import from the module that defines the name (`from flowkit.errors import Retry`), or the "
        "module itself (`import flowkit.events as ev`). The front door imports everything, so importing "
        f"it from inside is a cycle; only workflows/ may:{lines(found)}"
    )


def test_a_package_with_one_home_stays_there() -> None:
    found = [
        Place(name_of(file), node.lineno, f"imports {package}, which lives in {home}")
        for file in library()
        if file in core() or name_of(file).startswith(("flowkit/model/", "nodes/", "store/"))
        for node in nodes_of(file)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for package, home in LIVES_IN.items()
        if any(module.split(".")[0] == package for module in imported(node))
        and not name_of(file).startswith(home)
    ]
    assert not found, f"ask the module that owns the package, or a protocol in ports:{lines(found)}"


@needs_front_door
def test_import_flowkit_is_light() -> None:
    program = "import json, sys, flowkit; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"import flowkit fails:\n{done.stderr}"
    loaded = {module.split(".")[0] for module in json.loads(done.stdout)}
    assert not loaded & set(HEAVY), (
        f"`import flowkit` loads {sorted(loaded & set(HEAVY))}. Import them inside the function that "
        "uses them: a service that only declares workflows must not pay for them"
    )


@needs_front_door
def test_the_front_door_is_small_and_sorted() -> None:
    program = (
        "import json, flowkit\n"
        "missing = [name for name in flowkit.__all__ if not hasattr(flowkit, name)]\n"
        "print(json.dumps([list(flowkit.__all__), missing]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"flowkit.__all__ cannot be read:\n{done.stderr}"
    names, missing = json.loads(done.stdout)
    assert not missing, f"flowkit.__all__ names what flowkit does not have: {missing}"
    assert len(names) == len(set(names)), "flowkit.__all__ names something twice"
    assert names == sorted(names), (
        "sort flowkit.__all__, capitals first: a reader looks names up in it"
    )
    assert len(names) <= FRONT_DOOR_NAMES_MAX, (
        f"flowkit.__all__ has {len(names)} names, {FRONT_DOOR_NAMES_MAX} are the limit: what few people "
        "need is imported from its own module"
    )


# ---- conduct ----


def catches(node: ast.AST) -> Iterator[str]:
    """Name the classes that a handler, or contextlib.suppress, catches; a bare except is ''."""
    caught: list[ast.expr] = []
    if isinstance(node, ast.ExceptHandler):
        if node.type is None:
            yield ""
        else:
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        caught = node.args
    yield from (ast.unparse(item).removeprefix("builtins.") for item in caught)


def test_except_exception_stands_only_in_the_runner() -> None:
    found = [
        Place(name_of(file), getattr(node, "lineno", 1), f"catches {caught or 'everything'}")
        for file in library()
        if name_of(file) != "flowkit/runner.py"
        for node in nodes_of(file)
        for caught in catches(node)
        if caught in ("", "Exception")
    ]
    assert not found, (
        "`except Exception` stands in flowkit/runner.py alone, where a node's failure becomes an event. "
        f"Elsewhere catch what you expect, by name, and let the rest show:{lines(found)}"
    )


def test_cancellation_is_never_swallowed() -> None:
    found = [
        Place(name_of(file), node.lineno, "catches BaseException and goes on")
        for file in library()
        if name_of(file) not in INSIDE_A_SANDBOX  # there all that the code raises is its result
        for node in nodes_of(file)
        if isinstance(node, ast.ExceptHandler) and "BaseException" in catches(node)
        # Raising it again, or handing it to a future that somebody waits on, is no swallowing.
        if not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        and "set_exception" not in ast.unparse(node)
    ]
    assert not found, (
        "a handler of BaseException ends with `raise`, else cancellation and Ctrl-C are lost; clean up "
        f"in `finally` instead:{lines(found)}"
    )


def test_nothing_is_unpickled_and_no_text_is_run() -> None:
    found: list[Place] = []
    for file in library():
        for node in nodes_of(file):
            if isinstance(node, ast.Import | ast.ImportFrom):
                bad = [m for m in imported(node) if m.split(".")[0] in REBUILDS_CODE]
            elif name_of(file) in INSIDE_A_SANDBOX:
                continue
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                bad = [node.func.id] if node.func.id in RUNS_TEXT else []
            else:
                continue
            found += [Place(name_of(file), node.lineno, what) for what in bad]
    assert not found, (
        "values are JSON by pydantic through declared types; nothing is rebuilt by name from a "
        f"database, and what a model wrote runs in a sandbox process only:{lines(found)}"
    )


# ---- packaging ----


@pytest.mark.parametrize("folder", LINKED)
def test_the_root_folder_is_linked_into_the_package(folder: str) -> None:
    link = ROOT / "flowkit" / folder
    assert link.is_symlink(), (
        f"flowkit/{folder} must be a link to ../{folder}. On Windows: switch developer mode on and "
        f"clone with `git clone -c core.symlinks=true`. Else: ln -s ../{folder} flowkit/{folder}"
    )
    assert link.readlink() == Path("..", folder), (
        "the link must be relative, to work in every clone"
    )
    assert link.is_dir(), f"the folder {folder}/ at the root is missing"


def build(target: str, into: Path) -> Path:
    """Build a distribution with the hatchling of this environment, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{target} does not build:\n{done.stdout}{done.stderr}"
    (built,) = into.iterdir()
    return built


@pytest.mark.long
def test_the_wheel_holds_the_library_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flowkit"}, (
        f"the wheel may install only flowkit, it would install {sorted(tops)}"
    )
    wanted = {name_of(file) for file in library()}
    wanted = {name if name.startswith("flowkit/") else f"flowkit/{name}" for name in wanted}
    missing = {*wanted, "flowkit/py.typed"} - names
    assert not missing, f"not in the wheel (a pattern of .gitignore?): {sorted(missing)}"
    assert any(name.endswith("licenses/LICENSE") for name in names), "the wheel lacks the licence"


@pytest.mark.long
def test_the_sdist_holds_the_library_and_its_tests(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"LICENSE", "README.md", "pyproject.toml", "tests/arch/test_house.py"}
    wanted |= {f"flowkit/{name_of(f)}" for f in library() if not name_of(f).startswith("flowkit/")}
    assert not wanted - names, f"not in the sdist: {sorted(wanted - names)}"
