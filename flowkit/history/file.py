"""A run as one file, for another machine or another kind of store. JSON Lines, in this order:

    {"format": "flowkit-run", "version": 1, "flowkit": ..., "run": {...}}    whose run it is
    {"event": {"seq": 1, "at": ..., "kind": ..., "data": "...", ...}}        each as it is stored
    {"artifact": SHA-256, "size": ..., "base64": ...}                        what events refer to, once
    {"note": {...}}                                   not the run's: what a replay compares requests with
    {"lines": ..., "sha256": ...}                     how many lines stand before, and their hash

Artifacts are found by their hashes: whatever 64 hex digits an event or an artifact names, and the store
has. Messages that wait in the run's inbox are no facts yet, and stay behind; so do headers and keys of
models, which no journal has.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO, Final, cast

import pydantic_core

import flowkit.events as ev
from flowkit.errors import FlowkitError, ResumeError, RunConflict, StoreUnusable
from flowkit.events import FINAL, Event
from flowkit.graph import Graph, check, check_name
from flowkit.ports import Artifacts, RunQuery, RunRecord, Store
from flowkit.rewind import Fold
from flowkit.store.encoding import decode, encode
from flowkit.store.rules import Batch, Run
from flowkit.values import Value, combine

FORMAT: Final = "flowkit-run"
VERSION: Final = 1

_DIGEST: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_NAMED: Final = re.compile(rb'sha256\\*":\s*\\*"([0-9a-f]{64})')
"""The hash of an `Artifact` value, also where its JSON stands inside other JSON."""

_NO_RUN: Final = "this is no exported run. Give a file that `flowkit export` has written."

_LIVE: Final = frozenset(map(ev.kind_of, (ev.Started, ev.Progress)))
_INT_MAX: Final = 2**31 - 1
_EPOCH_MAX: Final = 2**62
_FIRST_EPOCH: Final = 1 << 40

# What a fold of events that were never a run may raise.
_UNFOLDABLE: Final = (
    FlowkitError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError
)  # fmt: skip


class BadRunFile(FlowkitError, ValueError):
    """The file holds no run that can be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class Written:
    """What went into a file. `missing`: artifacts that the run names, and its store does not have."""

    record: RunRecord
    artifacts: int
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file that was read and found to be whole. `artifacts`: size in bytes by SHA-256."""

    record: RunRecord
    events: Sequence[Event]
    artifacts: Mapping[str, int]
    notes: Sequence[Mapping[str, Any]]

    @property
    def ended(self) -> bool:
        """Whether the run has come to an end, which a retry may open again."""
        change = Batch.of(self.events).change
        return change is not None and change[0] in FINAL

    def name(self, run_id: str | None) -> str:
        """The id under which it is imported; `ResumeError` if it may not have this one."""
        own = self.record.run_id
        name = check_name(run_id if run_id is not None else own, "run id")
        if name != own and not self.ended:
            raise ResumeError(
                f"run {own!r} has not ended, and idempotency keys are made of the id: under another one an "
                f"effect that was under way would be done again as a new one. Import it under its own id, "
                f"into a database that has no run of that."
            )
        return name


# ---- writing


async def write_run(
    store: Store,
    artifacts: Artifacts,
    run_id: str,
    write: Callable[[bytes], object],
    *,
    notes: Iterable[Mapping[str, Any]] = (),
) -> Written:
    """Write a run, one line at a time.

    Raises:
        RunNotFound: no run has this id. BadRunFile: the run has no event yet (of its own, as a fork).
        StoreUnusable: a large value is not in the store, or is another than it was.
    """
    journal = await store.load(run_id)
    record, lines = journal.record, _Lines(write)
    if not journal.events:
        raise BadRunFile(f"run {run_id!r} has no event yet, so there is nothing to export.")
    if record.half_made:
        raise BadRunFile(
            f"run {run_id!r} is a fork that was only half made, since its process died: fork "
            f"{record.base!r} again under this id, then export it."
        )
    run = {
        "id": record.run_id,
        "workflow": record.workflow,
        "input_hash": record.input_hash,
        "created_at": record.created_at,
    }
    lines.add({"format": FORMAT, "version": VERSION, "flowkit": _version(), "run": run})
    found = _Found()
    for event in journal.events:
        data, text = encode(event.payload)
        found.look(data.encode())
        found.look((text or "").encode())
        found.need(event)
        lines.add({"event": _event_data(event, data, text)})
    count, missing = 0, list[str]()
    while found.todo:
        sha256 = found.todo.popleft()
        raw = await _fetch(artifacts, sha256, needed=sha256 in found.needed)
        if raw is None:
            missing += [sha256] if sha256 in found.named else []
            continue
        count += 1
        packed = base64.b64encode(raw).decode()
        lines.add({"artifact": sha256, "size": len(raw), "base64": packed})
        found.look(raw)
    for note in notes:
        lines.add({"note": note})
    lines.end()
    return Written(record, count, missing)


class _Lines:
    """Writes lines, and counts and hashes them."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._hash = hashlib.sha256()
        self._count = 0

    def add(self, data: Mapping[str, Any]) -> None:
        line = pydantic_core.to_json(data) + b"\n"
        self._hash.update(line)
        self._count += 1
        self._write(line)

    def end(self) -> None:
        self.add({"lines": self._count, "sha256": self._hash.hexdigest()})


