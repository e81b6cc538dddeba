"""The monthly report, whole: sources that fail, a model that errs, charts that do not come, a crash."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import anyio
import pytest

from flowkit import Context, Engine, StepFailed, Workflow
from flowkit.chat import ModelRequest
from flowkit.model import OfflineModel
from flowkit.model.offline import facts
from flowkit.nodes import tool
from flowkit.nodes.tool import Tool
from flowkit.nodes.tools.corpus import Hit
from flowkit.nodes.tools.python import Code, PythonResult, SandboxUnavailable
from flowkit.nodes.tools.sql import SqliteDatabase
from flowkit.nodes.tools.web import Searcher, Web
from flowkit.store import MemoryStore
from flowkit.testing import ScriptedModel, crash_everywhere
from flowkit.workflows import shipped
from flowkit.workflows.operations_report import (
    EXAMPLE,
    OFFLINE_RULES,
    VOLATILE,
    OperationsReport,
    Printer,
    ReportQuery,
    reported,
)
from tests.scenario.kit import crashed
from tests.unit.test_stock_web import Loopback

OFFLINE = OfflineModel(OFFLINE_RULES)
NO_PRINTER = Printer(None, "this test prints nothing")

CSV = "order_id,order_date,customer_id,brand,channel,amount,status\n" + "".join(
    f"{number},2026-0{2 + number % 2}-{1 + number % 28:02},c{number % 7},Acme,{('Web', 'Shop')[number % 3 // 2]},"
    f"{100 + number}.00,{'cancelled' if number % 9 == 3 else 'paid'}\n"
    for number in range(60)
)
QUERY = ReportQuery(brand="Acme", month="2026-03", language="en")


# ---- programs without a sandbox: what a good and a bad one would give


def png(width: int = 1400, height: int = 500) -> bytes:
    """A picture with something on it."""
    rows = b"".join(b"\0" + bytes((x * y) % 251 for x in range(width)) for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


PNG = png()


def runs(
    spoil: Callable[[PythonResult], PythonResult] = lambda result: result,
    *,
    picture: bytes = PNG,
    only: str = "",
) -> Tool[Code, PythonResult]:
    """A tool that gives what a right program would, spoilt for programs that hold a text."""

    @tool
    async def run_python(ctx: Context, code: Code) -> PythonResult:
        """Draw."""
        data = json.loads(await ctx.read(code.files[0]))
        parts = [value for _, value in data["channels"] + data["categories"]]
        totals = {
            "daily.png": sum(gmv + net for _, gmv, net in data["days"]),
            "channels.png": sum(parts),
            "buyers.png": data["new_buyers"] + data["returning_buyers"],
        }
        files = [await ctx.artifact(picture, name=name, media_type="image/png") for name in totals]
        files.append(await ctx.artifact(data["language"], name="labels.txt"))
        result = PythonResult(ok=True, value=json.dumps(totals), files=files)
        return spoil(result) if only in code.code else result

    return run_python


@tool(name="run_python")
async def no_sandbox(ctx: Context, code: Code) -> PythonResult:
    """Nothing here runs it."""
    raise SandboxUnavailable("there is no sandbox on this machine")


# ---- a model with a script


def reading(**change: Any) -> dict[str, Any]:
    return {
        "summary": "GMV rose to {gmv}, a change of {gmv.change} against {gmv.before}.",
        "findings": [
            {"kind": "problem", "metric": "cancel_rate", "direction": "DIRECTION",
             "claim": "Cancelled orders took {cancel_rate} of GMV.", "action": "Read the reasons."},
            {"kind": "opportunity", "metric": "gmv", "direction": "DIRECTION",
             "claim": "Demand stands at {gmv}.", "action": "Plan stock for it."},
        ],
    } | change  # fmt: skip


def directed(request: ModelRequest, told: dict[str, Any]) -> dict[str, Any]:
    """With the directions that the facts give."""
    given = {each["id"]: each["direction"] for each in facts(request)["numbers"]}
    findings = [
        each
        | {"direction": each["direction"].replace("DIRECTION", given.get(each["metric"], "none"))}
        for each in told["findings"]
    ]
    return told | {"findings": findings}


def says(*readings: Any, program: Any = None) -> Callable[[ModelRequest, int], Any]:
    """These readings in turn, the last one for ever; the same program each time."""
    left = list(readings) or [reading()]

    def script(request: ModelRequest, index: int) -> Any:
        if request.schema_name == "ChartProgram":
            return {"code": "draw_everything_by_the_model()"} if program is None else program
        told: Any = left.pop(0) if len(left) > 1 else left[0]
        if not (isinstance(told, dict) and "findings" in told):
            return cast("Any", told)
        return directed(request, cast("dict[str, Any]", told))

    return script


async def made(
    query: ReportQuery,
    *resources: object,
    model: Any = OFFLINE,
    workflow: Workflow[ReportQuery, OperationsReport] | None = None,
    store: MemoryStore | None = None,
) -> tuple[OperationsReport, str]:
    store = store or MemoryStore()
    kind = workflow or reported(runs())
    async with Engine(store, model=model, resources=[NO_PRINTER, *resources]) as engine:
        report = await engine.run(kind, query, run_id="r")
    text = (await store.get(report.markdown.sha256)).decode()
    return report, text.replace("\\", "")


@pytest.fixture
def csv(tmp_path: Path) -> str:
    place = tmp_path / "acme.csv"
    place.write_text(CSV, "utf-8")
    return str(place)


@pytest.fixture
def web() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


def through(web: Loopback) -> Web:
    return Web(allow=frozenset({web.url.removeprefix("http://")}))


# ---- the example


@pytest.mark.parametrize(
    ("brand", "title", "lead"),
    [
        ("Harbour Tea", "Harbour Tea: operations report, 2026-03", "Invented orders"),
        ("青岚茶", "青岚茶运营月报（2026-03）", "示例数据"),
    ],
)
async def test_the_example_in_both_languages(brand: str, title: str, lead: str) -> None:
    report, text = await made(EXAMPLE.model_copy(update={"brand": brand}))
    assert report.title == title
    assert text.startswith(f"# {title}\n")
    assert f"**{lead}" in text
    assert (report.computed, report.models) == (True, [])
    assert len(report.problems) >= 1
    assert len(report.opportunities) >= 1
    assert [each.name for each in report.charts] == ["daily.png", "channels.png", "buyers.png"]
    assert report.pdf is None
    assert report.fallbacks == ["PDF: this test prints nothing; the HTML page prints as well"]


async def test_the_log_names_each_call_with_what_it_took_and_gave() -> None:
    _, text = await made(EXAMPLE)
    log = text.partition("## Log of tool calls")[2]
    for row in (
        r"from_sample (orders) | sample: orders.csv | 1,213 lines (utf-8), 2026-01 to 2026-03",
        r"run_python (charts/t1/run_python) | program by flowkit, 49 lines, sha256",
        r"numbers (numbers) | 620 lines, brand=Harbour Tea, month=2026-03 | gmv=34,692.26, net_sales=28,703.08",
        r"numbers_recounted (numbers_recounted) | 17 numbers",
        r"read_by_model (findings) | 17 numbers, language=en | 6 findings by flowkit-offline",
    ):
        assert row in log
    assert len(re.findall(r"\| (?:< 1 ms|\d+ ms|[\d.]+ s) \| 1 \|", log)) == 9


# ---- sources


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
async def test_a_csv_in_another_encoding_gives_the_same_report(
    encoding: str, csv: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text(CSV.replace("Acme", "青岚"), encoding)
    right, _ = await made(QUERY.model_copy(update={"csv": csv}))
    report, text = await made(
        ReportQuery(brand="青岚", month="2026-03", language="en", csv=str(other))
    )
    assert (report.gmv, report.repeat_purchase_rate) == (right.gmv, right.repeat_purchase_rate)
    assert f"(encoding {encoding})" in text


def database(path: Path, rows: str = CSV) -> SqliteDatabase:
    header, *lines = [line.split(",") for line in rows.splitlines()]
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE orders ({', '.join(header)})")
        connection.executemany(f"INSERT INTO orders VALUES ({','.join('?' * len(header))})", lines)
    connection.close()
    return SqliteDatabase(path)


async def test_the_hosts_database_and_an_sqlite_file_answer(csv: str, tmp_path: Path) -> None:
    right, _ = await made(QUERY.model_copy(update={"csv": csv}))
    place = tmp_path / "sales.db"
    report, text = await made(QUERY, database(place))
    assert (report.gmv, report.source) == (right.gmv, "SqliteDatabase")
    assert "Invented orders" not in text
    named, _ = await made(QUERY.model_copy(update={"database": str(place)}))
    assert (named.gmv, named.source) == (right.gmv, "sales.db")


class Finds(Searcher):
    """Finds these addresses, or fails."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls

    async def search(self, web: Web, query: str, limit: int) -> Sequence[Hit]:
        if not self.urls:
            raise OSError("the search server is down")
        return [Hit(id=url, title=query, snippet="", score=1) for url in self.urls]


