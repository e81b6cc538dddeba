"""What the code sees of the machine: an interpreter with its packages, the system's libraries and fonts.

Nothing else is there: no /etc but what the loader and fonts need, no /proc, no /sys, no home.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

GUEST: Final = Path(__file__).with_name("guest.py")
# Below one folder that no interpreter is in: what is mounted there would hide it.
WORK: Final = "/run/sandbox/work"
TEMPORARY: Final = "/run/sandbox/tmp"
GUEST_INSIDE: Final = "/run/sandbox/guest.py"
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_SYSTEM: Final = ("/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/sbin", "/usr")
# Not the whole of a prefix: an environment made inside a project has the project beside it.
_PARTS: Final = ("bin", "lib", "lib64", "pyvenv.cfg", "share")
_CONFIGURATION: Final = ("/etc/fonts", "/etc/ld.so.cache", "/etc/localtime")

CJK_FONTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "wqy-microhei.ttc": "WenQuanYi Micro Hei",
        "wqy-zenhei.ttc": "WenQuanYi Zen Hei",
        "NotoSansCJK-Regular.ttc": "Noto Sans CJK JP",  # the first face of the collection
        "NotoSansCJKsc-Regular.otf": "Noto Sans CJK SC",
        "NotoSansSC-Regular.otf": "Noto Sans SC",
        "SourceHanSansCN-Regular.otf": "Source Han Sans CN",
        "DroidSansFallbackFull.ttf": "Droid Sans Fallback",
    }
)

ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "HOME": WORK,
        "TMPDIR": TEMPORARY,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": TEMPORARY,
        # One thread each: the address space of a thread counts, and there is little to win.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
    }
)


@dataclass(frozen=True, slots=True)
class View:
    """Folders and files that are shown read-only at their own paths, and links among them."""

    python: str
    shown: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    matplotlibrc: str

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders above what is shown, outermost first."""
        found: dict[str, None] = {}
        for path in (*self.shown, *DEVICES, GUEST_INSIDE):
            for parent in reversed(Path(path).parents):
                found.setdefault(str(parent), None)
        return tuple(path for path in found if path != "/" and path not in self.shown)


def view_of(python: Path | None) -> View:
    """What is shown for an interpreter, by default the one that runs this.

    Raises:
        OSError: the interpreter does not run, or does not tell where its files are.
    """
    if python is None:
        program, prefixes = sys.executable, [sys.prefix, sys.base_prefix]
    else:
        program = os.path.abspath(python)
        asked = [program, "-I", "-c", "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise OSError(f"{program} does not run: {done.stderr.strip()[-200:]}")
        prefixes = done.stdout.split("\n")[:2]
    links: list[tuple[str, str]] = []
    shown: list[str] = []
    for path in (*_SYSTEM, *(f"{prefix}/{part}" for prefix in prefixes for part in _PARTS)):
        if any(Path(path).is_relative_to(each) for each in shown):
            continue
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.exists(path):
            shown.append(path)
    shown += [path for path in _CONFIGURATION if os.path.exists(path)]
    file = Path(program)
    while not any(file.is_relative_to(each) for each in shown) or file.is_symlink():
        if not file.is_symlink():
            shown.append(str(file))
            break
        if not any(file.is_relative_to(each) for each in shown):
            links.append((os.readlink(file), str(file)))
        file = Path(os.path.normpath(file.parent / file.readlink()))
    return View(program, tuple(shown), tuple(dict.fromkeys(links)), _matplotlibrc())


def _matplotlibrc() -> str:
    """Settings for matplotlib: a Chinese font where one is installed, and a minus that every font has."""
    fonts = ["DejaVu Sans"]
    for folder in ("/usr/share/fonts", "/usr/local/share/fonts"):
        for _, _, names in os.walk(folder):
            fonts += [CJK_FONTS[name] for name in sorted(names) if name in CJK_FONTS]
    families = ", ".join(dict.fromkeys(fonts))
    return f"font.family: {families}\naxes.unicode_minus: False\n"


def strange_uid() -> int | None:
    """A user id that nothing else here has, if this process may become it: root does not count forks.

    One for each job, so that jobs share neither limits nor signals.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    widest = 0, 0
    for line in Path("/proc/self/uid_map").read_text("ascii").splitlines():
        inside, _, count = (int(number) for number in line.split())
        widest = max(widest, (count, inside))
    count, inside = widest
    if (
        count < 60_000
    ):  # a user namespace that knows few users: root there is an ordinary user outside
        return None
    spread = min(count // 4, 1 << 20)
    last = min(inside + count, 0x7FFF_0000)
    return last - 1 - secrets.randbelow(spread)