class _Found:
    """Hashes that were found, each once, in order."""

    def __init__(self) -> None:
        self.todo: deque[str] = deque()
        self.needed: set[str] = set()
        """Of large values, without which no event can be read."""
        self.named: set[str] = set()
        """Of artifacts, by the name of their field."""
        self._seen: set[str] = set()

    def look(self, raw: bytes) -> None:
        for match in _DIGEST.findall(raw):
            self._add(match.decode())
        self.named.update(match.decode() for match in _NAMED.findall(raw))

    def need(self, event: Event) -> None:
        value = _large(event)
        if value is not None:
            self.needed.add(value.digest)
            self._add(value.digest)

    def _add(self, sha256: str) -> None:
        if sha256 not in self._seen:
            self._seen.add(sha256)
            self.todo.append(sha256)


async def _fetch(artifacts: Artifacts, sha256: str, *, needed: bool) -> bytes | None:
    """The bytes, or None where there are none and nobody needs them."""
    try:
        raw = await artifacts.get(sha256)
    except StoreUnusable:
        if needed:
            raise
        return None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise StoreUnusable(
            f"artifact {sha256} has another content than its hash says. Restore the database from a backup."
        )
    return raw


def _event_data(event: Event, data: str, text: str | None) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "key": event.key,
        "alternative": event.alternative,
        "attempt": event.attempt,
        "data": data,
        "value": text,
    }


def _large(event: Event) -> Value | None:
    """The value of an event that is stored apart from it."""
    value: Value | None = getattr(event.payload, "value", None)
    return value if value is not None and value.text is None else None


def _version() -> str:
    try:
        return version("flowkit-agents")
    except PackageNotFoundError:
        return ""


# ---- reading


def check_run(source: BinaryIO) -> RunFile:
    """Read a file to its end and prove that it holds one whole run; nothing is kept of its artifacts.

    Raises:
        BadRunFile: it is cut, edited, hostile, or of a newer format; the message names the line.
    """
    reader = _Reader()
    for number, line in enumerate(source, 1):
        with _refusing(number):
            reader.take(line)
    return reader.whole()


async def read_run(
    source: BinaryIO, store: Store, artifacts: Artifacts, *, run_id: str | None = None
) -> RunRecord:
    """Put the run of a file into a store, under its own id or another; its row as it is then.

    Nothing is written before all of the file is proved. Artifacts come first, then the row, then all
    events in one append: an import that was interrupted is done again as if it had not been.

    Raises:
        BadRunFile: as `check_run`. RunConflict: the store has a run of this id; nothing was changed.
        ResumeError: another id for a run that has not ended: it would go on under other idempotency keys.
    """
    source.seek(0)
    return await put_run(check_run(source), source, store, artifacts, run_id=run_id)


async def put_run(
    whole: RunFile,
    source: BinaryIO,
    store: Store,
    artifacts: Artifacts,
    *,
    run_id: str | None = None,
) -> RunRecord:
    """As `read_run`, with what `check_run` made of the same file."""
    record = whole.record
    name = whole.name(run_id)
    epochs = [each.payload.epoch for each in whole.events if isinstance(each.payload, ev.Claimed)]
    row = RunRecord(
        name, record.workflow, record.input_hash, record.created_at,
        epoch=epochs[-1] if epochs else _FIRST_EPOCH,
    )  # fmt: skip
    begun = await _begun(store, row, whole)
    source.seek(0)
    for line in source:
        data = cast("dict[str, Any]", pydantic_core.from_json(line))
        if "artifact" in data:
            await artifacts.put(base64.b64decode(data["base64"]))
    if begun is None:
        await store.create(row)
    await store.append(name, whole.events, expect=0, epoch=(begun or row).epoch)
    return (await store.load(name, after=len(whole.events))).record


