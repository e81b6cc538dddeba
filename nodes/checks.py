"""Verifiers without a model: a JSON schema, and code that must parse."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, TypeVar

from flowkit.errors import DeclarationError, Reject
from flowkit.node import AnyNode, Context
from flowkit.nodes.schemas import JsonSchema
from flowkit.nodes.verifier import Verifier
from flowkit.policy import Policy
from flowkit.values import compact, parse

A = TypeVar("A")

SHOWN_MAX = 5
"""Errors of a schema that are told at once."""


class FitsSchema(Verifier[A]):
    """Accepts what a JSON schema (Draft 2020-12) accepts. A text is read as JSON first.

    For schemas that come from outside; a type of your own is better declared as the node's result.
    """

    def __init__(
        self, schema: Mapping[str, Any], *, checks: type[A], name: str = "fits_schema"
    ) -> None:
        try:
            self._read = JsonSchema(schema)
        except ValueError as error:
            raise DeclarationError(f"{name}: this is no JSON schema: {error}.") from error
        AnyNode.__init__(self, name, {"value": checks}, checks, Policy())
        self._schema = schema

    def fingerprinted(self) -> tuple[str, ...]:
        return (compact(self._schema),)

    async def run(self, ctx: Context, /, *args: Any) -> None:
        text = (
            args[0]
            if isinstance(args[0], str)
            else next(iter(self.codecs().values())).dump(args[0]).text
        )
        try:
            data = parse(text or "null")
        except ValueError as error:
            raise Reject(f"this is not JSON: {error}") from error
        errors = self._read.problems(data, SHOWN_MAX + 1)
        if errors:
            more = "\n(and more)" if len(errors) > SHOWN_MAX else ""
            raise Reject("\n".join(errors[:SHOWN_MAX]) + more)


class PythonParses(Verifier[str]):
    """Accepts Python source that parses, and that defines the names that are asked for.

    Nothing is run: what code does is for a sandbox to find out.
    """

    def __init__(self, *defines: str, name: str = "python_parses") -> None:
        AnyNode.__init__(self, name, {"source": str}, str, Policy())
        self._defines = defines

    def fingerprinted(self) -> tuple[str, ...]:
        return self._defines

    async def run(self, ctx: Context, /, *args: Any) -> None:
        try:
            tree = ast.parse(args[0])
        except (SyntaxError, ValueError) as error:
            where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
            raise Reject(f"this is not Python: {where}{error}") from error
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        there = {node.name for node in tree.body if isinstance(node, kinds)}
        missing = [each for each in self._defines if each not in there]
        if missing:
            raise Reject(f"it must define {', '.join(missing)} at its top level")
