"""Where orders come from: the engine's database, a CSV, what a search finds, the sample that ships."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from flowkit import Context
from flowkit.nodes import tool
from flowkit.nodes.tools.sql import Database, QueryRefused, SqliteDatabase
from flowkit.nodes.tools.web import Refused, Searcher, Web
from flowkit.workflows.operations_report.tables import (
    BYTES_MAX,
    ROWS_MAX,
    SourceError,
    cells_of,
    decoded,
    lines_of,
)
from flowkit.workflows.operations_report.values import Line, Places, Source, Table

HITS_MAX = 5
_MONTHS_SHOWN = 36
_BRANDS_SHOWN = 50


@tool(timeout_s=120)
async def from_database(ctx: Context, places: Places) -> Table:
    """Orders by a SELECT from the engine's database, or from an SQLite file."""
    if places.csv:
        raise SourceError("database: the query names a CSV instead")
    database = _database(ctx, places)
    try:
        found = await anyio.to_thread.run_sync(database.query, places.sql, (), ROWS_MAX + 1)
    except QueryRefused as error:
        raise SourceError(f"database: {error}") from error
    name = Path(places.database).name if places.database else type(database).__name__
    return await _kept(ctx, Source(kind="database", name=name), [found.columns, *found.rows])


def _database(ctx: Context, places: Places) -> Database:
    if places.database:
        try:
            return SqliteDatabase(Path(places.database).expanduser(), timeout_s=60)
        except ValueError as error:
            raise SourceError(f"database: {error}") from error
    try:
        return ctx.resource(Database)
    except LookupError as error:
        raise SourceError("database: the engine has none, and the query names no file") from error


@tool(timeout_s=120)
async def from_csv(ctx: Context, places: Places) -> Table:
    """Orders from a CSV file, or from its address."""
    if not places.csv:
        raise SourceError("CSV: the query names none")
    try:
        if places.csv.startswith(("http://", "https://")):
            return await _fetched(ctx, places.csv, "csv")
        place = anyio.Path(places.csv).expanduser()
        expanded = await place
        if not await expanded.is_file():
            raise SourceError(f"there is no file {places.csv}")
        size = (await expanded.stat()).st_size
        if size > BYTES_MAX:
            raise SourceError(f"{places.csv} has {size:,} bytes, more than {BYTES_MAX:,}")
        return await _tabled(ctx, await expanded.read_bytes(), "csv", expanded.name)
    except (SourceError, OSError, Refused) as error:
        raise SourceError(f"CSV: {error}") from error


@tool(timeout_s=180)
async def from_search(ctx: Context, places: Places) -> Table:
    """Orders from the first of a search's hits that holds a table of them."""
    if not places.search:
        raise SourceError("search: the query asks for none")
    try:
        searcher = ctx.resource(Searcher)
    except LookupError as error:
        raise SourceError("search: the engine has no Searcher among its resources") from error
    try:
        hits = await searcher.search(_web(ctx), places.search, HITS_MAX)
    except (OSError, Refused) as error:
        raise SourceError(f"search: {error}") from error
    troubles: list[str] = []
    for hit in hits[:HITS_MAX]:
        try:
            return await _fetched(ctx, hit.id, "search")
        except (SourceError, OSError, Refused) as error:
            troubles.append(f"{hit.id[:120]}: {error}")
    raise SourceError(f"search: {'; '.join(troubles) or f'nothing found for {places.search!r}'}")


@tool(timeout_s=60)
async def from_sample(ctx: Context, places: Places) -> Table:
    """The invented orders that ship with flowkit, where nobody named real ones."""
    if not places.sample:
        raise SourceError(f"no source gave orders. {'. '.join(_failures(ctx))}.")
    data = files("flowkit.workflows.operations_report").joinpath("data", "orders.csv").read_bytes()
    return await _tabled(ctx, data, "sample", "orders.csv")


