"""What may be left of recorded files when the power goes: they are rebuilt as of any moment.

What was flushed is there. Of what was written since the last flush of its file, anything may be there:
all, nothing, the first so many writes, any of them, or the first so many and a part of the next one, cut
at a sector. Each file has its own lot. A flush that failed makes nothing durable, and what it was for is
never written later, as Linux does it (fsync(2), ERRORS).

Not modelled: a new file's name that is lost (the store flushes the folder), and sectors that hold what
nobody wrote. A removed file may come back until its folder is flushed, or its name is used again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tests.fault.disk.shim import Op

SECTOR: Final = 512
Policy = Literal["all", "none", "prefix", "subset", "torn"]
POLICIES: Final[tuple[Policy, ...]] = ("all", "none", "prefix", "subset", "torn")


@dataclass
class _File:
    flushed: bytearray = field(default_factory=bytearray)
    waiting: list[Op] = field(default_factory=list[Op])

    def flush(self) -> None:
        for op in self.waiting:
            _apply(self.flushed, op)
        self.waiting.clear()

    def left(self, policy: Policy, lot: random.Random) -> bytes:
        data = bytearray(self.flushed)
        for op in _survivors(self.waiting, policy, lot):
            _apply(data, op)
        return bytes(data)


def _survivors(waiting: list[Op], policy: Policy, lot: random.Random) -> list[Op]:
    match policy:
        case "all":
            return waiting
        case "none":
            return []
        case "subset":
            return [op for op in waiting if lot.random() < 0.5]
        case "prefix" | "torn":
            count = lot.randint(0, len(waiting))
            whole = waiting[:count]
            if policy == "torn" and count < len(waiting):
                whole.append(_torn(waiting[count], lot))
            return whole


def _torn(op: Op, lot: random.Random) -> Op:
    """The beginning of a write, up to the end of a sector."""
    ends = range(op.offset // SECTOR * SECTOR, op.offset + len(op.data), SECTOR)
    end = max(op.offset, lot.choice(ends)) if op.kind == "write" else op.offset
    return op._replace(data=op.data[: end - op.offset]) if op.kind == "write" else op


def _apply(data: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del data[op.offset :]
        data.extend(bytes(op.offset - len(data)))
    elif op.data:
        data.extend(bytes(max(0, op.offset - len(data))))
        data[op.offset : op.offset + len(op.data)] = op.data


class Disk:
    """The files as the recorded operations have made them so far, and the marks."""

    def __init__(self) -> None:
        self.files: dict[str, _File] = {}
        self.removed: dict[str, _File] = {}
        self.marks: list[str] = []

    def do(self, op: Op) -> None:
        match op.kind:
            case "mark":
                self.marks.append(op.data.decode())
            case "sync" if op.name == "/":
                self.removed.clear()
            case "open":
                if op.name not in self.files:
                    self.files[op.name] = _File()
                    self.removed.pop(op.name, None)
            case "unlink":
                self.removed[op.name] = self.files.pop(op.name)
            case "sync":
                self.files[op.name].flush()
            case "lost" if op.name != "/":
                self.files[op.name].waiting.clear()
            case "write" | "truncate":
                self.files[op.name].waiting.append(op)
            case _:
                pass

    def leave(self, folder: Path, lot: random.Random, policy: Policy | None = None) -> list[Policy]:
        """Write what is left, by one policy or by lot; the policies that left anything out.

        The -shm file is no use after a crash: SQLite makes it anew.
        """
        used: list[Policy] = []
        back = {name: file for name, file in self.removed.items() if lot.random() < 0.5}
        for name, file in {**self.files, **back}.items():
            if name.endswith("-shm"):
                continue
            chosen = policy or lot.choice(POLICIES)
            (folder / name).write_bytes(file.left(chosen, lot))
            if file.waiting:
                used.append(chosen)
        return used
