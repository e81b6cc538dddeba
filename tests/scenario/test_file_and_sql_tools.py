"""The tools for files and databases: what they do, and that nothing leads out of the root or changes a row."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import Engine, Ref, StepFailed, workflow
from flowkit.nodes.tools.corpus import Page
from flowkit.nodes.tools.files import (
    Folder,
    Listing,
    ListQuery,
    NewFile,
    PathRefused,
    ReadQuery,
    Written,
    list_files,
    parts_of,
    read_file,
    write_file,
)
from flowkit.nodes.tools.sql import (
    NoInput,
    QueryRefused,
    Rows,
    SqliteDatabase,
    SqlQuery,
    Tables,
    describe_tables,
    sql,
)
from flowkit.store import MemoryStore

OUT = [
    "../secret", "a/../../secret", "/etc/passwd", "//etc/passwd", "a/..", "..", ".", "", "./..", "a/./../..",
    "..\\secret", "a\\..\\..\\secret", "C:\\secret", "C:/secret", "C:secret", ".hidden", "a/.git/x",
    "a\0b", "a\nb", "a\x1b[31m", " a", "a ", "a/ b", "x" * 201, "/".join(["d"] * 30), "\u2028", "\u202ea",
    "..%2fsecret/../..", "....//....//secret/..", "link", "link/secret", "deep/link", "deep/link/secret",
    "\ud800", "dangling", "fifo",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "a").mkdir()
    (root / "deep" / "file.txt").write_text("one\ntwo\n")
    (root / "link").symlink_to(tmp_path)
    (root / "deep" / "link").symlink_to(tmp_path / "secret")
    (root / "dangling").symlink_to(root / "nowhere")
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize("path", OUT)
def test_no_path_leads_out_of_the_folder(root: Path, path: str) -> None:
    folder = Folder(root)
    with pytest.raises((PathRefused, FileNotFoundError)):
        folder.read(path)
    before = sorted(str(each) for each in root.parent.rglob("*"))
    if path not in ("link", "dangling", "fifo", "deep/link"):
        with pytest.raises((PathRefused, FileNotFoundError)):
            folder.write(path, b"x")
        assert sorted(str(each) for each in root.parent.rglob("*")) == before


def test_a_link_is_replaced_and_not_written_through(root: Path) -> None:
    Folder(root).write("deep/link", b"new")
    assert (root.parent / "secret").read_text() == "secret"
    assert not (root / "deep" / "link").is_symlink()


@given(st.text(max_size=60))
def test_a_path_is_refused_or_plainly_below(path: str) -> None:
    try:
        parts = parts_of(path)
    except PathRefused:
        return
    assert parts
    assert all(
        part not in ("", ".", "..") and "/" not in part and "\0" not in part for part in parts
    )


def test_files_are_private_and_written_whole(root: Path) -> None:
    folder = Folder(root)
    folder.write("new/below/x.md", b"text")
    made = root / "new" / "below" / "x.md"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    folder.write("new/below/x.md", b"other")
    assert made.read_bytes() == b"other"
    assert [each.name for each in made.parent.iterdir()] == ["x.md"]
    with pytest.raises(PathRefused, match="cannot be written"):
        folder.write("new/below", b"x")
    with pytest.raises(PathRefused, match="read-only"):
        Folder(root, writable=False).write("y", b"x")
    with pytest.raises(PathRefused, match="at most 2,000,000 bytes"):
        folder.write("large", b"x" * 2_000_001)


def test_what_is_listed_are_plain_files_below(root: Path) -> None:
    (root / ".hidden").write_text("x")
    assert [each.path for each in Folder(root).list().files] == ["deep/file.txt"]
    for number in range(510):
        (root / "a" / f"{number}").write_text("")
    found = Folder(root).list("a")
    assert len(found.files) == 500
    assert "more than 500" in found.note
    with pytest.raises(ValueError, match="is no folder"):
        Folder(root / "nowhere")


@workflow
def listing(query: Ref[ListQuery]) -> Ref[Listing]:
    return list_files(query)


@workflow
def reading(query: Ref[ReadQuery]) -> Ref[Page]:
    return read_file(query)


@workflow
def writing(file: Ref[NewFile]) -> Ref[Written]:
    return write_file(file)


async def test_the_file_tools_tell_the_model_what_to_do(root: Path) -> None:
    async with Engine(MemoryStore(), resources=[Folder(root)]) as engine:
        assert (await engine.run(listing, ListQuery())).files[0].path == "deep/file.txt"
        page = await engine.run(reading, ReadQuery(path="deep/file.txt"))
        assert page.text == "1| one\n2| two"
        written = await engine.run(writing, NewFile(path="./out//b.txt", text="灯塔"))
        assert (written.path, written.size) == ("out/b.txt", 6)
        with pytest.raises(StepFailed, match="list_files tells what is"):
            await engine.run(reading, ReadQuery(path="deep/nothing.txt"))
        with pytest.raises(StepFailed, match=r"give a path below the folder"):
            await engine.run(reading, ReadQuery(path="../secret"))


# ---- sql


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "sales.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sales (brand TEXT, amount REAL, raw BLOB)")
        rows = [(f"b{n % 7}", n * 1.5, b"x") for n in range(1000)]
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?)", rows)
    connection.close()
    return path


CHANGES = [
    "INSERT INTO sales VALUES ('x', 1, NULL)", "UPDATE sales SET amount = 0", "DELETE FROM sales",
    "DROP TABLE sales", "CREATE TABLE t (a)", "ALTER TABLE sales ADD COLUMN c", "ATTACH 'other.db' AS o",
    "PRAGMA writable_schema = ON", "PRAGMA journal_mode = DELETE", "VACUUM", "VACUUM INTO 'copy.db'", "REINDEX",
    "SELECT 1; DROP TABLE sales", "BEGIN; DELETE FROM sales; COMMIT", "SELECT load_extension('x')",
    "WITH d AS (SELECT 1) DELETE FROM sales", "EXPLAIN DELETE FROM sales", "CREATE TEMP TABLE t (a)",
    "INSERT INTO sales SELECT * FROM sales", "REPLACE INTO sales VALUES (1, 2, 3)", "SAVEPOINT a",
    "CREATE TRIGGER t AFTER INSERT ON sales BEGIN SELECT 1; END", "SELECT writefile('x', 'y')", "", ";", "nonsense",
    "SELECT * FROM nothing", "SELECT ?", "PRAGMA table_info(sales)",
]  # fmt: skip


@pytest.mark.parametrize("query", CHANGES)
def test_no_query_changes_anything(database: Path, query: str) -> None:
    before = database.read_bytes()
    with pytest.raises(QueryRefused):
        SqliteDatabase(database).query(query, [])
    assert database.read_bytes() == before
    assert sorted(each.name for each in database.parent.iterdir()) == ["sales.db"]


def test_what_a_query_gives_is_capped_and_can_be_stored(database: Path) -> None:
    source = SqliteDatabase(database, timeout_s=0.3)
    found = source.query("SELECT brand, raw FROM sales", [])
    assert (len(found.rows), found.columns) == (200, ["brand", "raw"])
    assert "more than 200 rows" in found.note
    assert found.rows[0] == ["b0", "[1 bytes]"]
    odd = source.query(
        "SELECT 9223372036854775807, 9e999, -9e999, ?, hex(?), NULL", ["x" * 900, "灯"]
    )
    assert odd.rows[0][:3] == ["9223372036854775807", "inf", "-inf"]
    assert len(str(odd.rows[0][3])) == 500
    assert odd.note == "cells cut to 500 characters: 1, which end in …"
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    with pytest.raises(QueryRefused, match=r"took longer than 0\.3 s"):
        source.query(endless, [])
    summed = source.query("SELECT brand, sum(amount) FROM sales WHERE brand = ? GROUP BY 1", ["b1"])
    assert summed.rows[0][0] == "b1"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT length(hex(zeroblob(400000000)))", "more than 1,000,000 bytes"),
        (
            "SELECT group_concat(brand || hex(zeroblob(600))) FROM sales",
            "more than 1,000,000 bytes",
        ),
        (f"SELECT {','.join(['brand'] * 101)} FROM sales", "too many columns"),
        (
            "SELECT json_group_array(hex(zeroblob(400000))) FROM sales",
            "not authorized to use function",
        ),
    ],
)
def test_a_query_cannot_take_the_host_s_memory(database: Path, query: str, why: str) -> None:
    with pytest.raises(QueryRefused, match=why):
        SqliteDatabase(database).query(query, [])


def test_an_answer_is_no_longer_than_what_a_journal_should_hold(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(f"CREATE TABLE wide ({','.join(f'c{n}' for n in range(300))})")
        connection.execute("INSERT INTO wide (c299) VALUES ('there')")
    connection.close()
    source = SqliteDatabase(database)
    wide = ",".join(["printf('%500s', brand)"] * 90)
    found = source.query(f"SELECT {wide} FROM sales", [])
    assert len(found.rows) == 2
    assert "more than 100,000 characters, so only 2 rows" in found.note
    assert source.query("SELECT c0, c299 FROM wide", []).rows == [[None, "there"]]


def test_the_file_itself_is_opened_read_only(database: Path) -> None:
    readonly = pytest.raises(sqlite3.OperationalError, match="readonly")
    with closing(SqliteDatabase(database)._connect()) as connection, readonly:
        connection.execute("DELETE FROM sales")


@workflow
def asking(query: Ref[SqlQuery]) -> Ref[Rows]:
    return sql(query)


@workflow
def describing(query: Ref[NoInput]) -> Ref[Tables]:
    return describe_tables(query)


async def test_the_sql_tools_answer_by_the_host_s_database(database: Path, tmp_path: Path) -> None:
    async with Engine(MemoryStore(), resources=[SqliteDatabase(database)]) as engine:
        tables = await engine.run(describing, NoInput())
        assert [(each.name, each.columns) for each in tables.tables] == [
            ("sales", ["brand TEXT", "amount REAL", "raw BLOB"])
        ]
        found: Any = await engine.run(asking, SqlQuery(query="SELECT count(*) AS n FROM sales"))
        assert (found.columns, found.rows) == (["n"], [[1000]])
        with pytest.raises(StepFailed, match="nothing here can be changed"):
            await engine.run(asking, SqlQuery(query="DELETE FROM sales"))
    async with Engine(MemoryStore()) as engine:
        with pytest.raises(StepFailed, match="the engine was given no Database"):
            await engine.run(describing, NoInput())
    with pytest.raises(ValueError, match="is no file"):
        SqliteDatabase(tmp_path / "nothing.db")
