"""`calculate`: arithmetic for a model, parsed and never run as code."""

from __future__ import annotations

import ast
import math
import operator
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field

from flowkit.node import Context
from flowkit.nodes.tool import tool

CHARACTERS_MAX: Final = 1_000
DEPTH_MAX: Final = 40
BITS_MAX: Final = 1_024
"""Size of a whole number, about 308 decimal digits, which is where floats end too."""

Number = int | float


class BadExpression(ValueError):
    """The expression cannot be calculated; the message says what to write instead."""


class Expression(BaseModel):
    """What to calculate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expression: Annotated[str, Field(max_length=CHARACTERS_MAX)] = Field(
        description=(
            "Arithmetic with numbers only, no units: + - * / // % ** and parentheses, and abs, ceil, "
            "exp, floor, log, log10, max, mean, median, min, round, sqrt, sum, pi, e. "
            "Example: (1,250 + 380) / 2"
        )
    )


class Calculated(BaseModel):
    """An expression and its value."""

    model_config = ConfigDict(frozen=True)

    expression: str
    value: Number


@tool(effect="pure")
def calculate(ctx: Context, expression: Expression) -> Calculated:
    """Calculate an arithmetic expression exactly. Use it for every sum, difference, ratio or mean."""
    return Calculated(expression=expression.expression, value=evaluate(expression.expression))


def evaluate(expression: str) -> Number:
    """The value of an expression; whole numbers are exact, others have 12 significant digits.

    Raises:
        BadExpression: with what to write instead.
    """
    if len(expression) > CHARACTERS_MAX:
        raise BadExpression(
            f"{len(expression)} characters; at most {CHARACTERS_MAX}. Calculate it in parts."
        )
    text = _plain(expression)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadExpression(_not_arithmetic(expression, error)) from error
    try:
        value = _value(tree.body, 0)
    except ZeroDivisionError as error:
        raise BadExpression(f"{expression[:80]!r} divides by zero.") from error
    except OverflowError as error:
        raise BadExpression(f"{expression[:80]!r} is too large to calculate.") from error
    if isinstance(value, list):
        raise BadExpression("a list is no number: put it into sum(...), mean(...), min or max.")
    return _rounded(value)


def _rounded(value: Number) -> Number:
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        raise BadExpression("the result is not a finite number.")
    short = float(f"{value:.12g}")
    return int(short) if short.is_integer() and abs(short) < 10**12 else short


# ---- what people write is made Python's arithmetic

_SIGNS: Final = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "\u00a0": " "})
_GROUPED: Final = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?![\d,])")
_CALL: Final = re.compile(r"[A-Za-z_]\w*\s*\Z")
_FOREIGN: Final = re.compile(r"[^\w\s+\-*/%().,\[\]^=<>]|[^\W\dA-Za-z_]")
_UNIT: Final = re.compile(r"(?<![A-Za-z_])[\d.]*\d(?!e[+-]?\d)[A-Za-z]+", re.IGNORECASE)


def _plain(expression: str) -> str:
    """Typographic signs as Python's, thousands without their commas.

    In a call a comma stands between arguments, so that `max(1,200)` could mean two things.
    """
    text = " ".join(expression.translate(_SIGNS).split())
    if foreign := _FOREIGN.search(text):
        raise BadExpression(f"{foreign[0]!r} is no part of arithmetic: give numbers without units.")
    if unit := _UNIT.search(text):
        raise BadExpression(f"{unit[0]!r}: a number stands alone, without a unit; 2 pi is 2 * pi.")
    calls = list(_inside_calls(text))
    parts: list[str] = []
    end = 0
    for found in _GROUPED.finditer(text):
        if calls[found.start()]:
            raise BadExpression(
                f"{found[0]!r} stands among arguments, where a comma separates: write "
                f"{found[0].replace(',', '')!r} for one number, {found[0].replace(',', ', ')!r} for more."
            )
        parts += [text[end : found.start()], found[0].replace(",", "")]
        end = found.end()
    return "".join([*parts, text[end:]])


def _inside_calls(text: str) -> Iterator[bool]:
    """For each character: whether the innermost bracket around it is a call's, or a list's."""
    stack: list[bool] = []
    for place, character in enumerate(text):
        if character in "([":
            stack.append(character == "[" or _CALL.search(text[:place]) is not None)
        elif character in ")]" and stack:
            stack.pop()
        yield bool(stack and stack[-1])


def _not_arithmetic(expression: str, error: Exception) -> str:
    hint = "write it with + - * / ** and parentheses, as in (1250 + 380) / 2."
    if "%" in expression:
        hint = "% is the remainder of a division; write 5 per cent of 80 as 80 * 5 / 100."
    elif "=" in expression:
        hint = "an expression has no =; give one side of it."
    reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deep"
    return f"{expression[:80]!r} is not arithmetic ({reason}): {hint}"


# ---- the tree, node by node

_Operation = Callable[[Any, Any], Any]

_BINARY: Final[Mapping[type[ast.operator], _Operation]] = MappingProxyType(
    dict[type[ast.operator], _Operation](
        {
            ast.Add: operator.add,
            ast.Sub: operator.sub,
            ast.Mult: operator.mul,
            ast.Div: lambda left, right: left / right,
            ast.FloorDiv: lambda left, right: left // right,
            ast.Mod: operator.mod,
        }
    )
)

_CONSTANTS: Final[Mapping[str, float]] = MappingProxyType({"pi": math.pi, "e": math.e})


def _value(node: ast.expr, depth: int) -> Number | list[Number]:
    if depth > DEPTH_MAX:
        raise BadExpression(
            f"nested more than {DEPTH_MAX} levels deep: calculate the inner part first."
        )
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, depth)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(operand, depth)
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return _power(_number(left, depth), _number(right, depth))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_number(left, depth), _number(right, depth)))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_number(item, depth) for item in items]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _call(name, [_value(argument, depth + 1) for argument in arguments])
        case _:
            pass
    raise BadExpression(_unknown(node))


def _number(node: ast.expr, depth: int) -> Number:
    value = _value(node, depth + 1)
    if isinstance(value, list):
        raise BadExpression("a list stands where a number is needed: use sum(...) or mean(...).")
    return value


def _unknown(node: ast.expr) -> str:
    shown = ast.unparse(node)[:60]
    functions = ", ".join(_FUNCTIONS)
    match node:
        case ast.BinOp(op=ast.BitXor()):
            return f"{shown!r}: ^ is no power here, write **."
        case ast.Call() | ast.Name():
            return (
                f"{shown!r} is not known. Functions: {functions}; constants: pi, e; else numbers."
            )
        case _:
            return f"{shown!r} is no arithmetic: use numbers, + - * / // % ** and {functions}."


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > BITS_MAX:
        raise OverflowError
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    return value


def _power(base: Number, exponent: Number) -> Number:
    """Refused before it is made, if it would be too large."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        if abs(base) > 1 and exponent * (abs(base).bit_length() - 1) > BITS_MAX:
            raise OverflowError
    elif isinstance(exponent, int) and abs(exponent) > BITS_MAX * 16:
        exponent = float(exponent)
    power: object = base**exponent
    if isinstance(power, complex):
        raise BadExpression(f"{base} ** {exponent} has no real value.")
    return _bounded(cast("Number", power))