async def _begun(store: Store, row: RunRecord, whole: RunFile) -> RunRecord | None:
    """What an interrupted import of the same run has left; `RunConflict` for any other run."""
    found = await store.runs(RunQuery(run_id=row.run_id))
    if not found:
        return None
    old = found[0]
    same = (old.workflow, old.input_hash, old.created_at)
    if old.head or old.owner or same != (row.workflow, row.input_hash, row.created_at):
        way = "under another id (--as RUN_ID)" if whole.ended else "into another database"
        raise RunConflict(
            f"the store has a run {row.run_id!r} already; nothing was changed. Import it {way}."
        )
    return old


@contextmanager
def _refusing(number: int) -> Generator[None]:
    """Say of what is wrong in which line it is."""
    try:
        yield
    except BadRunFile as error:
        raise BadRunFile(f"line {number}: {error} Nothing was imported.") from None
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise BadRunFile(
            f"line {number} cannot be read: {reason}. It was cut or edited: export the run again. "
            f"Nothing was imported."
        ) from error


class _Reader:
    """Takes the lines of a file, one after the other."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._lines = 0
        self._ended = False
        self._record: RunRecord | None = None
        self._events: list[Event] = []
        self._at: list[int] = []
        """The line of each event."""
        self._artifacts: dict[str, int] = {}
        self._notes: list[Mapping[str, Any]] = []

    def take(self, line: bytes) -> None:
        if self._ended:
            raise BadRunFile("it stands after the last line. Export the run again.")
        if self._record is None and not line.lstrip().startswith(b'{"format"'):
            raise BadRunFile(_NO_RUN)
        if not line.endswith(b"\n"):
            raise BadRunFile("the file is cut off in it. Copy the file again, or export anew.")
        data = _object(pydantic_core.from_json(line, allow_inf_nan=False), "the line")
        if self._record is None:
            self._record = _header(data)
        elif "event" in data:
            self._event(_object(data["event"], "event"))
        elif "artifact" in data:
            self._artifact(data)
        elif "note" in data:
            self._notes.append(_object(data["note"], "note"))
        elif "lines" in data:
            self._end(data)
        else:
            raise BadRunFile(f"it is of no kind that is known ({', '.join(data)[:80]}).")
        self._hash.update(line)
        self._lines += 1

    def _event(self, data: Mapping[str, Any]) -> None:
        seq = len(self._events) + 1
        if data.get("seq") != seq:
            raise BadRunFile(
                f"event {seq} is expected, not {data.get('seq')!r}: lines are missing or in another "
                f"order. Export the run again."
            )
        at, kind, text = data.get("at"), _text(data, "kind"), data.get("value")
        if not isinstance(at, int | float) or isinstance(at, bool) or not math.isfinite(at):
            raise BadRunFile(f"event {seq}: at={at!r} is no Unix time.")
        if text is not None and not isinstance(text, str):
            raise BadRunFile(f"event {seq}: its value is no text.")
        if kind in _LIVE:
            raise BadRunFile(f"event {seq}: events of kind {kind!r} are never stored.")
        payload = decode(kind, _text(data, "data"), text)
        if isinstance(payload, ev.Claimed) and not 0 <= payload.epoch <= _EPOCH_MAX:
            raise BadRunFile(f"event {seq}: epoch {payload.epoch} is out of range.")
        alternative, attempt = _count(data, "alternative"), _count(data, "attempt")
        made = Event(seq, float(at), payload, _text(data, "key"), alternative, attempt)
        Batch.of([made])  # a store would refuse what this refuses, but not before the row is there
        self._events.append(made)
        self._at.append(self._lines + 1)

    def _artifact(self, data: Mapping[str, Any]) -> None:
        sha256 = _text(data, "artifact")
        raw = base64.b64decode(_text(data, "base64"), validate=True)
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise BadRunFile(
                f"artifact {sha256[:80]!r} has another content than its hash says. Export again."
            )
        self._artifacts[sha256] = len(raw)

    def _end(self, data: Mapping[str, Any]) -> None:
        if data["lines"] != self._lines:
            raise BadRunFile(
                f"{data['lines']!r} lines should stand before it, but there are {self._lines}. "
                f"Export the run again."
            )
        if data.get("sha256") != self._hash.hexdigest():
            raise BadRunFile(
                "the lines before it have another SHA-256 than it says: one of them was edited. "
                "Export the run again."
            )
        self._ended = True

    def whole(self) -> RunFile:
        """What was read, when no line is left."""
        with _refusing(self._lines + 1):
            if not self._lines or self._record is None:
                raise BadRunFile("the file is empty. Give one that `flowkit export` has written.")
            if not self._ended:
                raise BadRunFile(
                    f"the file is cut off after line {self._lines}. Copy it again, or export anew."
                )
        self._fold(self._record)
        return RunFile(self._record, self._events, self._artifacts, self._notes)

    def _fold(self, record: RunRecord) -> None:
        """Prove that the events are a run's, and that all they cannot do without is there."""
        if not self._events:
            raise BadRunFile("line 2: the run has no event. Nothing was imported.")
        folded = Fold()
        for number, event in zip(self._at, self._events, strict=True):
            with _refusing(number):
                if event.seq == 1:
                    _check_begin(event, record)
                if isinstance(event.payload, ev.Rewound) and event.payload.graph is not None:
                    _check_graph(event.payload.graph)
                self._check_value(event)
                try:
                    folded.apply(event)
                except _UNFOLDABLE as error:
                    raise BadRunFile(
                        f"event {event.seq} ({event.kind}) does not follow from those before it "
                        f"({type(error).__name__}: {str(error)[:300]})."
                    ) from error

    def _check_value(self, event: Event) -> None:
        value = _large(event)
        if value is None:
            return
        size = self._artifacts.get(value.digest)
        if size is None:
            raise BadRunFile(
                f"event {event.seq} ({event.kind}) needs artifact {value.digest[:80]!r}, which is not in "
                f"the file. Export the run again."
            )
        if size != value.size or 2 * (value.items or 0) > size:
            raise BadRunFile(f"event {event.seq}: its value is not of the size that it says.")


