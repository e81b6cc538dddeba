"""Recorded errors as exceptions that have the same name, the same text, and the same consequence."""

from __future__ import annotations

import builtins
from typing import Any, cast

import flowkit.errors as fault
import flowkit.events as ev
from flowkit.chat import ChatMessage, ModelAnswer, Usage
from flowkit.errors import BadModelAnswer, Fatal, ModelError, Replan, Retry
from flowkit.events import Error


def class_of(name: str) -> type[BaseException]:
    """The class of this name, flowkit's or Python's; of others `Exception`."""
    for where in (fault, builtins):
        found: object = getattr(where, name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return Exception


def raised_as(base: type[BaseException], error: Error) -> BaseException:
    """An error of this class, under the recorded name and with the recorded text."""

    def begin(self: BaseException, *_: object) -> None:
        BaseException.__init__(self, error.message)
        if isinstance(self, Retry):
            self.after_s = None

    def text(self: BaseException) -> str:
        return error.message

    body: dict[str, Any] = {"__init__": begin, "__str__": text}
    return cast(BaseException, type(error.type, (base,), body)())


def raised_then(
    error: Error, then: str, *, last: bool, moves: tuple[type[BaseException], ...]
) -> BaseException:
    """An error after which comes what came then. `moves`: what moves on to the next alternative."""
    given = {"fatal": Fatal, "replan": Replan}.get(then)
    known = {each.__name__: each for each in moves}
    base: type[BaseException] = given or known.get(error.type) or class_of(error.type)
    if then == "next" and not issubclass(base, moves):
        base = moves[0]
    if then == "fail" and not last and issubclass(base, moves):
        base = BaseException  # it was of a class that did not move on
    return raised_as(base, error)


def retried_after(error: Error, after_s: float) -> BaseException:
    """An error after which its node is tried again so many seconds later, whatever its policy says."""
    made = raised_as(Retry, error)
    setattr(made, "after_s", after_s)  # noqa: B010  (`raised_as` gives any error)
    return made


def model_error(answered: ev.ModelAnswered, error: Error) -> ModelError:
    """An error of a model, with what was used of it."""
    found = class_of(error.type)
    kind = found if issubclass(found, ModelError) else ModelError
    made = kind(error.message)
    if kind is ModelError and error.type != "ModelError":
        made = cast(ModelError, type(error.type, (ModelError,), {})(error.message))
    made.args = (error.message,)  # some classes add to what they are given
    made.retryable = answered.retry_at is not None
    if isinstance(made, BadModelAnswer) and answered.usage != Usage():
        made.answer = ModelAnswer(
            ChatMessage("assistant"), usage=answered.usage, model=answered.model
        )
    return made