def _call(name: str, arguments: Sequence[Number | list[Number]]) -> Number:
    known = _FUNCTIONS[name]
    numbers: list[Number] = []
    for argument in arguments:
        if isinstance(argument, list) and known.most < _MANY:
            raise BadExpression(f"{name}(...) takes numbers, not a list.")
        numbers += argument if isinstance(argument, list) else [argument]
    if not known.least <= len(numbers) <= known.most:
        wanted = _count(known.least, known.most)
        raise BadExpression(f"{name}(...) takes {wanted}, got {len(numbers)}.")
    try:
        return _bounded(known.call(*numbers))
    except (ValueError, TypeError) as error:
        shown = ", ".join(str(number) for number in numbers[:5])
        raise BadExpression(f"{name}({shown}) has no value: {error}.") from error


def _count(least: int, most: int) -> str:
    if most > CHARACTERS_MAX:
        return f"at least {least} number{'s' if least > 1 else ''}"
    return f"{least} number{'s' if least > 1 else ''}" if least == most else f"{least} or {most}"


def _round(number: Number, digits: Number = 0) -> Number:
    if digits != int(digits) or abs(digits) > 15:
        raise ValueError("the number of digits is a whole number from -15 to 15")
    return round(number, int(digits)) if digits else round(number)


def _sum(*numbers: Number) -> Number:
    return sum(numbers) if all(isinstance(each, int) for each in numbers) else math.fsum(numbers)


def _mean(*numbers: Number) -> Number:
    return statistics.mean(numbers)


def _median(*numbers: Number) -> Number:
    return statistics.median(numbers)


_MANY: Final = CHARACTERS_MAX + 1


@dataclass(frozen=True, slots=True)
class _Function:
    """A function and how many numbers it takes, by default many; they may stand in a list then."""

    call: Callable[..., Any]
    least: int = 1
    most: int = _MANY


_FUNCTIONS: Final[Mapping[str, _Function]] = MappingProxyType(
    {
        "abs": _Function(abs, 1, 1),
        "ceil": _Function(math.ceil, 1, 1),
        "exp": _Function(math.exp, 1, 1),
        "floor": _Function(math.floor, 1, 1),
        "log": _Function(math.log, 1, 2),
        "log10": _Function(math.log10, 1, 1),
        "max": _Function(lambda *numbers: max(numbers)),
        "mean": _Function(_mean),
        "median": _Function(_median),
        "min": _Function(lambda *numbers: min(numbers)),
        "round": _Function(_round, 1, 2),
        "sqrt": _Function(math.sqrt, 1, 1),
        "sum": _Function(_sum),
    }
)