def html_table(rows: str) -> str:
    cells = ["".join(f"<td>{cell}</td>" for cell in line.split(",")) for line in rows.splitlines()]
    return (
        "<table><tr><td>menu</table><table>" + "".join(f"<tr>{each}" for each in cells) + "</table>"
    )


async def test_a_search_goes_on_to_the_hit_that_holds_a_table(web: Loopback, csv: str) -> None:
    right, _ = await made(QUERY.model_copy(update={"csv": csv}))
    gone = web.url + "/gone"
    empty = web.serve("/empty", "<p>no table</p>", "text/html")
    page = web.serve("/page", html_table(CSV), "text/html")
    query = QUERY.model_copy(update={"search": "acme orders"})
    report, _ = await made(query, through(web), Finds(gone, empty, page))
    assert (report.gmv, report.source) == (right.gmv, page)


async def test_each_source_that_fails_is_told_and_the_next_one_answers(
    web: Loopback, csv: str, tmp_path: Path
) -> None:
    page = web.serve("/export", "<!DOCTYPE html><title>Please sign in</title>", "text/html")
    found = web.serve("/found.csv", CSV, "text/csv")
    query = QUERY.model_copy(update={"csv": page, "search": "acme orders"})
    report, text = await made(query, through(web), Finds(found))
    assert report.source == found
    assert report.fallbacks[0].startswith("orders: from search (from_csv: SourceError: CSV: ")
    assert "it is a web page, no table ('Please sign in')" in report.fallbacks[0]
    assert "Please sign in" in text.partition("## Log of tool calls")[2]

    empty = database(tmp_path / "empty.db", CSV.partition("\n")[0])
    query = QUERY.model_copy(update={"search": "acme orders"})
    report, _ = await made(query, through(web), Finds(found), empty)
    assert (
        "from_database: SourceError: SqliteDatabase: the table has a header and no rows"
        in (report.fallbacks[0])
    )


