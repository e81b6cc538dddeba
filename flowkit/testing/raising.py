"""Recorded errors as exceptions that have the same name, the same text, and the same consequence."""

from __future__ import annotations

import builtins
from typing import Any, cast

import flowkit.errors as fault
import flowkit.events as ev
from flowkit.chat import ChatMessage, ModelAnswer, Usage
from flowkit.errors import BadModelAnswer, ModelError, Retry
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
