"""`SchemaTool`: a tool whose arguments are described by a JSON schema that comes from elsewhere.

A server's tools and an API's operations have no Python types. Their one input is a dict, shown to the
model by the schema as it came, and checked against it before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from flowkit.errors import BadArguments, DeclarationError
from flowkit.graph import check_name
from flowkit.node import AnyNode
from flowkit.nodes.node import Node
from flowkit.nodes.schemas import JsonSchema
from flowkit.policy import Policy
from flowkit.values import Codec, compact, parse

R = TypeVar("R")

SCHEMA_CHARACTERS: Final = 100_000
"""A schema longer than this is refused: every request to the model would carry it."""


class SchemaTool(Node[dict[str, Any], R]):
    """A tool of one input `arguments`, described by a JSON schema (draft 2020-12) of an object.

    Subclasses have `run`, which calls `self.check(arguments)` first. The schema and the description
    count in the fingerprint, so a run that is under way stops when either has changed.

    Raises:
        DeclarationError: a name that is none, a schema that is none, of something else than an object,
            or too long.
    """

    def __init__(
        self, name: str, description: str, schema: Mapping[str, Any], returns: type[R], policy: Policy
    ) -> None:  # fmt: skip
        self.schema, self._read = _object_schema(name, schema)
        takes = {"arguments": dict[str, Any]}
        AnyNode.__init__(self, check_name(name, "tool"), takes, returns, policy)
        self.description = description

    def codecs(self) -> dict[str, Codec]:
        if self._codecs is None:
            self._codecs = {"arguments": _Described(self.schema, f"{self.name}.arguments")}
        return self._codecs

    def fingerprinted(self) -> Sequence[str]:
        return (self.description,)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `BadArguments` with what the schema has against the arguments."""
        if problems := self._read.problems(arguments, 1):
            raise BadArguments(
                f"{self.name} was not called: its arguments do not fit its schema: {problems[0]}"
            )


class _Described(Codec):
    """Values of a dict, with a schema that is given; pydantic itself takes none with definitions."""

    __slots__ = ("_given",)

    def __init__(self, schema: Mapping[str, Any], where: str) -> None:
        super().__init__(dict[str, Any], where)
        self._given = compact(schema)

    def schema(self) -> dict[str, Any]:
        return cast("dict[str, Any]", parse(self._given))


def _object_schema(name: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any], JsonSchema]:
    made: dict[str, Any] = {"type": "object", "properties": {}, **schema}
    if made["type"] != "object" or not isinstance(cast(object, made["properties"]), dict):
        raise DeclarationError(
            f"tool {name!r}: its schema is of {made['type']!r}; a call's arguments are an object."
        )
    if (size := len(compact(made))) > SCHEMA_CHARACTERS:
        raise DeclarationError(
            f"tool {name!r}: its schema has {size:,} characters, {SCHEMA_CHARACTERS:,} are the most."
        )
    try:
        return made, JsonSchema(made)
    except ValueError as error:
        raise DeclarationError(
            f"tool {name!r}: what it calls a schema cannot be used: {error}"
        ) from error
