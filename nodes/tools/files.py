"""A folder that a planner may list, read and write, and nothing outside it.

    engine = Engine(store, resources=[Folder("workspace")])
    Planner(..., tools=[list_files, read_file, write_file])

Every path is walked from the root, component by component, on open directories and without following
links, so that no name, link or race leads out. Needs a system with `openat` (Linux, macOS).
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from flowkit.node import Context
from flowkit.nodes.tool import tool
from flowkit.nodes.tools.corpus import Page, piece_of
from flowkit.nodes.tools.documents import Document

FILE_BYTES_MAX: Final = 2_000_000
LISTED_MAX: Final = 500
DEPTH_MAX: Final = 20
_NAME_BYTES_MAX: Final = 200


class PathRefused(ValueError):
    """The path does not name a file of the folder."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


RelativePath = Annotated[str, Field(min_length=1, max_length=1_000)]


class ListQuery(_Value):
    """Which part of the folder to list."""

    path: RelativePath = Field(default=".", description="A folder below the root; . for all of it")


class FileEntry(_Value):
    path: str
    size: int


class Listing(_Value):
    """Files below a folder, by path; `note` tells when there are more."""

    files: list[FileEntry]
    note: str = ""


class ReadQuery(_Value):
    """Which file to read, and from where."""

    path: RelativePath = Field(description="The file's path, as list_files gives it")
    from_line: Annotated[int, Field(ge=1)] = Field(default=1, description="First line to read")


class NewFile(_Value):
    """A text file to write; it replaces one of the same path."""

    path: RelativePath = Field(description="The file's path; missing folders are made")
    text: Annotated[str, Field(max_length=FILE_BYTES_MAX)]


class Written(_Value):
    path: str
    size: int


class Folder:
    """A root folder, which must exist. Files are made with mode 0600, folders with 0700.

    Raises:
        ValueError: the root is no folder.
    """

    def __init__(self, root: Path | str, *, writable: bool = True) -> None:
        self.root = Path(root).resolve()
        self.writable = writable
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is no folder.")

    def list(self, path: str = ".") -> Listing:
        """The files below a folder, at most `LISTED_MAX`, without hidden ones and links."""
        found: list[FileEntry] = []
        parts = parts_of(path) if path.strip("/") not in ("", ".") else ()
        with self._folder(parts) as place:
            for entry in _walk(place, "/".join(parts), DEPTH_MAX):
                if len(found) == LISTED_MAX:
                    return Listing(
                        files=found, note=f"more than {LISTED_MAX}: list a folder below."
                    )
                found.append(entry)
        return Listing(files=found, note="" if found else "there are no files here.")

    def read(self, path: str) -> bytes:
        """A file's bytes; raises `PathRefused`, or `FileNotFoundError`, for what is none."""
        *above, name = parts_of(path)
        with self._folder(above) as place:
            file = _open(name, os.O_RDONLY | os.O_NONBLOCK, place)
            with os.fdopen(file, "rb") as stream:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise PathRefused(f"{path!r} is no file.")
                data = stream.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise PathRefused(f"{path!r} has more than {FILE_BYTES_MAX:,} bytes.")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole, and on disk: who reads it meanwhile sees the old one or the new one."""
        if not self.writable:
            raise PathRefused("this folder is read-only.")
        if len(data) > FILE_BYTES_MAX:
            raise PathRefused(f"at most {FILE_BYTES_MAX:,} bytes are written to a file.")
        *above, name = parts_of(path)
        with self._folder(above, make=True) as place:
            temporary = f".{secrets.token_hex(8)}"
            file = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, place)
            try:
                with os.fdopen(file, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(file)  # the journal will say that it is written
                os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
                os.fsync(place)
            except OSError as error:
                os.unlink(temporary, dir_fd=place)
                raise PathRefused(f"{path!r} cannot be written: {error.strerror}.") from error

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Generator[int]:
        """An open directory below the root, reached without a link."""
        place = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts:
                if make:
                    try:
                        os.mkdir(part, 0o700, dir_fd=place)
                    except FileExistsError:
                        pass
                below = _open(part, os.O_RDONLY | os.O_DIRECTORY, place)
                os.close(place)
                place = below
            yield place
        finally:
            os.close(place)


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path; raises `PathRefused` for any that is not plainly below."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    wrong = (
        path.startswith("/")
        or not parts
        or len(parts) > DEPTH_MAX
        or any(_is_odd(part) for part in parts)
    )
    if wrong:
        raise PathRefused(
            f"{path[:100]!r} is not taken: give a path below the folder, such as notes/today.md, without "
            f"'..', hidden names, backslashes or control characters."
        )
    return parts


def _is_odd(part: str) -> bool:
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        return True
    odd = part.startswith(".") or "\\" in part or not part.isprintable() or part != part.strip()
    return odd or size > _NAME_BYTES_MAX or (len(part) > 1 and part[1] == ":")


def _open(name: str, flags: int, place: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {name!r} there: list_files tells what is.") from None
    except OSError as error:  # a link, a folder, a file in place of a folder
        raise PathRefused(f"{name!r} cannot be opened there: {error.strerror}.") from error


def _walk(place: int, above: str, depth: int) -> Iterator[FileEntry]:
    for name in sorted(os.listdir(place)):
        if _is_odd(name):
            continue
        path = f"{above}/{name}" if above else name
        try:
            found = os.stat(name, dir_fd=place, follow_symlinks=False)
        except FileNotFoundError:
            continue  # somebody has removed it meanwhile
        if stat.S_ISREG(found.st_mode):
            yield FileEntry(path=path, size=found.st_size)
        elif stat.S_ISDIR(found.st_mode) and depth:
            try:
                below = _open(name, os.O_RDONLY | os.O_DIRECTORY, place)
            except (PathRefused, FileNotFoundError):
                continue  # it may not be looked into, or is gone
            try:
                yield from _walk(below, path, depth - 1)
            finally:
                os.close(below)


@tool(timeout_s=30, reads_private=True)
def list_files(ctx: Context, query: ListQuery) -> Listing:
    """List the files of the workspace, with their sizes in bytes."""
    return ctx.resource(Folder).list(query.path)


@tool(timeout_s=30, reads_private=True)
def read_file(ctx: Context, query: ReadQuery) -> Page:
    """Read a text file of the workspace, or the next piece of it. Lines come with numbers, which are no
    part of the text."""
    text = ctx.resource(Folder).read(query.path).decode("utf-8", "replace")
    return piece_of(Document(id=query.path[:300], title=query.path, text=text), query.from_line)


@tool(timeout_s=30)
def write_file(ctx: Context, file: NewFile) -> Written:
    """Write a text file into the workspace; a file of the same path is replaced."""
    data = file.text.encode("utf-8", "replace")
    ctx.resource(Folder).write(file.path, data)
    return Written(path="/".join(parts_of(file.path)), size=len(data))
