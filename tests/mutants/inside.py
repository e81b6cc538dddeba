"""`python -m tests.mutants.inside FILE NODE_ID ...`: run tests up to the first that fails.

The last line is a JSON object: pytest's exit code, what failed, and whether the tests have imported
this FILE of the tree that they stand in.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


class First:
    """The first test that failed."""

    id = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.id = self.id or report.nodeid


def main() -> None:
    file, *tests = sys.argv[1:]
    first = First()
    # No time-out of the plugin's: a test that it ends has failed, and would hide that it hangs.
    code = pytest.main(["-qx", "--timeout=0", "-p", "no:cacheprovider", *tests], plugins=[first])
    paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    loaded = {Path(path).resolve() for path in paths if path}
    imported = Path(file).resolve() in loaded
    print(json.dumps({"code": int(code), "failed": first.id, "imported": imported}))


if __name__ == "__main__":
    main()
