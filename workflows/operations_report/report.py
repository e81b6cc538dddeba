"""The report: one set of data, as Markdown and as an HTML page that stands alone.

What came from outside (names in the data, model text, errors) is escaped: by Jinja's autoescape in
HTML, by the `md` filter in Markdown. Pictures are data addresses; the page runs no script.
"""

from __future__ import annotations

import re
from typing import Any

from flowkit.workflows.operations_report import calls
from flowkit.workflows.operations_report.texts import texts
from flowkit.workflows.operations_report.told import Told
from flowkit.workflows.pages import environment


def render(told: Told, template: str) -> str:
    """One of the pages: `report.md.j2` or `report.html.j2`."""
    data: dict[str, Any] = {
        "told": told,
        "t": texts(told.scope.language),
        "rows": [told.row(each) for each in told.numbers.metrics],
        "tiles": [told.row(told.numbers.by_id()[id]) for id in ("gmv", "net_sales", "aov", "repeat_rate", "orders")],
        "calls": calls.rows(told),
        "lang": {"en": "en", "zh": "zh-CN"}[told.scope.language],
        "written": told.say("written", when=told.written_at.strftime("%Y-%m-%d %H:%M UTC")),
    }  # fmt: skip
    text = environment("flowkit.workflows.operations_report").get_template(template).render(data)
    return re.sub(r"\n{3,}", "\n\n", text)
