"""A model file behind an OpenAI-compatible server on loopback, and how fast it is."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from flowkit.cli.exits import INTERRUPTED, Problem, say
from flowkit.model.encode import encoded
from flowkit.model.llama import Llama, Serving
from flowkit.model.memory import resident_mb

TOLD_EVERY_S = 5.0
"""Seconds between two looks at the counters; a line is said when there is something new."""

_PROMPT = "The keeper climbed the stairs, lit the lamp, and wrote the hour into the book. " * 20
_ANSWER_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of reading prompts and of writing answers; 0 where there were none."""

    prompt: float
    generation: float

    def __str__(self) -> str:
        return f"prompt {self.prompt:.0f} tokens/s, generation {self.generation:.1f} tokens/s"


def speed(now: Mapping[str, float], before: Mapping[str, float]) -> Speed:
    """The speed between two readings of the engine's counters."""

    def rate(tokens: str, seconds: str) -> float:
        spent = now.get(seconds, 0.0) - before.get(seconds, 0.0)
        return (now.get(tokens, 0.0) - before.get(tokens, 0.0)) / spent if spent > 0 else 0.0

    return Speed(
        rate("prompt_tokens_total", "prompt_seconds_total"),
        rate("tokens_predicted_total", "tokens_predicted_seconds_total"),
    )


def measure(engine: Llama) -> Speed:
    """Ask one question of some hundred tokens, and see how fast that goes."""
    before = engine.counters()
    body = {
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": _ANSWER_TOKENS,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": True,
    }
    engine.chat(encoded(body), _nothing)
    return speed(engine.counters(), before)


def _nothing(chunk: dict[str, Any]) -> None:
    """Nobody reads the answer to a measurement."""


def serve_file(serving: Serving, *, once: bool) -> None:
    """Load a file, say how fast it is, and serve it until SIGINT or SIGTERM."""
    began = time.monotonic()
    engine = Llama(serving)
    say(f"{serving.path.name} loaded in {time.monotonic() - began:.1f} s")
    _say_speed(measure(engine))
    if once:
        engine.close()
        return
    each = f"{serving.context_tokens:,} tokens of context"
    say(f"serving at {engine.address}, {each} for each of {serving.slots} request(s). Ask it with")
    key = "" if serving.open else "FLOWKIT_API_KEY=... "
    print(
        f"{key}FLOWKIT_BASE_URL={engine.address} FLOWKIT_PROFILE=llama.cpp "
        f"FLOWKIT_MODEL={serving.path.stem}",
        flush=True,
    )
    try:
        _wait(engine)
    finally:
        engine.close()


def _wait(engine: Llama) -> None:
    """Say how fast answers were, until somebody stops us."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Problem("stopped serving.", 128 + signum)

    signal.signal(signal.SIGTERM, stop)
    before = engine.counters()
    try:
        while True:
            time.sleep(TOLD_EVERY_S)
            now = engine.counters()
            if now.get("tokens_predicted_total") != before.get("tokens_predicted_total"):
                _say_speed(speed(now, before))
            before = now
    except KeyboardInterrupt:
        raise Problem("stopped serving.", INTERRUPTED) from None


def _say_speed(found: Speed) -> None:
    memory = resident_mb()
    say(f"{found}" + (f", memory {memory:,.0f} MB" if memory else ""))
