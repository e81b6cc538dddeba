"""Searching and reading documents: what is found, what is refused, and that no query can do harm."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import Engine, Ref, StepFailed, workflow
from flowkit.nodes.tools import Corpus, Document, corpus_search, documents, read_page
from flowkit.nodes.tools.corpus import (
    PIECE_CHARACTERS,
    Hits,
    Page,
    PageQuery,
    SearchQuery,
    Unavailable,
    UnknownDocument,
)
from flowkit.nodes.tools.documents import from_html, from_markdown
from flowkit.store import MemoryStore

BELL = Document(
    id="bell.md",
    title="Bell Rock",
    text="The light was first lit on 1 February 1811.\nThe tower is 35 metres tall.\nCafé au lait.",
)
PHAROS = Document(
    id="pharos.md", title="Pharos", text="Lighthouses stood here; the Bell Rock came later."
)
CHINESE = Document(
    id="灯塔.md", title="灯塔的历史", text="世界上最高的灯塔位于吉达，高一百三十三米。"
)
THAI = Document(id="thai.md", title="ประภาคาร", text="ประภาคารแหลมพรหมเทพตั้งอยู่ที่ภูเก็ต")
GONE = Document(id="gone.md", title="Survey", text="A survey of it.", unavailable="moved.")
CORPUS = Corpus([BELL, PHAROS, CHINESE, THAI, GONE])


def found(query: str) -> list[str]:
    return [hit.id for hit in CORPUS.search(query).hits]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("bell rock", ["bell.md", "pharos.md"]),
        ("LIGHTHOUSE", ["pharos.md"]),  # a plural, by the stemmer
        ("cafe", ["bell.md"]),
        ("35", ["bell.md"]),
        ("灯塔", ["灯塔.md"]),
        ("最高的灯塔", ["灯塔.md"]),
        ("史", ["灯塔.md"]),  # the last character of a run
        ("吉", ["灯塔.md"]),
        ("ภูเก็ต", ["thai.md"]),
        ("survey", ["gone.md"]),  # what cannot be read can be found
        ("zebra", []),
    ],
)
def test_search(query: str, ids: list[str]) -> None:
    assert found(query) == ids


def test_a_title_counts_more_than_a_mention() -> None:
    first, second = CORPUS.search("Bell").hits
    assert (first.id, second.id) == ("bell.md", "pharos.md")
    assert first.score > second.score > 0


def test_nothing_found_says_what_to_try() -> None:
    hits = CORPUS.search("zebra crossing")
    assert (hits.hits, hits.documents) == ([], 5)
    assert "other words" in hits.note


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "bell AND",
        "NEAR(bell rock)",
        "title:bell",
        "bell*",
        "-bell",
        "^bell",
        '"bell" OR (',
        "'",
    ],
)
def test_the_syntax_of_the_index_is_only_words(query: str) -> None:
    if query in ('"', "'"):
        with pytest.raises(ValueError, match="no word in the query"):
            found(query)
    else:
        assert set(found(query)) == {"bell.md", "pharos.md"}


@given(st.text(min_size=1, max_size=80))
def test_any_query_is_safe(query: str) -> None:
    if any(letter.isalnum() for letter in query):
        assert len(CORPUS.search(query, limit=3).hits) <= 3
    else:
        with contextlib.suppress(ValueError):  # a mark alone is a word, too
            CORPUS.search(query, limit=3)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=4), st.text(min_size=1, max_size=10))
def test_what_is_in_a_text_is_found_by_its_words(texts: list[str], query: str) -> None:
    corpus = Corpus([Document(id=str(n), title="", text=text) for n, text in enumerate(texts)])
    try:
        hits = corpus.search(query, limit=20)
    except ValueError:
        return
    assert {hit.id for hit in hits.hits} <= {str(n) for n in range(len(texts))}
    assert all(len(hit.snippet) < 300 for hit in hits.hits)


@given(st.text(alphabet="灯塔历史长江大桥", min_size=1, max_size=12), st.data())
def test_every_piece_of_a_chinese_text_is_found(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    corpus = Corpus([Document(id="a", title="x", text=text)])
    assert [hit.id for hit in corpus.search(text[start:end]).hits] == ["a"]


def test_a_snippet_is_where_the_words_are() -> None:
    text = "Nothing here. " * 200 + "The zebra crossed at noon. " + "Nothing there. " * 200
    hit = Corpus([Document(id="a", title="t", text=text)]).search("zebra crossed").hits[0]
    assert "The zebra crossed at noon." in hit.snippet
    assert hit.snippet.startswith("… ")
    assert hit.snippet.endswith(" …")
    assert len(hit.snippet) < 260


# ---- reading


def test_a_page_has_numbered_lines() -> None:
    page = CORPUS.read("bell.md", 2)
    assert page.text == "2| The tower is 35 metres tall.\n3| Café au lait."
    assert (page.from_line, page.to_line, page.lines, page.next_line) == (2, 3, 3, None)


@given(st.lists(st.text(alphabet="ab c", max_size=2500), min_size=1, max_size=12))
def test_the_pieces_of_a_page_are_the_whole_page(lines: list[str]) -> None:
    document = Document(id="a", title="t", text="\n".join(lines))
    corpus = Corpus([document])
    got: list[str] = []
    line: int | None = 1
    while line is not None:
        page = corpus.read("a", line)
        assert len(page.text) <= PIECE_CHARACTERS + 20
        assert page.from_line == line
        got += [each.partition("| ")[2] for each in page.text.splitlines()]
        assert page.next_line is None or page.next_line > line
        line = page.next_line
    assert "".join("".join(got).split()) == "".join("".join(lines).split())


def test_a_text_without_lines_is_broken_at_spaces() -> None:
    lines = Document(id="a", title="t", text="word " * 1000).lines()
    assert max(map(len, lines)) <= documents.LINE_CHARACTERS_MAX
    assert all(line.split()[0] == "word" for line in lines)


@pytest.mark.parametrize("id", ["../bell.md", "/etc/passwd", "bell", "bell.md/../../x", "", "."])
def test_an_id_is_a_key_and_never_a_path(id: str) -> None:
    with pytest.raises(UnknownDocument, match="no document has the id"):
        CORPUS.read(id)


def test_errors_of_reading_teach() -> None:
    with pytest.raises(UnknownDocument, match=r"did you mean bell\.md"):
        CORPUS.read("bells.md")
    with pytest.raises(Unavailable, match=r"gone\.md \(Survey\) cannot be read: moved\."):
        CORPUS.read("gone.md")
    with pytest.raises(ValueError, match="has 3 lines, there is no line 9"):
        CORPUS.read("bell.md", 9)
    given: list[Any] = ["handbook", ["handbook"]]
    for each in given:
        with pytest.raises(ValueError, match=r"of a folder: Corpus\.from_folder"):
            Corpus(each)
    with pytest.raises(ValueError, match=r"two documents have the id 'bell\.md'"):
        Corpus([BELL, BELL])


def test_a_corpus_is_the_same_after_json() -> None:
    data = CORPUS.to_json()
    again = Corpus.from_json(data)
    assert list(again) == list(CORPUS)
    assert again.to_json() == data
    with pytest.raises(ValueError, match="validation error"):
        Corpus.from_json(b'[{"id": "a"}]')


def test_threads_may_share_a_corpus() -> None:
    problems: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(50):
                assert found("bell rock") == ["bell.md", "pharos.md"]
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


# ---- folders


def test_a_folder_becomes_documents(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text("# The title #\n\nText of a.\n", "utf-8")
    (tmp_path / "sub" / "b.txt").write_bytes("\ufeffText of b.\n".encode())
    (tmp_path / "c.html").write_text(
        "<html><head><title>Page &amp; title</title><style>p {}</style></head><body><h1>Big</h1>"
        "<p>One <b>bold</b>\nword.<p>Two<script>var x = 'no';</script><br>three &lt;",
        "utf-8",
    )
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / ".hidden.md").write_text("hidden")
    (tmp_path / "data.csv").write_text("no document")
    found = {each.id: each for each in Corpus.from_folder(tmp_path)}
    assert list(found) == ["a.md", "c.html", "latin.txt", "sub/b.txt"]
    assert (found["a.md"].title, found["a.md"].text) == ("The title", "Text of a.")
    assert (found["sub/b.txt"].title, found["sub/b.txt"].text) == ("b", "Text of b.")
    assert found["c.html"].title == "Page & title"
    assert found["c.html"].text == "Big\nOne bold word.\nTwo\nthree <"
    assert found["latin.txt"].unavailable == "its file is not UTF-8 text."


def test_nothing_outside_a_folder_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("do not read")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("fine")
    (folder / "link.txt").symlink_to(secret / "key.txt")
    (folder / "away").symlink_to(secret)
    assert [each.id for each in Corpus.from_folder(folder)] == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_opened_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.txt").chmod(0)
    (document,) = Corpus.from_folder(tmp_path)
    assert document.unavailable == "its file: Permission denied."


def test_what_is_no_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        Corpus.from_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="has no documents"):
        Corpus.from_folder(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("some text")
    monkeypatch.setattr(documents, "DOCUMENTS_MAX", 2)
    with pytest.raises(ValueError, match="more than 2 documents"):
        Corpus.from_folder(tmp_path)
    monkeypatch.setattr(documents, "DOCUMENTS_MAX", 9)
    monkeypatch.setattr(documents, "FILE_BYTES_MAX", 5)
    assert "at most 5 are read" in next(iter(Corpus.from_folder(tmp_path))).unavailable


def test_the_head_of_a_file_names_it() -> None:
    text = '---\ntitle: "A: b"\nunavailable: not now.\nother\n---\n# Heading\nBody.\n'
    found = from_markdown(text, "x.md")
    assert (found.title, found.unavailable, found.text) == ("A: b", "not now.", "# Heading\nBody.")
    assert from_markdown("Just text.", "dir/x.md").title == "x"


@given(st.text(max_size=300))
def test_any_text_is_read_as_a_page(text: str) -> None:
    for read in (from_html, from_markdown):
        found = read(text, "a")
        assert found.id == "a"
        assert found.title


# ---- as tools


@workflow
def look_up(query: Ref[SearchQuery]) -> Ref[Hits]:
    return corpus_search(query)


@workflow
def read_it(query: Ref[PageQuery]) -> Ref[Page]:
    return read_page(query)


async def test_the_tools_get_the_corpus_of_the_engine() -> None:
    async with Engine(MemoryStore(), resources=[CORPUS]) as engine:
        hits = await engine.run(look_up, SearchQuery(query="bell rock", limit=1))
        page = await engine.run(read_it, PageQuery(id="bell.md"))
    assert [hit.id for hit in hits.hits] == ["bell.md"]
    assert page.title == "Bell Rock"
    async with Engine(MemoryStore()) as engine:
        with pytest.raises(StepFailed, match="the engine was given no Corpus"):
            await engine.run(look_up, SearchQuery(query="bell rock"))
