"""What models and servers do differently, as data.

A server's profile says what may be sent and what comes back. What belongs to a model's weights
(its context, its sampling, how it writes tool calls) goes with the model to any server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from flowkit.errors import NoModel

ToolChoice = Literal["auto", "none", "required", "named"]
ToolMode = Literal["native", "json_schema", "auto"]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Profile:
    """What one family of models, or of servers, takes and gives.

    Tokens and time: `context_tokens` is the window, of prompt and answer together.
    `connect_timeout_s` bounds the opening of a connection, `idle_timeout_s` a silence inside an
    answer. `stream`: answers are asked for in pieces. `ends_with_done`: `[DONE]` ends a stream, so
    that one without it was cut. `usage_in_stream`: `stream_options.include_usage` may be sent.

    Settings: `defaults` are sent unless the request has its own; `drops` are never sent, since the
    model has them fixed, refuses or does not know them; `max_tokens_param` is the name of the
    limit of an answer.

    Reasoning: `reasoning_fields` are where it is read from; the first that is not empty wins, since
    some servers send two copies. `reasoning_back` are the names under which it is sent back: None
    for the one that it was read from, () for none. If `reasoning_details` is among them and a
    message has details, they are sent alone and unchanged. `fill_reasoning` stands in for the
    reasoning of an answer that had none. `think_tags`: it is in the content, inside
    `<think>…</think>`.

    Tools and schemas: `tool_mode` says how tools are called: `native`, by the server's own calls;
    `json_schema`, by an answer whose schema is "one call, or the reply" (`flowkit.model.calling`), for
    models that make no valid calls by themselves; `auto`, natively, and a call that stands in the text
    as JSON is taken out of it, and `json_schema` is gone over to where the server takes no tools.
    `json_schema`: a schema may be sent as `response_format`. `tool_choice`: the
    modes that the model obeys; another one is not sent. `tool_name`: what a name must match;
    `tools_max`: how many there may be. `typed_schemas`: every part of a tool's schema must have a
    type. `recover_tool_calls`: calls that the server left in the text, in the raw format of
    Kimi K2, are taken out of it. `rewrite_tool_call_ids`: ids are sent as K2 was trained on them,
    `functions.name:index`.
    """

    name: str
    context_tokens: int = 128_000
    connect_timeout_s: float = 15.0
    idle_timeout_s: float = 120.0
    stream: bool = True
    ends_with_done: bool = True
    usage_in_stream: bool = True
    defaults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    drops: frozenset[str] = frozenset({"prompt_cache_key"})
    max_tokens_param: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning_fields: tuple[str, ...] = ("reasoning_content", "reasoning")
    reasoning_back: tuple[str, ...] | None = None
    fill_reasoning: str | None = None
    think_tags: bool = False
    json_schema: bool = True
    tool_choice: frozenset[ToolChoice] = frozenset({"auto", "none", "required", "named"})
    tool_name: str = "[a-zA-Z0-9_-]{1,64}"
    tools_max: int = 128
    typed_schemas: bool = False
    recover_tool_calls: bool = False
    rewrite_tool_call_ids: bool = False
    tool_mode: ToolMode = "native"

    def with_context(self, tokens: int) -> Profile:
        """The same with another window."""
        return replace(self, context_tokens=tokens)

    @property
    def reads_calls(self) -> bool:
        """Whether calls that stand in the text are taken out of it."""
        return self.recover_tool_calls or self.tool_mode == "auto"

    def answer_limit(self, settings: Mapping[str, Any]) -> int:
        """The most tokens of an answer that is asked for with these settings; 0 where none is said."""
        names = ("max_completion_tokens", "max_tokens")
        given = [source.get(name) for source in (settings, self.defaults) for name in names]
        return next((each for each in given if isinstance(each, int)), 0)

    @classmethod
    def named(cls, name: str, *, model: str = "") -> Profile:
        """The profile of this name, with what goes with the model's weights. Raises `NoModel`."""
        for profile in _PROFILES:
            if profile.name == name:
                return _serving(profile, model)
        known = ", ".join(profile.name for profile in _PROFILES)
        raise NoModel(f"There is no model profile {name!r} (FLOWKIT_PROFILE): use one of {known}.")

    @classmethod
    def guessed(cls, host: str, *, model: str = "") -> Profile:
        """The profile for who names none. `host` is a URL's, with its port if it has one."""
        split = urlsplit(f"//{host}")
        bare, kimi = split.hostname or "", _kimi(model)
        if _is_at(bare, "moonshot.ai", "moonshot.cn", "kimi.com"):
            return kimi or _GENERIC
        for domain, profile in _DOMAINS.items():
            if _is_at(bare, domain):
                return _serving(profile, model)
        if split.port == 11434:
            return _serving(_OLLAMA, model)
        own = kimi is not None and bare in ("localhost", "127.0.0.1", "::1")
        return _serving(_VLLM if own else _GENERIC, model)


# ---- the Kimi family, as Moonshot serves it ----
# Sources: Moonshot's guides and the sources of kimi-cli. Immutable parameters are answered with
# 400. Reasoning and answer share max_tokens, of which tool loops need 16,000 or more.

_FIXED: Final = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty"})

