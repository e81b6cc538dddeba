"""The workflow: which step takes what from which, and what may stand in."""

from __future__ import annotations

from flowkit import Ref, Reject, Workflow, workflow
from flowkit.nodes import Fallback
from flowkit.nodes.tool import Tool
from flowkit.nodes.tools.python import Code, Limits, PythonResult, python_tool
from flowkit.workflows.operations_report.charting import drawn_by
from flowkit.workflows.operations_report.sources import (
    from_csv,
    from_database,
    from_sample,
    from_search,
)
from flowkit.workflows.operations_report.steps import (
    findings_hold,
    finish,
    mended_by_model,
    numbers,
    numbers_recounted,
    pages,
    places,
    read_by_model,
    read_by_rules,
    sales,
    scope,
    to_pdf,
)
from flowkit.workflows.operations_report.values import OperationsReport, ReportQuery

reader = Fallback(read_by_model, mended_by_model, read_by_rules, on=(Exception, Reject))
"""`read_by_model | mended_by_model | read_by_rules`; what is rejected goes to the next one, too."""


def reported(
    run_python: Tool[Code, PythonResult] | None = None,
) -> Workflow[ReportQuery, OperationsReport]:
    """The workflow with a tool of the host's own to run chart programs; by default `python_tool()`."""
    charts = drawn_by(run_python or python_tool(limits=Limits(time_s=90)))
    orders = from_database | from_csv | from_search | from_sample

    @workflow
    def operations_report(query: Ref[ReportQuery]) -> Ref[OperationsReport]:
        """A brand's month: orders, numbers, charts, problems and opportunities, a report to send."""
        asked = scope(query)
        table = orders(places(query), id="orders")
        sold = sales(table, asked)
        counted = numbers_recounted(numbers(sold, asked), sold, asked, attempts=1)
        read = findings_hold(
            reader(counted, asked, id="findings"),
            counted,
            asked,
            attempts=3,
        )
        drawn = charts(counted, asked)
        written = pages(asked, table, sold, counted, read, drawn)
        return finish(asked, sold, counted, read, drawn, written, to_pdf(written))

    return operations_report


operations_report = reported()
