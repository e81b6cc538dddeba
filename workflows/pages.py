"""What the reports of shipped workflows share: Jinja with autoescape, a base page, Markdown escapes."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_MD_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_MD_START = re.compile(r"^(\d*)([-+=.)])")


def md(text: object) -> str:
    """A text as one line of Markdown that shows it literally."""
    line = " ".join(str(text).split())
    return _MD_START.sub(r"\1\\\2", _MD_SPECIAL.sub(r"\\\1", line))


def md_url(url: str) -> str:
    """An address inside `<...>` of a Markdown link."""
    return re.sub(r"[<>\\\s]", "", url)


def took(seconds: float) -> str:
    """A duration as a person reads it."""
    if seconds < 0.0005:
        return "< 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


@cache
def environment(package: str) -> Environment:
    """The templates of a workflow's package, over `base.html.j2`; HTML ones escape by themselves."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("flowkit.workflows")]),
        autoescape=select_autoescape(("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["md"] = md
    made.filters["md_url"] = md_url
    return made
