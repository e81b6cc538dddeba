"""How much memory this process has."""

from __future__ import annotations

import sys
from pathlib import Path


def resident_mb() -> float:
    """The resident set in MB, of which a mapped model file is a part; 0 where that cannot be told."""
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
    except OSError:
        pass
    if sys.platform == "win32":
        return 0.0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most that it had
    return most / (1e6 if sys.platform == "darwin" else 1e3)