async def test_where_no_source_answers_each_ones_reason_is_told_and_no_sample_stands_in(
    web: Loopback,
) -> None:
    query = ReportQuery(
        brand="Harbour Tea", month="2026-03", csv=web.url + "/gone", search="orders",
    )  # fmt: skip
    with pytest.raises(StepFailed) as caught:
        await made(query, through(web), Finds())
    told = str(caught.value)
    assert "no source gave orders" in told
    assert "/gone answers HTTP 404" in told
    assert "search: the search server is down" in told
    assert "database" not in told, "nobody named one"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"brand": "Umbrella"}, "no orders of a brand 'Umbrella'; there are Acme"),
        (
            {"month": "2026-05"},
            "Acme has no orders in 2026-05; there are orders of 2026-02, 2026-03",
        ),
    ],
)
async def test_a_wrong_brand_or_month_ends_with_the_reason_and_a_fork_reuses_the_table(
    change: dict[str, str], why: str, csv: str
) -> None:
    store = MemoryStore()
    query = QUERY.model_copy(update={"csv": csv, **change})
    kind = reported(runs())
    async with Engine(store, workflows=[kind], model=OFFLINE, resources=[NO_PRINTER]) as engine:
        with pytest.raises(StepFailed, match=re.escape(why)):
            await engine.run(kind, query, run_id="wrong")
        await anyio.Path(csv).unlink()  # so that reading it again would fail
        scope = {"brand": "Acme", "month": "2026-03", "language": "en", "currency": ""}
        forked = await engine.fork("wrong", set={"scope": scope}, new_id="right")
        report = await forked.result()
    assert isinstance(report, OperationsReport)
    assert report.month == "2026-03"


