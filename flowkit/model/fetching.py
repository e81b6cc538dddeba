"""A known model file becomes a local one: from the network, or from a file that somebody has.

Only when size and SHA-256 are those of the table; what is not yet whole has a name that ends in
`.part`, and a later try goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final, Protocol
from urllib.parse import urlsplit

from flowkit.errors import ModelUnavailable, NoModel
from flowkit.model.gguf import GgufFile

CHUNK: Final = 1 << 20
SILENCE_S: Final = 30.0
"""Seconds without a byte after which a connection is given up."""

OnProgress = Callable[[int, int], None]
"""Told how many bytes are there, and how many there will be."""


def fetch(row: GgufFile, into: Path, *, progress: OnProgress | None = None) -> Path:
    """Fetch a known file; the checked file. A connection that breaks off is opened again.

    Raises `ModelUnavailable` where another try may help (what came is kept), else `NoModel`.
    """
    path = into / row.file
    if _is_whole(row, path):
        return path
    if not row.url:
        raise NoModel(f"{row.name} is not fetched from the network: {row.about}.")
    part = _part(row, into)
    have = part.stat().st_size if part.is_file() else 0
    if have > row.size:
        part.unlink()
        have = 0
    _check_room(row, into, row.size - have)
    while have < row.size:
        got = _pull(row, part, have, progress)
        if got <= have:
            raise ModelUnavailable(
                f"{row.name} stopped at {got:,} of {row.size:,} bytes, and nothing more comes from "
                f"{urlsplit(row.url).hostname}. What is here is kept: run the command again to go on."
            )
        have = got
    return _settled(row, part, path)


def take(row: GgufFile, source: Path, into: Path, *, progress: OnProgress | None = None) -> Path:
    """Copy a file that somebody has, if it is the known one; the checked file. Raises `NoModel`."""
    path = into / row.file
    if _is_whole(row, path):
        return path
    try:
        size = source.stat().st_size
    except OSError as error:
        raise NoModel(f"{source} cannot be read: {error.strerror}.") from error
    if size != row.size:
        raise NoModel(
            f"{source} has {size:,} bytes, and {row.name} has {row.size:,}: it is another file, or not "
            "all of it. A file that flowkit does not know is used by its path: --model local:FILE"
        )
    part = _part(row, into)
    _check_room(row, into, row.size)
    with source.open("rb") as given:
        _write(row, given, part, 0, progress)
    return _settled(row, part, path)


def _is_whole(row: GgufFile, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == row.size and _sha256(path) == row.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part(row: GgufFile, into: Path) -> Path:
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoModel(f"The folder {into} cannot be made: {error.strerror}.") from error
    return into / f"{row.file}.part"


def _check_room(row: GgufFile, into: Path, needed: int) -> None:
    free = shutil.disk_usage(into).free
    if free < needed:
        raise _full(row, into, f"it needs {needed:,} bytes more, and {free:,} are free")


def _full(row: GgufFile, into: Path, why: str) -> NoModel:
    return NoModel(
        f"There is no room for {row.name} in {into}: {why}. Make room, or set FLOWKIT_MODELS to a folder "
        "on another disk; what is here is kept, and a later try goes on from there."
    )


def _settled(row: GgufFile, part: Path, path: Path) -> Path:
    """The whole file under its name, if it is the right one; a wrong one is removed."""
    got = _sha256(part)
    if got != row.sha256:
        part.unlink()
        raise NoModel(
            f"What came is not {row.name}: its SHA-256 is {got}, and {row.sha256} was expected. It was "
            "deleted. A damaged transfer is mended by another try; else somebody gives out another file."
        )
    part.replace(path)
    return path


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from https only to https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https" and urlsplit(req.full_url).scheme == "https":
            raise NoModel(
                f"{req.host} sends on to {newurl[:200]}, which is not https: not followed."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _pull(row: GgufFile, part: Path, have: int, progress: OnProgress | None) -> int:
    """Read one answer to its end, or to where it breaks off; how much is there then."""
    headers = {"User-Agent": "flowkit", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(row.url, headers=headers)
    host = urlsplit(row.url).hostname
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=SILENCE_S) as answer:
            span = answer.headers.get("Content-Range") or ""
            goes_on = answer.status == 206 and span.startswith(f"bytes {have}-")
            # A server that knows no ranges gives all of it again.
            return _write(row, answer, part, have if goes_on else 0, progress)
    except urllib.error.HTTPError as error:
        error.close()
        text = f"{host} answered {error.code} for {row.name} ({row.url})."
        if error.code in (408, 429) or error.code >= 500:
            raise ModelUnavailable(f"{text} Run the command again, later.") from error
        raise NoModel(f"{text} Take the file from elsewhere: --from-file FILE") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ModelUnavailable(
            f"{row.name} cannot be fetched from {host}: {reason}. What is here is kept: run the command "
            "again to go on, or take the file from elsewhere: --from-file FILE"
        ) from error


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _write(
    row: GgufFile, source: _Readable, part: Path, have: int, progress: OnProgress | None
) -> int:
    """Write what comes after the bytes that are there; how many there are then.

    Ends early where the source breaks off. Raises `NoModel` for more than there should be, since
    that fills the disk with somebody else's file, and where there is no room.
    """
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        while piece := _piece(source):
            if have + len(piece) > row.size:
                _discard(file)
                raise NoModel(
                    f"What comes is not {row.name}: it has more than {row.size:,} bytes. It was deleted."
                )
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise _full(row, part.parent, f"the disk is full after {have:,} bytes") from error
            have += len(piece)
            if progress is not None:
                progress(have, row.size)
    return have


def _piece(source: _Readable) -> bytes:
    try:
        return source.read(CHUNK)
    except (HTTPException, TimeoutError, ConnectionError) as error:
        partial = getattr(error, "partial", b"")
        return partial if isinstance(partial, bytes) else b""


def _discard(file: IO[bytes]) -> None:
    file.truncate(0)
