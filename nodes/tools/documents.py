"""`Document`, and how files become documents: plain text, Markdown with a head, HTML."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

SUFFIXES: Final = frozenset({".txt", ".md", ".markdown", ".html", ".htm"})
DOCUMENTS_MAX: Final = 5_000
FILE_BYTES_MAX: Final = 2_000_000
CORPUS_BYTES_MAX: Final = 32_000_000
LINE_CHARACTERS_MAX: Final = 1_000


class Document(BaseModel):
    """A text with an id and a title. `unavailable` says why it can be found but not read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=300)
    title: str
    text: str = ""
    unavailable: str = ""

    def lines(self) -> list[str]:
        """The text line by line; lines of more than `LINE_CHARACTERS_MAX` are broken at spaces."""
        return list(_lines(self.text))


@lru_cache(maxsize=64)
def _lines(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for line in text.splitlines():
        while len(line) > LINE_CHARACTERS_MAX:
            space = line.rfind(" ", LINE_CHARACTERS_MAX // 2, LINE_CHARACTERS_MAX)
            end = space if space > 0 else LINE_CHARACTERS_MAX
            found.append(line[:end])
            line = line[end:].lstrip()
        found.append(line)
    return tuple(found)


def read_folder(folder: Path) -> list[Document]:
    """The documents of a folder, by path; raises `ValueError` if there are none, or too many.

    Neither links nor hidden files are followed, so that nothing outside the folder is read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with .txt, .md or .html files.")
    found: list[Document] = []
    size = 0
    for path in _files(folder):
        if len(found) == DOCUMENTS_MAX:
            raise ValueError(
                f"{folder} has more than {DOCUMENTS_MAX} documents: give a smaller one."
            )
        document = _read(path, path.relative_to(folder).as_posix())
        size += len(document.text)
        if size > CORPUS_BYTES_MAX:
            raise ValueError(
                f"{folder} has more than {CORPUS_BYTES_MAX // 1_000_000} MB of text: give a smaller one."
            )
        found.append(document)
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{folder} has no documents: none of its files ends in {kinds}.")
    return found


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            plain = not name.startswith(".") and path.suffix.lower() in SUFFIXES
            if plain and path.is_file() and not path.is_symlink():
                yield path


def _read(path: Path, id: str) -> Document:
    """A file as a document; what cannot be read is one that says why."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            why = f"its file has {size:,} bytes, at most {FILE_BYTES_MAX:,} are read."
            return Document(id=id, title=path.stem, unavailable=why)
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return Document(id=id, title=path.stem, unavailable="its file is not UTF-8 text.")
    except OSError as error:
        return Document(id=id, title=path.stem, unavailable=f"its file: {error.strerror}.")
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if path.suffix.lower() in (".html", ".htm"):
        return from_html(text, id)
    return from_markdown(text, id) if path.suffix.lower() != ".txt" else from_text(text, id)


def from_text(text: str, id: str) -> Document:
    """Plain text; its title is the file's name."""
    return Document(id=id, title=Path(id).stem, text=text.strip())


_HEAD: Final = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*\n", re.DOTALL | re.MULTILINE)
_TITLE: Final = re.compile(r"\A\s*#[ \t]+(.+?)[ \t]*#*[ \t]*(?:\n|\Z)")


def from_markdown(text: str, id: str) -> Document:
    """Markdown. A head of `key: value` lines between `---` may give `title` and `unavailable`.

    Without a title there the first heading is it, and is taken off the text.
    """
    text = text.replace("\r\n", "\n")
    head: dict[str, str] = {}
    if found := _HEAD.match(text):
        text = text[found.end() :]
        for line in found[1].splitlines():
            key, colon, value = line.partition(":")
            if colon:
                head[key.strip().lower()] = value.strip().strip("\"'")
    title = head.get("title", "")
    if not title and (heading := _TITLE.match(text)):
        title, text = heading[1], text[heading.end() :]
    return Document(
        id=id,
        title=title or Path(id).stem,
        text=text.strip(),
        unavailable=head.get("unavailable", ""),
    )


def from_html(text: str, id: str) -> Document:
    """What a page shows: a line for each block, without scripts and styles."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.shown).splitlines())
    title = " ".join("".join(reader.title).split())
    return Document(
        id=id, title=title or Path(id).stem, text="\n".join(line for line in lines if line)
    )


_SKIPPED: Final = frozenset({"script", "style", "template", "noscript", "svg"})
_INLINE: Final = frozenset(
    {
        "a",
        "abbr",
        "b",
        "bdi",
        "cite",
        "code",
        "em",
        "i",
        "mark",
        "q",
        "s",
        "small",
        "span",
        "strong",
    }
    | {"sub", "sup", "time", "u", "var", "wbr"}
)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shown: list[str] = []
        self.title: list[str] = []
        self._skipped = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipped += 1
        self._in_title = tag == "title"
        if tag not in _INLINE:
            self.shown.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED and self._skipped:
            self._skipped -= 1
        self._in_title = False
        if tag not in _INLINE:
            self.shown.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title and not self._skipped:
            self.title.append(data)
        elif not self._skipped:
            # A new line in the source is a space on the page.
            self.shown.append(" ".join(data.split("\n")))