def _header(data: Mapping[str, Any]) -> RunRecord:
    if data.get("format") != FORMAT:
        raise BadRunFile(_NO_RUN)
    if data.get("version") != VERSION:
        raise BadRunFile(
            f"the file has format {data.get('version')!r}, written by flowkit {data.get('flowkit')!r}; "
            f"this flowkit reads format {VERSION}. Update flowkit."
        )
    run = _object(data.get("run"), "run")
    created_at = run.get("created_at")
    if not isinstance(created_at, int | float) or not math.isfinite(created_at):
        raise BadRunFile(f"created_at={created_at!r} is no Unix time.")
    name, workflow = _text(run, "id"), _text(run, "workflow")
    check_name(name, "run id")
    return Run.of(RunRecord(name, workflow, _text(run, "input_hash"), float(created_at))).record()


def _check_begin(event: Event, record: RunRecord) -> None:
    begun = event.payload
    if not isinstance(begun, ev.RunStarted):
        raise BadRunFile(f"a run begins with run_started, not with {event.kind}.")
    if begun.workflow != record.workflow:
        raise BadRunFile(f"it is a run of {begun.workflow!r}, but the first line says otherwise.")
    text = begun.value.text if begun.value is not None else None
    if text is not None and combine([record.workflow, text]) != record.input_hash:
        raise BadRunFile("the input has another hash than the first line says.")
    _check_graph(begun.graph)


def _check_graph(graph: Graph) -> None:
    try:
        check(graph)
    except _UNFOLDABLE as error:
        raise BadRunFile(f"its graph cannot run: {str(error)[:300]}") from error


def _object(data: object, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise BadRunFile(f"{what} is no JSON object.")
    return cast("dict[str, Any]", data)


def _text(data: Mapping[str, Any], name: str) -> str:
    found = data.get(name)
    if not isinstance(found, str):
        raise BadRunFile(f"{name} is missing, or is no text.")
    return found


def _count(data: Mapping[str, Any], name: str) -> int:
    found = data.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= _INT_MAX:
        raise BadRunFile(f"{name}={str(found)[:40]} is no number from 0 to {_INT_MAX}.")
    return found
