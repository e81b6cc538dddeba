"""Does a value of one declared type fit where another is declared? Compared at import.

The rules are pydantic's lax ones as far as types can tell: subclasses fit, every member of a union
must fit, containers are read covariantly, `int` fits `float`, and `Any` passes both ways. What cannot
be judged (type variables, protocols) passes: a run still validates every value that it stores.
"""

from __future__ import annotations

import types
from collections import abc
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    TypeVar,
    Union,
    get_args,
    get_origin,
    is_typeddict,
)

_NUMBERS: tuple[tuple[type, type], ...] = ((int, float), (int, complex), (float, complex))


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value declared as `given` may be used where `wanted` is declared."""
    given, wanted = _plain(given), _plain(wanted)
    if (
        given is wanted
        or given == wanted
        or _unknown(given)
        or _unknown(wanted)
        or wanted is object
    ):
        return True
    if (members := _members(given)) is not None:
        return all(fits(member, wanted) for member in members)
    if (members := _members(wanted)) is not None:
        return any(fits(given, member) for member in members)
    if get_origin(given) is Literal:
        if get_origin(wanted) is Literal:
            return set(get_args(given)) <= set(get_args(wanted))
        return all(fits(type(value), wanted) for value in get_args(given))
    if get_origin(wanted) is Literal:
        return False
    return _generic_fits(given, wanted)


def _plain(hint: Any) -> Any:
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        else:
            return type(None) if hint is None else hint


def _unknown(hint: Any) -> bool:
    return (
        hint is Any
        or isinstance(hint, TypeVar | str)
        or (getattr(hint, "_is_protocol", False) and not _is_abc(hint))
    )


def _is_abc(hint: Any) -> bool:
    return getattr(hint, "__module__", "") == "collections.abc"


def _members(hint: Any) -> tuple[Any, ...] | None:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else None


def _generic_fits(given: Any, wanted: Any) -> bool:
    given_class, wanted_class = get_origin(given) or given, get_origin(wanted) or wanted
    if not isinstance(given_class, type) or not isinstance(wanted_class, type):
        return True
    if is_typeddict(given_class) or is_typeddict(wanted_class):
        return given_class is wanted_class or wanted_class in (dict, abc.Mapping)
    if (given_class, wanted_class) in _NUMBERS:
        return True
    if not issubclass(given_class, wanted_class):
        return False
    if wanted_class in (abc.Sequence, abc.Iterable, abc.Collection) and given_class in (str, bytes):
        return False
    return _arguments_fit(given, wanted, given_class)


def _arguments_fit(given: Any, wanted: Any, given_class: type) -> bool:
    wanted_args, given_args = get_args(wanted), get_args(given)
    if not wanted_args or not given_args:
        return True  # a bare container, or a class that fixed its own parameters
    if given_class is tuple:
        return _tuple_fits(given_args, wanted_args, get_origin(wanted) is tuple)
    if len(given_args) != len(wanted_args):
        return True
    return all(fits(mine, yours) for mine, yours in zip(given_args, wanted_args, strict=True))


def _tuple_fits(given: tuple[Any, ...], wanted: tuple[Any, ...], to_tuple: bool) -> bool:
    items = [item for item in given if item is not Ellipsis]
    if not to_tuple:
        return all(fits(item, wanted[0]) for item in items)
    if wanted[-1] is Ellipsis:
        return all(fits(item, wanted[0]) for item in items)
    if Ellipsis in given or len(given) != len(wanted):
        return False
    return all(fits(mine, yours) for mine, yours in zip(given, wanted, strict=True))
