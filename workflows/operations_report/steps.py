"""The steps of the report: thin nodes over the plain functions beside them."""

from __future__ import annotations

import datetime as dt
import importlib.util
import unicodedata
from functools import partial

import anyio.to_thread

from flowkit import Context, Reject
from flowkit.model import OfflineModel
from flowkit.nodes import tool, verifier
from flowkit.workflows.operations_report import findings
from flowkit.workflows.operations_report.metrics import month_before
from flowkit.workflows.operations_report.printing import NoPdf, Printer
from flowkit.workflows.operations_report.recount import number_faults
from flowkit.workflows.operations_report.sources import lines_from, written
from flowkit.workflows.operations_report.tables import SourceError
from flowkit.workflows.operations_report.values import (
    Charts,
    Line,
    Numbers,
    OperationsReport,
    Pages,
    Pdf,
    Places,
    Read,
    Reading,
    ReportQuery,
    Sales,
    Scope,
    Table,
)

FAULTS_MAX = 8


@tool
async def places(ctx: Context, query: ReportQuery) -> Places:
    """Where the orders may be had."""
    return Places(csv=query.csv, database=query.database, sql=query.sql, search=query.search)


@tool
async def scope(ctx: Context, query: ReportQuery) -> Scope:
    """Whose month is reported, and in which language."""
    return Scope.of(query)


@tool(timeout_s=120)
async def sales(ctx: Context, table: Table, scope: Scope) -> Sales:
    """The brand's orders up to the month's end."""
    lines = await anyio.to_thread.run_sync(lines_from, await ctx.read(table.rows))
    mine = _of_brand(lines, table, scope.brand)
    told = [line for line in mine if f"{line.day:%Y-%m}" <= scope.month]
    if not any(f"{line.day:%Y-%m}" == scope.month for line in told):
        months = sorted({f"{line.day:%Y-%m}" for line in mine})
        raise SourceError(
            f"{table.source.name}: {scope.brand} has no orders in {scope.month}; there are orders of "
            f"{', '.join(months[-12:])}"
        )
    days = [line.day for line in told]
    text = await anyio.to_thread.run_sync(written, told)
    before = month_before(scope.month)
    return Sales(
        source=table.source,
        rows=await ctx.artifact(text, name="sales.jsonl", media_type="application/jsonl"),
        first_day=min(days),
        last_day=max(days),
        lines=len(told),
        month_before=any(f"{day:%Y-%m}" == before for day in days),
        notes=[*table.notes, *_period_notes(mine, scope)],
    )


def _of_brand(lines: list[Line], table: Table, brand: str) -> list[Line]:
    if not table.brands:
        return lines
    wanted = _folded(brand)
    mine = [line for line in lines if _folded(line.brand) == wanted]
    if not mine:
        raise SourceError(
            f"{table.source.name}: no orders of a brand {brand!r}; there are {', '.join(table.brands[:20])}"
        )
    return mine


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _period_notes(mine: list[Line], scope: Scope) -> list[tuple[str, str]]:
    """What the data's first and last days mean for the numbers."""
    first, last = min(line.day for line in mine), max(line.day for line in mine)
    month = dt.date.fromisoformat(f"{scope.month}-01")
    after = (month + dt.timedelta(days=32)).replace(day=1)
    notes: list[tuple[str, str]] = []
    if (month - first).days < 365:
        notes.append(("short_past", first.isoformat()))
    if last < after - dt.timedelta(days=3):  # the last days may well be without orders
        notes.append(("partial", last.isoformat()))
    return notes


@tool(timeout_s=120)
async def numbers(ctx: Context, sales: Sales, scope: Scope) -> Numbers:
    """GMV, average order value, repeat-purchase rate and the numbers beside them, by pandas."""
    _need("pandas")
    from flowkit.workflows.operations_report.metrics import measure

    lines = await anyio.to_thread.run_sync(lines_from, await ctx.read(sales.rows))
    return await anyio.to_thread.run_sync(measure, lines, scope.month)


@verifier(timeout_s=120)
async def numbers_recounted(ctx: Context, numbers: Numbers, sales: Sales, scope: Scope) -> None:
    """Each number again from the rows, by other code; both must agree."""
    lines = await anyio.to_thread.run_sync(lines_from, await ctx.read(sales.rows))
    _reject(await anyio.to_thread.run_sync(number_faults, numbers, lines, scope.month))


@tool(timeout_s=600)
async def read_by_model(ctx: Context, numbers: Numbers, scope: Scope) -> Read:
    """Problems and opportunities by the model."""
    return await _by_model(ctx, numbers, scope)


