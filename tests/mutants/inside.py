"""`python -m tests.mutants.inside NODE_ID ...`: run tests up to the first that fails.

The last line is a JSON object: pytest's exit code, and what failed.
"""

from __future__ import annotations

import json
import sys

import pytest


class First:
    """The first test that failed."""

    id = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.id = self.id or report.nodeid


def main() -> None:
    first = First()
    # No time-out of the plugin's: a test that it ends has failed, and would hide that it hangs.
    code = pytest.main(
        ["-qx", "--timeout=0", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[first]
    )
    print(json.dumps({"code": int(code), "failed": first.id}))


if __name__ == "__main__":
    main()