# ---- a model that answers badly


async def test_an_invented_number_is_refused_with_the_reason_and_mended(csv: str) -> None:
    model = ScriptedModel(
        says(reading(summary="GMV rose to 999,999 this month, {gmv.change} more."), reading()),
        name="eloquent",
    )
    report, text = await made(QUERY.model_copy(update={"csv": csv}), model=model)
    asked = [each for each in model.requests if each.schema_name == "Reading"]
    assert len(asked) == 2
    assert "999 is a number of its own" in (asked[1].messages[-1].content or "")
    assert report.models == ["eloquent"]
    assert not report.computed
    assert "Findings by the language model eloquent" in text
    assert "Charts: a program by eloquent, run in a sandbox" in text
    assert "999" not in text.partition("## Log of tool calls")[0]
    assert report.opportunities == [f"Demand stands at {report.gmv:,.2f}."]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (reading(summary="All is well with {profit}, they say."), "{profit} is no given number"),
        (reading(findings=[dict(each, direction="flat") for each in reading()["findings"]]),
         "moved"),
        (ConnectionError("nobody listens"), "nobody listens"),
        ("I would rather not.", "BadAnswer"),
    ],
)  # fmt: skip
async def test_a_model_that_goes_on_answering_badly_is_stood_in_for_by_rules(
    bad: Any, why: str, csv: str
) -> None:
    model = ScriptedModel(says(bad), name="stubborn")
    report, text = await made(QUERY.model_copy(update={"csv": csv}), model=model)
    assert report.computed
    assert report.models == ["stubborn"], "its charts were good"
    (told,) = [each for each in report.fallbacks if each.startswith("findings: by fixed rules")]
    assert why in told
    assert "Findings were computed by fixed rules, since" in text


Spoil: TypeAlias = Callable[[PythonResult], PythonResult]


def with_(**change: Any) -> Spoil:
    return lambda result: result.model_copy(update=change)


SPOILT: list[tuple[Spoil, str]] = [
    (lambda _: PythonResult(ok=False, error="NameError: name 'dat' is not defined"), "NameError"),
    (with_(value='{"daily.png": 5}'), "sum up to 5"),
    (with_(value="True"), "its last line is no dict"),
    (lambda result: with_(files=result.files[1:])(result), "daily.png was not saved"),
    (with_(stderr="Glyph 26376 missing from font(s)"), "the font lacks"),
]


@pytest.mark.parametrize(("spoilt", "why"), SPOILT)
async def test_a_chart_program_that_is_wrong_twice_gives_way_to_the_shipped_one(
    spoilt: Callable[[PythonResult], PythonResult], why: str, csv: str
) -> None:
    model = ScriptedModel(says(), name="artist")
    workflow = reported(runs(spoilt, only="draw_everything_by_the_model"))
    report, text = await made(QUERY.model_copy(update={"csv": csv}), model=model, workflow=workflow)
    programs = [each for each in model.requests if each.schema_name == "ChartProgram"]
    assert len(programs) == 2
    assert why in (programs[1].messages[-1].content or "")
    (told,) = [
        each for each in report.fallbacks if each.startswith("charts: flowkit's own program")
    ]
    assert why in told
    assert "Charts: flowkit's own program, run in a sandbox." in text
    assert "charts/t3/run_python" in text


