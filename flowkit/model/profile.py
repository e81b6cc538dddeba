"""What servers do differently, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from flowkit.errors import NoModel

SAMPLING: Final = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"}
)
"""The settings that are sampling parameters; every other setting is sent as it is."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one family of servers takes and gives.

    `json_schema`: a schema may be sent as `response_format`; else it is put into the prompt.
    `usage_in_stream`: `stream_options.include_usage` may be sent.
    `reasoning_fields`: where reasoning is read from; the first that is not empty wins, since some
    servers send two copies. `reasoning_back`: it is sent back, under the name it was read from.
    `sampling`: the sampling parameters that may be sent; others are left out, since some models
    refuse them. `defaults` are settings that are sent unless the request has its own.
    """

    name: str
    max_tokens_param: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    json_schema: bool = True
    usage_in_stream: bool = True
    reasoning_fields: tuple[str, ...] = ("reasoning_content", "reasoning")
    reasoning_back: bool = True
    sampling: frozenset[str] = SAMPLING
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def named(cls, name: str) -> Profile:
        """The profile of this name."""
        for profile in _PROFILES:
            if profile.name == name:
                return profile
        known = ", ".join(profile.name for profile in _PROFILES)
        raise NoModel(f"There is no model profile {name!r} (FLOWKIT_PROFILE): use one of {known}.")

    @classmethod
    def of_host(cls, host: str) -> Profile:
        """The profile for who names none."""
        return _OPENAI if host.partition(":")[0].endswith("api.openai.com") else _GENERIC


_GENERIC: Final = Profile("generic")

# api.openai.com refuses max_tokens for its reasoning models, and message fields it does not know.
_OPENAI: Final = replace(
    _GENERIC, name="openai", max_tokens_param="max_completion_tokens", reasoning_back=False
)

_PROFILES: Final = (_GENERIC, _OPENAI)