def _failures(ctx: Context) -> list[str]:
    """What failed in this step, each source once; those that nobody named are left out."""
    mine = [error for step in ctx.history() if step.key == ctx.step for error in step.errors]
    told = [error.partition("SourceError: ")[2] or error for error in mine]
    idle = ("the engine has none", "names none", "asks for none", "names a CSV instead")
    return list(
        dict.fromkeys(each.rstrip(".") for each in told if not any(i in each for i in idle))
    )


# ---- what they share


def _web(ctx: Context) -> Web:
    if importlib.util.find_spec("httpcore2") is None:
        raise SourceError('addresses need httpcore2: pip install "flowkit-agents[web]"')
    try:
        return ctx.resource(Web)
    except LookupError:
        return Web(bytes_max=BYTES_MAX)


async def _fetched(ctx: Context, url: str, kind: str) -> Table:
    answer = await _web(ctx).get(url, accept="text/csv, text/plain, text/html;q=0.5")
    if answer.status != 200:
        raise SourceError(f"{url[:200]} answers HTTP {answer.status}")
    if answer.cut:
        raise SourceError(f"{url[:200]} has more bytes than are read")
    if kind == "search" and "html" in answer.media_type:
        text, encoding = await anyio.to_thread.run_sync(_page, answer.body, answer.charset)
        rows = await anyio.to_thread.run_sync(_page_table, text)
        return await _kept(ctx, Source(kind="search", name=answer.url, encoding=encoding), rows)
    return await _tabled(ctx, answer.body, kind, answer.url)


def _page(data: bytes, charset: str) -> tuple[str, str]:
    for encoding in (charset or "utf-8", "gb18030"):
        try:
            return data.decode(encoding), encoding
        except (LookupError, UnicodeError):
            continue
    raise SourceError("the page's bytes are in no encoding that is known")


def _page_table(text: str) -> list[list[str]]:
    """The longest table of a page."""
    if importlib.util.find_spec("lxml") is None:
        raise SourceError('a page\'s tables need lxml: pip install "flowkit-agents[workflows]"')
    from lxml import etree

    tree: Any = etree.fromstring(text.encode(), etree.HTMLParser(encoding="utf-8"))
    found: list[list[list[str]]] = [
        [[" ".join("".join(cell.itertext()).split()) for cell in row.xpath("./td|./th")]
         for row in table.xpath(".//tr")]
        for table in tree.xpath("//table")
    ]  # fmt: skip
    if not found:
        raise SourceError("a web page without a table")
    return max(found, key=len)


async def _tabled(ctx: Context, data: bytes, kind: str, name: str) -> Table:
    text, encoding = await anyio.to_thread.run_sync(decoded, data)
    source = Source.model_validate(
        {"kind": kind, "name": name[:300], "encoding": encoding, "sample": kind == "sample"}
    )
    return await _kept(ctx, source, await anyio.to_thread.run_sync(cells_of, text))


async def _kept(ctx: Context, source: Source, rows: Sequence[Sequence[object]]) -> Table:
    try:
        lines, notes = await anyio.to_thread.run_sync(lines_of, rows)
    except SourceError as error:
        raise SourceError(f"{source.name}: {error}") from error
    months = sorted({f"{line.day:%Y-%m}" for line in lines})
    return Table(
        source=source,
        rows=await ctx.artifact(
            written(lines), name="orders.jsonl", media_type="application/jsonl"
        ),
        count=len(lines),
        brands=sorted({line.brand for line in lines if line.brand})[:_BRANDS_SHOWN],
        months=months[-_MONTHS_SHOWN:],
        notes=notes,
    )


def written(lines: Sequence[Line]) -> str:
    """Lines as JSON lines."""
    return "".join(f"{line.model_dump_json(exclude_defaults=True)}\n" for line in lines)


def lines_from(data: bytes) -> list[Line]:
    """What `written` wrote."""
    return [Line.model_validate_json(line) for line in data.splitlines() if line]