@pytest.mark.parametrize("program", [TimeoutError("too slow"), "no program"])
async def test_a_model_without_a_program_has_the_shipped_one_run(program: Any, csv: str) -> None:
    model = ScriptedModel(says(program=program))
    report, _ = await made(QUERY.model_copy(update={"csv": csv}), model=model)
    assert report.charts[0].name == "daily.png"
    assert "charts: flowkit's own program (the model gave no program)" in report.fallbacks


@pytest.mark.parametrize(
    ("run_python", "why"),
    [
        (no_sandbox, "there is no sandbox on this machine"),
        (runs(picture=b"no picture"), "daily.png is no PNG"),
        (runs(picture=png(200, 100)), "daily.png has 200×100 pixels"),
    ],
)  # fmt: skip
async def test_without_a_picture_from_a_sandbox_charts_are_svg_and_it_is_said(
    run_python: Tool[Code, PythonResult], why: str, csv: str
) -> None:
    store = MemoryStore()
    report, text = await made(
        QUERY.model_copy(update={"csv": csv}), workflow=reported(run_python), store=store
    )
    assert [each.name for each in report.charts] == ["daily.svg", "channels.svg", "buyers.svg"]
    assert why in report.fallbacks[0]
    assert "drawn by flowkit as SVG" in text
    svg = (await store.get(report.charts[1].sha256)).decode()
    assert ">Web<" in svg


async def test_without_a_chinese_font_labels_are_english_and_the_report_says_so(csv: str) -> None:
    def english(result: PythonResult) -> PythonResult:
        return result.model_copy(update={"files": result.files[:-1]})

    query = QUERY.model_copy(update={"csv": csv, "language": "zh"})
    report, text = await made(query, workflow=reported(runs(english)))
    assert "未找到中文字体，图表标签改用英文。" in text
    assert (
        "charts: English labels, since no font with Chinese characters was found"
        in report.fallbacks
    )


async def test_hostile_names_are_shown_as_they_are_and_do_nothing(csv: str) -> None:
    evil = "<script>alert(1)</script> {gmv} ![x](http://evil.example/x)"
    await anyio.Path(csv).write_text(CSV.replace("Web", evil), "utf-8")
    store = MemoryStore()
    report, _ = await made(
        QUERY.model_copy(update={"csv": csv}), workflow=reported(no_sandbox), store=store
    )
    html = (await store.get(report.html.sha256)).decode()
    assert "<script" not in html
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    markdown = (await store.get(report.markdown.sha256)).decode()
    assert "![x]" not in markdown


# ---- crashes


async def test_a_resumed_report_asks_no_model_and_no_source_again(csv: str) -> None:
    store = MemoryStore()
    model = ScriptedModel(says(), name="eloquent")
    kind = reported(runs())
    query = QUERY.model_copy(update={"csv": csv})
    right, _ = await made(query, model=model, workflow=kind, store=store)
    asked = len(model.requests)
    assert asked == 2
    events = (await store.load("r")).events
    last = max(event.seq for event in events if event.kind == "accepted")
    await anyio.Path(csv).unlink()
    async with Engine(
        await crashed(store, "r", last), workflows=[kind], model=model, resources=[NO_PRINTER]
    ) as engine:
        again = await engine.resume("r")
    assert isinstance(again, OperationsReport)
    assert again.gmv == right.gmv
    assert len(model.requests) == asked


@pytest.mark.long
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_crash_anywhere_changes_nothing() -> None:
    report = await crash_everywhere(
        reported(runs()), EXAMPLE, model=OFFLINE, resources=[NO_PRINTER], ignore=(*VOLATILE, "fallbacks"),
        faults=("kill", "tool"),
    )  # fmt: skip
    assert not report.violations, "a source that failed once is told among the fallbacks"


def test_the_name_resolves() -> None:
    assert shipped()["operations_report"].endswith(":operations_report")
