"""A run's result as plain data, and the artifacts in it as files. Needs the journal, not the code."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flowkit.approval import open_questions
from flowkit.cli.exits import Problem, say
from flowkit.cli.lineage import Lineage
from flowkit.cli.text import rfc3339
from flowkit.errors import FlowkitError
from flowkit.events import FINAL, error_of
from flowkit.graph import INPUT
from flowkit.ports import Artifacts, RunRecord
from flowkit.slot import Slot
from flowkit.state import State
from flowkit.values import Artifact, Value, parse

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARTIFACT_KEYS = {"sha256", "name", "media_type", "size"}
_NAME_BYTES_MAX = 200


async def raw_value(value: Value, artifacts: Artifacts) -> Any:
    """A stored value as plain JSON data."""
    if value.text is not None:
        return parse(value.text)
    return parse((await artifacts.get(value.digest)).decode())


async def raw_slot(slot: Slot, artifacts: Artifacts) -> Any:
    """What a step gave: its value, a map's items, or what a planner found, as plain JSON data."""
    if slot.members is not None:
        return [await raw_slot(member, artifacts) for member in slot.members]
    if slot.value is not None:
        return await raw_value(slot.value, artifacts)
    if slot.planning is None:
        return None
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for turn in slot.planning.turns:
        for child in turn.children:
            key = child.key.rpartition("/")[2]
            if child.status == "settled":
                found[key] = await raw_slot(child, artifacts)
                failed.pop(key, None)
            elif child.status == "failed":
                failed[key] = str(child.error)
    return {"results": found, "failures": failed}


async def raw_input(state: State, artifacts: Artifacts) -> Any:
    """The run's input as plain data."""
    slot = state.slots.get(INPUT)
    return await raw_slot(slot, artifacts) if slot is not None else None


async def raw_result(state: State, artifacts: Artifacts) -> Any:
    """The result of a run that has succeeded; None for others."""
    if state.ended is None or state.ended.status != "succeeded":
        return None
    return await raw_slot(state.slots[state.graph.output], artifacts)


def error_data(state: State) -> dict[str, str | None] | None:
    """How a run failed, as data with stable keys."""
    ended = state.ended
    if ended is None or ended.error is None or ended.status == "succeeded":
        return None
    error = ended.error
    return {
        "type": error.type,
        "message": error.message,
        "step": ended.step or None,
        "where": error.where or None,
    }


def failure(state: State) -> FlowkitError | None:
    """The error that an ended run stands for, in one readable line with the place in the code."""
    if state.ended is None:
        return None
    error = error_of(state.ended)
    if error is not None and state.ended.error is not None and state.ended.error.where:
        error.args = (f"{error} ({state.ended.error.where})",)
    return error


async def run_data(
    record: RunRecord, state: State, artifacts: Artifacts, forked: Lineage | None
) -> dict[str, Any]:
    """A run as one JSON object: what `run --json` and `show --json` begin with."""
    return {
        "run_id": record.run_id,
        "workflow": record.workflow,
        "forked_from": forked.data() if forked is not None else None,
        "status": record.status,
        "created_at": rfc3339(record.created_at),
        "ended_at": rfc3339(state.at) if record.status in FINAL else None,
        "due_at": rfc3339(record.due_at),
        "result": await raw_result(state, artifacts),
        "error": error_data(state),
        "waits_for": waits_for(state),
    }


def waits_for(state: State) -> list[dict[str, Any]]:
    """What an unended run cannot go on without: signals, approvals, times, decisions."""
    if state.ended is not None:
        return []
    found: list[dict[str, Any]] = [
        {
            "what": "decision",
            "name": key,
            "step": key,
            "until": None,
            "why": slot.error.message if slot.error else "",
        }
        for key, slot in state.unknown.items()
    ]
    asked = {each.name: each.why for each in open_questions(state)}
    for slot in state.parked.values():
        found += [
            {
                "what": wait.reason,
                "name": wait.name,
                "step": slot.exec,
                "until": rfc3339(wait.until),
                "why": asked.get(wait.name, ""),
            }
            for wait in slot.open_waits()
        ]
    return found


# ---- artifacts


def artifacts_in(data: Any) -> list[Artifact]:
    """Every artifact in plain data, each once, in order."""
    found = {(each.sha256, each.name): each for each in _walk(data)}
    return list(found.values())


def _walk(data: Any) -> Iterator[Artifact]:
    todo: list[object] = [data]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(reversed(cast("list[object]", item)))
        elif isinstance(item, dict):
            fields = cast("dict[str, Any]", item)
            if _is_artifact(fields):
                yield Artifact(**fields)
            else:
                todo.extend(reversed(list(fields.values())))


def _is_artifact(fields: dict[str, Any]) -> bool:
    """Whether data is an artifact's: exactly its fields, of their types."""
    return (
        fields.keys() == _ARTIFACT_KEYS
        and isinstance(fields["size"], int)
        and all(isinstance(fields[key], str) for key in ("sha256", "name", "media_type"))
        and _SHA256.fullmatch(fields["sha256"]) is not None
    )


@dataclass(frozen=True, slots=True)
class Folder:
    """Where `--out` writes. Made at once, so that a bad one is known before anything runs.

    `shared`: nobody chose it, so each run writes into a directory of its own below it.
    """

    path: Path
    shared: bool = False

    @classmethod
    def made(cls, path: Path, *, shared: bool = False) -> Folder:
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            if shared:
                text = (
                    f"an example's artifacts go to ./{path}: cannot write there: {error.strerror}."
                )
                raise Problem(f"{text} Choose another directory with --out DIR.") from error
            raise Problem(f"--out {path}: cannot write there: {error.strerror}.") from error
        except ValueError as error:
            raise Problem(f"--out: {error}.") from error
        return cls(path, shared)

    def of(self, run_id: str) -> Folder:
        """Where one run's artifacts go; made if it is not there."""
        return Folder.made(self.path / run_id) if self.shared else self

    async def save(self, found: Sequence[Artifact], store: Artifacts) -> dict[str, Path]:
        """Write artifacts under their names; those whose name could leave the folder are refused."""
        written: dict[str, Path] = {}
        for artifact in found:
            if not is_file_name(artifact.name):
                say(f"artifact {artifact.name!r} is not written: its name is no plain file name.")
                continue
            name = _free_name(artifact.name, written)
            written[name] = self.path / name
            self._write(written[name], await store.get(artifact.sha256))
        return written

    def _write(self, path: Path, data: bytes) -> None:
        """Whole or not at all; a link that stands there is replaced, never followed."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".flowkit-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise Problem(f"{path}: cannot write it: {error.strerror}.", 1) from error


def is_file_name(name: str) -> bool:
    """Whether a name is safe as a file's: no path, no hidden file, nothing that a shell or terminal reads."""
    return (
        name == os.path.basename(name)
        and name.isprintable()
        and name[:1] not in (".", "-", "~", "")
        and not set(name) & set('/\\:*?"<>|')
        and not name.endswith((" ", "."))
        and len(name.encode("utf-8", "replace")) <= _NAME_BYTES_MAX
    )


def _free_name(name: str, taken: dict[str, Path]) -> str:
    stem, dot, suffix = name.partition(".")
    free, number = name, 2
    while free.casefold() in {each.casefold() for each in taken}:
        free, number = f"{stem}-{number}{dot}{suffix}", number + 1
    return free
