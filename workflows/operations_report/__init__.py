"""Monthly operations report: from a brand's orders to a report to send.

    orders     from_database | from_csv | from_search | from_sample
    numbers    GMV, average order value, repeat-purchase rate and more, checked by numbers_recounted
    charts     a program by the model, run in the sandbox and checked; flowkit's own; SVG
    findings   problems and opportunities by the model, each tied to a number, checked by findings_hold
    pages      report.md and report.html, with the log of tool calls;  to_pdf: report.pdf

Run it: `flowkit run operations_report --example --out report/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from flowkit.chat import ModelRequest
from flowkit.workflows.operations_report.printing import Printer
from flowkit.workflows.operations_report.values import OperationsReport, ReportQuery
from flowkit.workflows.operations_report.workflow import operations_report, reported


def _findings(request: ModelRequest) -> str:
    from flowkit.model.offline import facts
    from flowkit.workflows.operations_report.findings import offline_reading

    return offline_reading(facts(request))


def _program(request: ModelRequest) -> str:
    from flowkit.workflows.operations_report.charting import offline_program

    return offline_program()


EXAMPLE = ReportQuery(brand="Harbour Tea", month="2026-03", currency="USD")
"""A brand of the invented orders that ship with flowkit; it needs no network."""

OFFLINE_RULES: Mapping[str, Callable[[ModelRequest], str]] = MappingProxyType(
    {"Reading": _findings, "ChartProgram": _program}
)
"""What the offline model computes for each schema that this workflow asks for."""

VOLATILE = (
    "html.sha256", "html.size", "markdown.sha256", "markdown.size", "pdf.sha256", "pdf.size",
)  # fmt: skip
"""Fields of the result that two runs do not share: the pages tell when they were written, and how long it took."""

__all__ = [
    "EXAMPLE",
    "OFFLINE_RULES",
    "VOLATILE",
    "OperationsReport",
    "Printer",
    "ReportQuery",
    "operations_report",
    "reported",
]
