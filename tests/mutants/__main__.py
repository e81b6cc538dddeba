"""`python -m tests.mutants [NAME ...]`: play mutants; one that no test catches gives exit code 1."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from tests.mutants.tree import Tree, Verdict, mutants


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("name", nargs="*", help="mutants of tests/mutants/list.toml; all if none")
    asked = parser.parse_args()
    known = mutants()
    for name in asked.name:
        if name not in known:
            near = get_close_matches(name, list(known), n=3, cutoff=0)
            parser.error(f"there is no mutant {name!r}; did you mean {' or '.join(near)}?")
    with tempfile.TemporaryDirectory(prefix="flowkit-mutants-") as folder:
        tree = Tree(Path(folder))
        return show(tree.play(known[name]) for name in asked.name or known)


def show(verdicts: Iterable[Verdict]) -> int:
    """Print a line for each as it comes, and at the end what is wrong; the exit code."""
    print(f"{'mutant':34}  {'s':>5}  caught by")
    seen: list[Verdict] = []
    for verdict in verdicts:
        seen.append(verdict)
        what = verdict.caught_by or verdict.outcome.upper()
        print(f"{verdict.mutant.name:34}  {verdict.seconds:5.1f}  {what}", flush=True)
    for verdict in seen:
        if not verdict.good:
            print(f"\n{verdict}", file=sys.stderr)
    caught, skipped = (
        sum(each.outcome == outcome for each in seen) for outcome in ("caught", "skipped")
    )
    seconds = sum(each.seconds for each in seen)
    print(f"{caught} of {len(seen)} caught, {skipped} skipped, in {seconds:.0f} s")
    return 0 if all(each.good for each in seen) else 1


if __name__ == "__main__":
    sys.exit(main())
