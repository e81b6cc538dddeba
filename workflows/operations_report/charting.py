"""The planner of the charts: a model's program, mended once; then flowkit's program; then SVG."""

from __future__ import annotations

from flowkit import Context
from flowkit.errors import ModelError
from flowkit.nodes import CodePlanner, Plan, Turn, planner
from flowkit.nodes.tool import Tool
from flowkit.nodes.tools.python import Code, PythonResult
from flowkit.workflows.operations_report import drawing
from flowkit.workflows.operations_report.values import (
    ChartProgram,
    Charts,
    ChartTry,
    Language,
    Numbers,
    Scope,
)

MODEL_TRIES = 2

_STEP = "run_python"
_HOPELESS = ("SandboxUnavailable", "ModuleNotFoundError: No module named 'matplotlib'")
"""What no other program would mend."""


def drawn_by(run_python: Tool[Code, PythonResult]) -> CodePlanner[Numbers, Scope, Charts]:
    """The planner, with the tool that runs programs."""

    @planner(tools=[run_python], turns_max=6, name="charts")
    async def charts(ctx: Context, numbers: Numbers, scope: Scope) -> Plan | Charts:
        """Charts by a program in the sandbox, each checked against the numbers."""
        tries: list[ChartTry] = []
        for turn in ctx.turns:
            tried, kept = await _looked_at(ctx, turn, numbers)
            tries.append(tried)
            if kept is not None:
                return kept.model_copy(update={"tries": tries})
        code = await _next_program(ctx, numbers, tries)
        if code is None:
            return await _as_svg(ctx, numbers, scope, tries)
        data = await ctx.artifact(
            drawing.chart_data(numbers, scope.language),
            name="data.json",
            media_type="application/json",
        )
        job = Code(code=drawing.whole_program(code), files=[data])
        return Plan([run_python.step(job, id=_STEP)])

    return charts


async def _next_program(ctx: Context, numbers: Numbers, tries: list[ChartTry]) -> str | None:
    """The program to run now; None where none will do."""
    shipped = drawing.shipped_program()
    if any(each.code == shipped or each.said.startswith(_HOPELESS) for each in tries):
        return None
    if len(tries) >= MODEL_TRIES:
        return shipped
    refused = tries[-1].said if tries else ""
    try:
        asked = drawing.prompt(numbers.series, refused)
        program: ChartProgram = await ctx.model.complete(asked, returns=ChartProgram)
    except (ModelError, OSError, ValueError):  # BadAnswer is one: no program, so ours
        return shipped
    return program.code


async def _looked_at(ctx: Context, turn: Turn, numbers: Numbers) -> tuple[ChartTry, Charts | None]:
    """What came of a program, and the charts if they hold."""
    job = Code.model_validate_json(turn.steps[0].inputs[0].text or "")
    code = job.code.removeprefix(drawing.whole_program(""))
    shipped = code == drawing.shipped_program()
    author = "flowkit" if shipped else ctx.model.name
    result = turn.results.get(_STEP)
    if not isinstance(result, PythonResult):
        failed = turn.failures[0] if turn.failures else None
        said = f"{failed.error}: {failed.message}" if failed else "it gave no result"
        return ChartTry(author=author, code=code, ok=False, said=said), None
    faults = drawing.result_faults(result, numbers.series)
    pictures = [
        each
        for name in drawing.totals(numbers.series)
        for each in result.files
        if each.name == name
    ]
    if not faults:
        for each in pictures:
            faults += drawing.picture_faults(each.name, await ctx.read(each))
    said = "; ".join(faults) or ", ".join(f"{each.name} ({each.size:,} bytes)" for each in pictures)
    tried = ChartTry(author=author, code=code, ok=not faults, said=said)
    if faults:
        return tried, None
    labels = [await ctx.read(each) for each in result.files if each.name == "labels.txt"]
    language: Language = "zh" if labels[:1] == [b"zh"] else "en"
    return tried, Charts(
        pictures=pictures, how="shipped" if shipped else "model", author=author, language=language
    )


async def _as_svg(ctx: Context, numbers: Numbers, scope: Scope, tries: list[ChartTry]) -> Charts:
    pictures = [
        await ctx.artifact(svg, name=name, media_type="image/svg+xml")
        for name, svg in drawing.svg_charts(numbers, scope.language).items()
    ]
    return Charts(
        pictures=pictures,
        how="svg",
        author="flowkit",
        language=scope.language,
        tries=tries,
        why_not=tries[-1].said if tries else "",
    )


def offline_program() -> str:
    """What the offline stand-in answers: the program that ships."""
    return ChartProgram(code=drawing.shipped_program()).model_dump_json()