_K2_THINKING: Final = Profile(
    "kimi-k2-thinking",
    context_tokens=262_144,
    defaults=MappingProxyType({"max_tokens": 32_768, "temperature": 1.0}),
    drops=frozenset({"reasoning_effort", "thinking"}),
    reasoning_back=("reasoning_content",),
    json_schema=False,
    tool_choice=frozenset({"auto", "none"}),
    tool_name="[a-zA-Z_][a-zA-Z0-9_-]{2,63}",
    typed_schemas=True,
    recover_tool_calls=True,
)

_K2_6: Final = replace(
    _K2_THINKING,
    name="kimi-k2.6",
    defaults=MappingProxyType({"max_tokens": 32_768}),
    drops=_FIXED | {"reasoning_effort"},
    json_schema=True,
)

_K3: Final = replace(
    _K2_6,
    name="kimi-k3",
    drops=_FIXED | {"thinking"},
    max_tokens_param="max_completion_tokens",
    fill_reasoning="",
    tool_choice=frozenset({"auto", "none", "required"}),
    recover_tool_calls=False,
)

# ---- servers ----

_GENERIC: Final = Profile("generic")

# api.openai.com refuses max_tokens for its reasoning models, and message fields it does not know.
_OPENAI: Final = Profile(
    "openai",
    max_tokens_param="max_completion_tokens",
    drops=frozenset(),
    reasoning_back=(),
)

# Wants the reasoning of all turns that made calls, in every later request.
_DEEPSEEK: Final = Profile(
    "deepseek",
    reasoning_back=("reasoning_content",),
    fill_reasoning="",
    json_schema=False,
    tool_choice=frozenset({"auto", "none"}),
)

# `reasoning` since 0.11.2, `reasoning_content` before.
_VLLM: Final = Profile(
    "vllm",
    reasoning_fields=("reasoning", "reasoning_content"),
    reasoning_back=("reasoning", "reasoning_content"),
    idle_timeout_s=600.0,
    tool_mode="auto",
)

# Takes tool_choice, but does not obey it. Its window is what its operator set; often less.
_OLLAMA: Final = Profile(
    "ollama",
    context_tokens=32_768,
    idle_timeout_s=600.0,
    reasoning_fields=("reasoning", "reasoning_content"),
    reasoning_back=("reasoning",),
    tool_choice=frozenset({"auto"}),
    tool_mode="auto",
)

# With --reasoning-format none the thoughts stay in the content.
_LLAMA_CPP: Final = Profile(
    "llama.cpp",
    context_tokens=32_768,
    idle_timeout_s=600.0,
    reasoning_back=("reasoning_content",),
    think_tags=True,
    tool_choice=frozenset({"auto", "none", "required"}),
    tool_mode="auto",
)

# llama.cpp in this process. Thoughts would stand before the schema's first character, so there are
# none; a temperature of 0 makes small models repeat themselves, in every retry the same way.
_LOCAL: Final = replace(
    _LLAMA_CPP,
    name="local",
    context_tokens=8_192,
    defaults=MappingProxyType(
        {
            "max_tokens": 1_024,
            "temperature": 0.2,
            "chat_template_kwargs": {"enable_thinking": False},
            "return_progress": True,  # a chunk after each batch of the prompt: a place to stop
        }
    ),
    ends_with_done=False,
    tool_mode="json_schema",
)

_OPENROUTER: Final = Profile(
    "openrouter",
    reasoning_fields=("reasoning", "reasoning_content"),
    reasoning_back=("reasoning_details", "reasoning"),
)

_FAMILY: Final = (_K2_THINKING, _K2_6, _K3)
_SELF_HOSTED: Final = (_VLLM, _OLLAMA, _LLAMA_CPP, _LOCAL)
_PROFILES: Final = (*_FAMILY, _OPENAI, _DEEPSEEK, *_SELF_HOSTED, _OPENROUTER, _GENERIC)
_DOMAINS: Final = MappingProxyType(
    {"api.openai.com": _OPENAI, "api.deepseek.com": _DEEPSEEK, "openrouter.ai": _OPENROUTER}
)


def _kimi(model: str) -> Profile | None:
    """The member of the Kimi family that a model's name names, on any server."""
    name = model.lower()
    if re.search(r"kimi-k3\b|^k3$", name):
        return _K3
    if "kimi-k2-thinking" in name:
        return _K2_THINKING
    return _K2_6 if "kimi" in name else None


def _serving(server: Profile, model: str) -> Profile:
    """The server's profile with what goes where the model's weights go.

    A server of one's own limits an answer by its window; there a default would only be refused.
    """
    kimi = _kimi(model)
    if kimi is None or server in _FAMILY or server is _OPENAI:
        return server
    own = server in _SELF_HOSTED
    defaults = {k: v for k, v in kimi.defaults.items() if not (own and k == "max_tokens")}
    small = server in (_OLLAMA, _LLAMA_CPP, _LOCAL)
    return replace(
        server,
        context_tokens=server.context_tokens if small else kimi.context_tokens,
        defaults=MappingProxyType(defaults),
        recover_tool_calls=kimi.recover_tool_calls,
        rewrite_tool_call_ids=kimi.recover_tool_calls,
    )


def _is_at(host: str, *domains: str) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
