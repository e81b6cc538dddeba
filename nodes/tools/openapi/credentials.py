"""Credentials for APIs: the host's, asked for when a request is made, and for one base address each.

No model sees them, no journal holds them: a tool takes them from the engine's resources, puts them on
the request last, and takes them out of whatever comes back.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from flowkit.nodes.tools.openapi.request import Request

Secret: TypeAlias = str | Callable[[], Awaitable[str]]
"""A secret, or an async function that gives it as it is now, such as a token that is renewed."""

REDACTED: Final = "[credential]"
_HIDDEN_FROM: Final = 6  # shorter secrets stand in ordinary text by chance


@dataclass(frozen=True, slots=True)
class Bearer:
    """`Authorization: Bearer …`."""

    token: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class Basic:
    """`Authorization: Basic …` of a user's name and password (RFC 7617)."""

    user: str
    password: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key under a name in a header, the query, or a cookie."""

    name: str
    key: Secret = field(repr=False)
    where: Literal["header", "query", "cookie"] = "header"


Credential: TypeAlias = Bearer | Basic | ApiKey


class Credentials:
    """What an engine's APIs are to be shown, by their base address; given to it as a resource.

        Credentials({"https://crm.example.com/api": Bearer(token)})

    They go to that address alone, over https, or to a place that the engine's `Web` allows by name.
    """

    def __init__(self, by_base: Mapping[str, Credential | Sequence[Credential]]) -> None:
        self._by_base = MappingProxyType(
            {
                base_of(base): (given,)
                if isinstance(given, Bearer | Basic | ApiKey)
                else tuple(given)
                for base, given in by_base.items()
            }
        )

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._by_base)})"

    def of(self, base: str) -> Sequence[Credential]:
        """Those for a base address; none if it has none."""
        return self._by_base.get(base, ())


def base_of(url: str) -> str:
    """A base address as it is compared; `ValueError` if it is none."""
    parts = urlsplit(url.strip())
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not re.fullmatch(r"[\x21-\x7e]+", url.strip())
        or ".." in parts.path
    ):
        raise ValueError(
            f"{url[:120]!r} is no base address: give one as https://host/path, without user, query and fragment."
        )
    port = {("http", 80): "", ("https", 443): ""}.get(
        (parts.scheme, parts.port or 0), f":{parts.port}" if parts.port else ""
    )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


async def with_credentials(
    request: Request, credentials: Sequence[Credential]
) -> tuple[Request, Sequence[str]]:
    """The request with them on it, and the texts that must not be shown."""
    hidden: list[str] = []
    for each in credentials:
        secret = (
            each.token
            if isinstance(each, Bearer)
            else each.key
            if isinstance(each, ApiKey)
            else each.password
        )
        text = secret if isinstance(secret, str) else await secret()
        if not text or not re.fullmatch(r"[\x20-\x7e]+", text):
            raise ValueError(
                f"the host's {type(each).__name__} credential is empty, or has characters that no header "
                f"can have, such as an end of line."
            )
        request, sent = _put(request, each, text)
        hidden += [text, sent, quote(text, safe="")]
    return request, [each for each in dict.fromkeys(hidden) if len(each) >= _HIDDEN_FROM]


def _put(request: Request, credential: Credential, text: str) -> tuple[Request, str]:
    """The request with one of them, in place of what stood there, and the text as it is sent."""
    if isinstance(credential, Bearer):
        return _with_header(request, "Authorization", f"Bearer {text}"), text
    if isinstance(credential, Basic):
        packed = base64.b64encode(f"{credential.user}:{text}".encode()).decode()
        return _with_header(request, "Authorization", f"Basic {packed}"), packed
    name, encoded = credential.name, quote(text, safe="")
    if credential.where == "header":
        return _with_header(request, name, text), text
    if credential.where == "query":
        kept = [pair for pair in request.query if pair[0].lower() != name.lower()]
        return replace(request, query=[*kept, (quote(name, safe="[]"), encoded)]), encoded
    kept = [pair for pair in request.cookies if pair[0].lower() != name.lower()]
    return replace(request, cookies=[*kept, (name, encoded)]), encoded


def _with_header(request: Request, name: str, value: str) -> Request:
    kept = {key: each for key, each in request.headers.items() if key.lower() != name.lower()}
    return replace(request, headers={**kept, name: value})
