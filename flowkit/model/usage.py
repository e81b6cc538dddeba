"""What an answer used and cost, as servers say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any, cast

from flowkit.chat import Usage


def usage_of(given: object, before: Usage) -> Usage:
    """The usage in one of the shapes that servers give; what it does not say stays as before."""
    if not isinstance(given, Mapping):
        return before
    said = cast("Mapping[str, Any]", given)
    of_input = _inner(said, "prompt_tokens_details")
    of_output = _inner(said, "completion_tokens_details")
    cached = (
        _count(said.get("cached_tokens"))  # Moonshot
        or _count(of_input.get("cached_tokens"))  # OpenAI, OpenRouter
        or _count(said.get("prompt_cache_hit_tokens"))  # DeepSeek
    )
    return Usage(
        input_tokens=_count(said.get("prompt_tokens")) or before.input_tokens,
        output_tokens=_count(said.get("completion_tokens")) or before.output_tokens,
        cached_tokens=cached or before.cached_tokens,
        reasoning_tokens=_count(of_output.get("reasoning_tokens")) or before.reasoning_tokens,
        cost_usd=_dollars(said.get("cost"), before.cost_usd),  # OpenRouter
    )


def priced(usage: Usage, prices: Any, base_url: str, *models: str) -> Usage:
    """With its cost by `genai_prices` (None: not installed), for the first model that it knows.

    Only where the server is one that sells it: a model on a machine of one's own has no price.
    """
    if (
        prices is None
        or usage.cost_usd is not None
        or not (usage.input_tokens + usage.output_tokens)
    ):
        return usage
    used = prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=min(usage.cached_tokens, usage.input_tokens),
    )
    for model in models:
        try:
            found = prices.calc_price(used, model_ref=model, provider_api_url=base_url)
        except (LookupError, ValueError):
            continue
        return replace(usage, cost_usd=float(found.total_price))
    return usage


def _inner(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = said.get(name)
    return cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {}


def _dollars(value: object, before: float | None) -> float | None:
    if isinstance(value, (int, float)) and isfinite(value) and value >= 0:
        return float(value)
    return before


def _count(value: object) -> int:
    return max(value, 0) if isinstance(value, int) else 0