@tool(timeout_s=600)
async def mended_by_model(ctx: Context, numbers: Numbers, scope: Scope) -> Read:
    """The same, asked again with why the first was refused."""
    return await _by_model(ctx, numbers, scope)


async def _by_model(ctx: Context, numbers: Numbers, scope: Scope) -> Read:
    asked = findings.prompt(numbers, scope, ctx.feedback)
    reading: Reading = await ctx.model.complete(asked, returns=Reading)
    name = ctx.model.name
    computed = name == OfflineModel({}).name
    return Read(reading=reading, author=name, computed=computed, refused=list(ctx.feedback))


@tool
async def read_by_rules(ctx: Context, numbers: Numbers, scope: Scope) -> Read:
    """Problems and opportunities by fixed rules, where a model gives none that hold."""
    reading = findings.read_by_rules(numbers, scope.language)
    return Read(reading=reading, author="flowkit", computed=True, refused=list(ctx.feedback))


@verifier
async def findings_hold(ctx: Context, read: Read, numbers: Numbers, scope: Scope) -> None:
    """Every finding rests on a number that was computed, and no text holds one of its own."""
    _reject(findings.reading_faults(read.reading, numbers, scope.brand))


def _reject(faults: list[str]) -> None:
    if faults:
        more = f"; and {len(faults) - FAULTS_MAX} more" if len(faults) > FAULTS_MAX else ""
        raise Reject("; ".join(faults[:FAULTS_MAX]) + more)


@tool(timeout_s=120)
async def pages(
    ctx: Context, scope: Scope, table: Table, sales: Sales, numbers: Numbers, read: Read, charts: Charts
) -> Pages:  # fmt: skip
    """The report as Markdown, and as an HTML page that stands alone."""
    _need("jinja2")
    from flowkit.workflows.operations_report.report import render
    from flowkit.workflows.operations_report.told import Told

    told = Told(
        scope=scope,
        table=table,
        sales=sales,
        numbers=numbers,
        read=read,
        charts=charts,
        pictures=[await ctx.read(each) for each in charts.pictures],
        steps=[step for step in ctx.history() if step.key != ctx.step],
        model=ctx.model.name,
        run_id=ctx.run_id,
        written_at=dt.datetime.now(dt.UTC),
    )
    text = await anyio.to_thread.run_sync(partial(render, told, "report.md.j2"))
    page = await anyio.to_thread.run_sync(partial(render, told, "report.html.j2"))
    return Pages(
        title=told.title,
        fallbacks=told.fallbacks,
        models=told.models,
        markdown=await ctx.artifact(text, name="report.md", media_type="text/markdown"),
        html=await ctx.artifact(page, name="report.html", media_type="text/html"),
    )


@tool(timeout_s=180)
async def to_pdf(ctx: Context, pages: Pages) -> Pdf:
    """The page as PDF by the system's Chromium."""
    try:
        printer = ctx.resource(Printer)
    except LookupError:
        printer = Printer.found()
    try:
        data, count = await printer.print(await ctx.read(pages.html))
    except NoPdf as reason:
        return Pdf(why_not=str(reason))
    kept = await ctx.artifact(data, name="report.pdf", media_type="application/pdf")
    maker = printer.program.name if printer.program else ""
    return Pdf(pdf=kept, pages=count, maker=maker)


@tool
async def finish(
    ctx: Context, scope: Scope, sales: Sales, numbers: Numbers, read: Read, charts: Charts,
    pages: Pages, pdf: Pdf,
) -> OperationsReport:  # fmt: skip
    """The report's files with its main numbers."""
    known = numbers.by_id()
    told = [
        (each.kind, findings.filled(each.claim, numbers, scope.language, scope.currency))
        for each in read.reading.findings
    ]
    missing = [f"PDF: {pdf.why_not}; the HTML page prints as well"] if pdf.pdf is None else []
    return OperationsReport(
        title=pages.title,
        brand=scope.brand,
        month=scope.month,
        gmv=known["gmv"].value or 0.0,
        average_order_value=known["aov"].value,
        repeat_purchase_rate=known["repeat_rate"].value,
        problems=[claim for kind, claim in told if kind == "problem"],
        opportunities=[claim for kind, claim in told if kind == "opportunity"],
        source=sales.source.name,
        models=pages.models,
        computed=read.computed,
        fallbacks=[*pages.fallbacks, *missing],
        markdown=pages.markdown,
        html=pages.html,
        pdf=pdf.pdf,
        charts=charts.pictures,
    )


def _need(*modules: str) -> None:
    """Say what to install, instead of a bare ModuleNotFoundError."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'the report needs {", ".join(missing)}: pip install "flowkit-agents[workflows]"'
        )
