"""The options of a node's declaration that say how it is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypedDict

from flowkit.errors import DeclarationError
from flowkit.policy import Policy


class Options(TypedDict, total=False):
    """How a node that asks a model is tried, as `Policy` has it; a misspelt one is seen by a checker."""

    retries: int
    timeout_s: float | None
    backoff_s: float
    backoff_max_s: float
    concurrency: int | None


def policy_of(options: Mapping[str, Any]) -> Policy:
    """The policy of a decorator's options; `DeclarationError` for one that does not exist."""
    from difflib import get_close_matches

    known = [each.name for each in fields(Policy)]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"options: {', '.join(known)}."
            raise DeclarationError(f"there is no option {name!r}; {hint}")
    return Policy(**options)
