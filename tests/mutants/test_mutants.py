"""Each mutant of the list is caught by a test; and what it means when one is not."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.mutants.__main__ import show
from tests.mutants.tree import ROOT, Mutant, Outcome, Tree, Verdict, mutants, outdated

ALL = mutants()


@cache
def functions(file: str) -> frozenset[str]:
    """The functions at the top of a file; of one that there is not, none."""
    path = ROOT / file
    body = ast.parse(path.read_bytes()).body if path.is_file() else []
    return frozenset(
        each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    )


# ---- the list


@pytest.mark.parametrize("mutant", ALL.values(), ids=list(ALL))
def test_what_a_mutant_replaces_stands_once_in_its_file(mutant: Mutant) -> None:
    assert not outdated(mutant), outdated(mutant)
    assert mutant.by != mutant.text


@pytest.mark.parametrize("mutant", ALL.values(), ids=list(ALL))
def test_the_tests_that_a_mutant_names_are_there(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(file), f"{test} is no test: name one that is"


@pytest.mark.long
@pytest.mark.parametrize("mutant", ALL.values(), ids=list(ALL))
def test_a_mutant_is_caught(mutant: Mutant, tree: Tree) -> None:
    verdict = tree.play(mutant)
    if verdict.outcome == "skipped":
        pytest.skip(verdict.said)
    assert verdict.good, str(verdict)


# ---- verdicts


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A copy of the tree, one for each worker."""
    return Tree(tmp_path_factory.mktemp("mutants"))


SHIELD = "tests/unit/test_shield.py"
OWNER = "tests/unit/test_owner.py"
LINE = "import math\n"
"""Stands in flowkit/shield.py, in a line of its own, with which it says what it needs."""


def made_up(by: str, *tests: str, text: str = LINE, hangs: bool = False) -> Mutant:
    why = "nobody can tell"
    return Mutant("made-up", "flowkit/shield.py", text, by, why, tests or (SHIELD,), hangs)


def test_a_text_that_is_gone_or_stands_twice_is_told() -> None:
    for text, count in (("no such text", 0), ("import", 3)):
        assert f"stands {count} times in flowkit/shield.py" in outdated(made_up("", text=text))
    assert "write the new text into tests/mutants/list.toml" in outdated(made_up("", text="x" * 99))


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "outcome", "says"),
    [
        (made_up("", text="no such text"), "outdated", "must once"),
        (made_up(f"{LINE}# nothing else"), "survived", "though nobody can tell. Write the test"),
        (made_up("", f"{SHIELD}::test_no_such_test"), "wrong", "must pass without it"),
        (made_up("", f"{OWNER}::test_odd_names_are_never_gone"), "wrong", "do not import"),
        (made_up("import no_such_module\n"), "wrong", "no_such_module"),
        (made_up(f"{LINE}import os\nos._exit(0)\n"), "wrong", "neither pass nor fail"),
        (made_up(f"{LINE}while True: pass\n"), "wrong", "no end within"),
        (made_up(f"{LINE}while True: pass\n", hangs=True), "caught", ""),
    ],
    ids=["outdated", "survives", "no test", "no import", "no module", "dies", "hangs", "may hang"],
)
def test_what_becomes_of_a_mutant(mutant: Mutant, outcome: Outcome, says: str, tree: Tree) -> None:
    before = (tree.root / mutant.file).read_bytes()
    verdict = tree.play(mutant, slack_s=1)
    assert verdict.outcome == outcome, str(verdict)
    assert says in str(verdict)
    assert (tree.root / mutant.file).read_bytes() == before, "the next one is played on this tree"


def test_a_mutant_that_is_not_caught_gives_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    mutant = made_up("")
    caught = Verdict(mutant, "caught", 1.25, "tests/a.py::test_b")
    assert show([caught, Verdict(mutant, "skipped")]) == 0
    shown = capsys.readouterr()
    assert "made-up                               1.2  tests/a.py::test_b" in shown.out
    assert "1 of 2 caught, 1 skipped, in 1 s" in shown.out
    for outcome in ("survived", "outdated", "wrong"):
        assert show([caught, Verdict(mutant, outcome, said="What to do.")]) == 1
        shown = capsys.readouterr()
        assert f"made-up (flowkit/shield.py): {outcome}. What to do." in shown.err
