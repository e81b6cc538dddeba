"""Does a value of one declared type fit where another is declared? Compared at import.

The rules are pydantic's lax ones as far as types can tell: subclasses fit, every member of a union
must fit, containers are read covariantly, `int` fits `float`, and `Any` passes both ways. What cannot
be judged (type variables, protocols) passes: a run still validates every value that it stores.
"""

from __future__ import annotations

import types
from collections import abc
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
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
    if get_origin(given) is Literal:
        return all(_literal_fits(value, wanted) for value in get_args(given))
    if (members := _members(wanted)) is not None:
        return any(fits(given, member) for member in members)
    return get_origin(wanted) is not Literal and _generic_fits(given, wanted)


def _literal_fits(value: Any, wanted: Any) -> bool:
    if (members := _members(wanted)) is not None:
        return any(_literal_fits(value, _plain(member)) for member in members)
    if get_origin(wanted) is Literal:
        return any(type(each) is type(value) and each == value for each in get_args(wanted))
    return fits(type(value), wanted)


def _plain(hint: Any) -> Any:
    while True:
        if get_origin(hint) in (Annotated, Required, NotRequired):
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
    if _is_typed_dict(wanted_class):
        return _is_typed_dict(given_class) and _fields_fit(given_class, wanted_class)
    if _is_typed_dict(given_class):
        return wanted_class in (dict, abc.Mapping)
    if any(issubclass(given_class, mine) and wanted_class is yours for mine, yours in _NUMBERS):
        return True
    if not issubclass(given_class, wanted_class):
        return False
    if wanted_class in (abc.Sequence, abc.Iterable, abc.Collection) and issubclass(
        given_class, str | bytes
    ):
        return False
    return _arguments_fit(given, wanted, given_class)


def _is_typed_dict(hint: Any) -> bool:
    """Whether a class is a TypedDict, be it typing's or that of typing_extensions."""
    return hasattr(hint, "__required_keys__") and issubclass(hint, dict)


def _fields_fit(given: Any, wanted: Any) -> bool:
    try:
        mine = get_type_hints(given, include_extras=True)
        yours = get_type_hints(wanted, include_extras=True)
    except NameError:
        return True
    return _required(wanted, yours) <= _required(given, mine) and all(
        fits(mine[name], hint) for name, hint in yours.items() if name in mine
    )


def _required(typed: Any, hints: Mapping[str, Any]) -> set[str]:
    """Keys that are always there. The class does not know it of annotations that were text."""
    said = {name: get_origin(hint) for name, hint in hints.items()}
    return {
        name
        for name, origin in said.items()
        if origin is Required or (name in typed.__required_keys__ and origin is not NotRequired)
    }


def _arguments_fit(given: Any, wanted: Any, given_class: type) -> bool:
    wanted_args, given_args = get_args(wanted), get_args(given)
    if () in (_tuple_of(given), _tuple_of(wanted)):
        return not given_args and (not wanted_args or Ellipsis in wanted_args)
    if not wanted_args or not given_args:
        return True  # a bare container, or a class that fixed its own parameters
    if given_class is tuple:
        return _tuple_fits(given_args, wanted_args, get_origin(wanted) is tuple)
    if len(given_args) != len(wanted_args):
        return True
    return all(fits(mine, yours) for mine, yours in zip(given_args, wanted_args, strict=True))


def _tuple_of(hint: Any) -> tuple[Any, ...] | None:
    return get_args(hint) if get_origin(hint) is tuple else None


def _tuple_fits(given: tuple[Any, ...], wanted: tuple[Any, ...], to_tuple: bool) -> bool:
    items = [item for item in given if item is not Ellipsis]
    if not to_tuple:
        return all(fits(item, wanted[0]) for item in items)
    if wanted[-1] is Ellipsis:
        return all(fits(item, wanted[0]) for item in items)
    if Ellipsis in given or len(given) != len(wanted):
        return False
    return all(fits(mine, yours) for mine, yours in zip(given, wanted, strict=True))
