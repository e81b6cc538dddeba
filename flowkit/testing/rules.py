"""What servers refuse, as data: the rules of Kimi's generations, and OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, cast

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a request has broken, and the text that the client was told."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rules:
    """What a server refuses. Where documentation leaves a question open, it is refused.

    `reasoning`: the assistant messages that must carry the reasoning as it was given: those since
    the last user message (`loop`), all of them, or none. `thinking`: the values of `thinking.type`
    that there are; none where there is no such parameter. `fixed`: parameters that take one value,
    and `fixed_plain` the value where thinking is off. `forced`: `tool_choice` may force a call
    while the model thinks. `fields` and `parameters`: every other one is refused; None for no such
    list. `context_tokens`: the window, against an estimate of four characters for a token.
    """

    name: str
    reasoning: Literal["none", "loop", "all"] = "none"
    thinking: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=_nothing)
    fixed_plain: Mapping[str, float] = field(default_factory=_nothing)
    temperature_max: float = 1.0
    forced: bool = False
    json_schema: bool = True
    refused: tuple[str, ...] = ()
    fields: frozenset[str] | None = None
    parameters: frozenset[str] | None = None
    tool_name: str = r"[a-zA-Z_][a-zA-Z0-9_-]{2,63}"
    tools_max: int = 128
    context_tokens: int = 262_144

    @classmethod
    def named(cls, name: str) -> Rules:
        """The rules of this name."""
        for rules in _ALL:
            if rules.name == name:
                return rules
        known = ", ".join(rules.name for rules in _ALL)
        raise ValueError(f"there are no rules {name!r}: use one of {known}")

    @property
    def kimi(self) -> bool:
        """Whether it is one of Moonshot's models."""
        return self.reasoning != "none"

    def thinks(self, body: Json) -> bool:
        """Whether the model thinks about this request."""
        return self.kimi and as_object(body.get("thinking")).get("type") != "disabled"

    def reasoning_wanted(self, body: Json) -> Literal["none", "loop", "all"]:
        """The assistant messages of this request that must carry their reasoning."""
        if not self.thinks(body):
            return "none"
        return "all" if as_object(body.get("thinking")).get("keep") == "all" else self.reasoning


def as_object(value: object) -> Json:
    """The value, if it is an object; an empty one if it is not."""
    return cast("Json", value) if isinstance(value, Mapping) else {}


# Where Kimi's texts are known from reports, the messages below say the same in the same words:
# clients tell errors apart by them.
_PINNED: Final = MappingProxyType(
    {"temperature": 1.0, "top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}
)

_K2_THINKING: Final = Rules(
    "kimi-k2-thinking", reasoning="loop", efforts=("low", "medium", "high"), json_schema=False
)
_K26: Final = Rules(
    "kimi-k2.6",
    reasoning="loop",
    thinking=("enabled", "disabled"),
    efforts=("low", "medium", "high"),
    fixed=_PINNED,
    fixed_plain=MappingProxyType({**_PINNED, "temperature": 0.6}),
)
_K27_CODE: Final = replace(_K26, name="kimi-k2.7-code", reasoning="all", thinking=("enabled",))
_K3: Final = replace(
    _K27_CODE,
    name="kimi-k3",
    thinking=(),
    efforts=("low", "high", "max"),
    forced=True,
    context_tokens=1_048_576,
)
_OPENAI: Final = Rules(
    "openai",
    efforts=("none", "minimal", "low", "medium", "high", "xhigh"),
    temperature_max=2.0,
    forced=True,
    refused=("max_tokens",),
    fields=frozenset({"role", "content", "name", "refusal", "audio", "tool_calls", "tool_call_id"}),
    parameters=frozenset(
        [
            "model",
            "messages",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "stream",
            "stream_options",
            "stop",
            "seed",
            "n",
            "temperature",
            "top_p",
            "presence_penalty",
            "frequency_penalty",
            "max_completion_tokens",
            "max_tokens",
            "response_format",
            "reasoning_effort",
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "metadata",
            "store",
            "user",
            "service_tier",
            "prompt_cache_key",
            "safety_identifier",
            "verbosity",
            "modalities",
            "prediction",
        ]
    ),
    tool_name=r"[a-zA-Z0-9_-]{1,64}",
    context_tokens=400_000,
)
_ALL: Final = (_K2_THINKING, _K26, _K27_CODE, _K3, _OPENAI)


def check_parameters(body: Json, rules: Rules) -> Iterator[Violation]:
    """What is wrong with everything but the messages and the tools."""
    fixed = rules.fixed if rules.thinks(body) else rules.fixed_plain
    for name, only in fixed.items():
        if body.get(name) is not None and body[name] != only:
            yield Violation("parameter", f"invalid {name}: only {only:g} is allowed for this model")
    temperature = body.get("temperature") or 0
    known = isinstance(temperature, (int, float)) and 0 <= temperature <= rules.temperature_max
    if "temperature" not in fixed and not known:
        allowed = f"it must be between 0 and {rules.temperature_max:g}"
        yield Violation("parameter", f"invalid temperature: {allowed}")
    for name in body:
        if rules.parameters is not None and name not in rules.parameters:
            yield Violation("parameter", f"Unknown parameter: '{name}'.")
    for name in rules.refused:
        if body.get(name) is not None:
            yield Violation("parameter", f"Unsupported parameter: '{name}' is not supported.")
    yield from _check_thinking(body, rules)
    yield from _check_choice(body, rules)
    wanted = as_object(body.get("response_format")).get("type")
    if wanted == "json_schema" and not rules.json_schema:
        yield Violation(
            "json_schema", "response_format type json_schema is not supported by this model"
        )


def _check_thinking(body: Json, rules: Rules) -> Iterator[Violation]:
    effort, thinking = body.get("reasoning_effort"), body.get("thinking")
    if effort is not None and effort not in rules.efforts:
        yield Violation(
            "thinking", f"invalid reasoning_effort {effort!r}: one of {', '.join(rules.efforts)}"
        )
    if thinking is None or not rules.kimi:
        return
    if not isinstance(thinking, Mapping):
        yield Violation(
            "thinking", "the thinking field in the request (expected type object) is illegal"
        )
        return
    given = as_object(cast("object", thinking)).get("type")
    if not rules.thinking:
        yield Violation("thinking", "this model takes no thinking parameter: it always thinks")
    elif given not in rules.thinking:
        yield Violation(
            "thinking", f"invalid thinking type {given!r}: only {', '.join(rules.thinking)}"
        )
    elif effort is not None:
        yield Violation("thinking", "cannot specify both 'thinking' and 'reasoning_effort'")


def _check_choice(body: Json, rules: Rules) -> Iterator[Violation]:
    choice = body.get("tool_choice")
    if choice in (None, "auto", "none") or rules.forced or not rules.thinks(body):
        return
    kind = "required" if choice == "required" else "specified"
    yield Violation("tool_choice", f"tool_choice '{kind}' is incompatible with thinking enabled")
