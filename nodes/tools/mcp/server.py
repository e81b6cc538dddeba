"""`McpServer`: how a server is reached, as a value. Nothing is started, and no secret is read, by making one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from flowkit.errors import DeclarationError
from flowkit.graph import check_name

NAME_CHARACTERS_MAX: Final = 32

Secret: TypeAlias = str | Callable[[], str]
"""A text; or `env:NAME`, alone or as the last word (`Bearer env:NAME`); or a function that gives it.

Read when a connection is made, so that no secret stands in the code, a journal or a `repr`.
"""

_SECRET_CHARACTERS: Final = 8  # what is shorter stands in any text
_REFERENCE: Final = re.compile(r"(?P<before>.* )?env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class McpServer:
    """An MCP server. Made by `McpServer.stdio` or `McpServer.http`; its name begins its tools' names."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    cwd: Path | None = None
    secrets: tuple[tuple[str, Secret], ...] = field(default=(), repr=False)
    """The whole environment of the process, or the headers of each request."""

    def __post_init__(self) -> None:
        check_name(self.name, "MCP server")
        if len(self.name) > NAME_CHARACTERS_MAX:
            raise DeclarationError(
                f"MCP server {self.name!r}: at most {NAME_CHARACTERS_MAX} characters, since the names of its "
                f"tools begin with it."
            )

    @classmethod
    def stdio(
        cls,
        name: str,
        command: str,
        *arguments: str,
        env: Mapping[str, Secret] | None = None,
        cwd: Path | None = None,
    ) -> McpServer:
        """A program that speaks the protocol on its standard input and output.

        Args:
            env: all of its environment; nothing is inherited. `{"PATH": "env:PATH"}` hands one on.
        """
        return cls(name, (command, *arguments), "", cwd, tuple((env or {}).items()))

    @classmethod
    def http(cls, name: str, url: str, *, headers: Mapping[str, Secret] | None = None) -> McpServer:
        """A server of streamable HTTP at an address.

        Raises:
            DeclarationError: an address that is none, or that holds a password.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DeclarationError(
                f"MCP server {name!r}: {url[:80]!r} is no http or https address."
            )
        if "@" in parts.netloc:
            raise DeclarationError(
                f"MCP server {name!r}: its address holds a user or password, which would be logged. Say "
                f'headers={{"Authorization": "Bearer env:NAME"}}.'
            )
        return cls(name, (), url, None, tuple((headers or {}).items()))

    def resolved(self) -> dict[str, str]:
        """The environment or the headers, with what they refer to; `LookupError` names what is missing."""
        return {key: self._read(key, secret) for key, secret in self.secrets}

    def hidden(self, text: str) -> str:
        """A text of the server without the secrets that it was given."""
        for key, secret in self.secrets:
            if not isinstance(secret, str) or "env:" in secret:
                with suppress(LookupError):
                    told = self._read(key, secret).rpartition(" ")[2]
                    text = text.replace(told, "•••") if len(told) >= _SECRET_CHARACTERS else text
        return text

    def _read(self, key: str, secret: Secret) -> str:
        if not isinstance(secret, str):
            return secret()
        found = _REFERENCE.fullmatch(secret)
        if found is None:
            return secret
        if found["name"] not in os.environ:
            raise LookupError(
                f"MCP server {self.name!r} needs {key}, which is read from the environment variable "
                f"{found['name']}: set it."
            )
        return (found["before"] or "") + os.environ[found["name"]]
