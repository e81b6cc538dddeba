"""What must be measured in a process of its own: `python -m benchmarks.alone WHAT N [FOLDER]`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from benchmarks import chain, resume, waiting


def main(what: str, n: int, folder: Path) -> None:
    match what:
        case "chain":
            chain.run(n)
            print(peak_kb())
        case "idle":
            print(waiting.kb_a_run(n, traced=False))
        case "idle-traced":
            print(waiting.kb_a_run(n, traced=True))
        case _:
            found = resume.SUBCOMMANDS[what](n, folder)
            if found is not None:
                print(found)


def peak_kb() -> int:
    """Peak resident memory of this process. `ru_maxrss` would tell its parent's, if that is larger."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(*sys.argv[3:4]))
