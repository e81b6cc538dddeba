"""What can go wrong between flowkit and a model, by what helps.

    ModelError(FlowkitError)
      ModelUnavailable    overloaded, 5xx, network, time is over, a cut stream    try again
      RateLimited         too many requests; `retry_after_s` if the server says   try again, later
      BadModelAnswer      an answer came that cannot be used                      try again
      ContextOverflow     the conversation is too long                            send less
      ContentFiltered     moderation refused the prompt or the answer             fall back
      QuotaExhausted      no balance, no subscription                             pay, or fall back
      ModelNotFound       the server has no such model (any more)                 fall back
      ModelAuthError      the key is refused                                      change the key
      BadModelRequest     the server does not understand the request              mend the request
      NoModel             nothing is configured, or not completely                configure

No message holds a key. None of them has a cause: what the SDK raises carries the request, and
with it the key.
"""

from __future__ import annotations

from typing import ClassVar

from flowkit.errors import FlowkitError
from flowkit.ports import ModelAnswer

HOW_TO_CONFIGURE = (
    "Set OPENAI_API_KEY, or MOONSHOT_API_KEY, or OPENAI_BASE_URL for a server that needs no key "
    "(such as http://localhost:8000/v1). FLOWKIT_MODEL, FLOWKIT_BASE_URL and FLOWKIT_API_KEY "
    "come before them."
)


class ModelError(FlowkitError):
    """The model did not answer.

    `retryable`: the same request may succeed later; `retry_after_s`: not before so many seconds,
    as the server says. `status` is the HTTP status, or None where there was none.
    """

    retries: ClassVar[bool] = False
    """What `retryable` is for this class, where nothing else is said."""

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = self.retries if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.status = status


class ModelUnavailable(ModelError):
    """The model cannot be reached, or broke off; it may work later."""

    retries = True


class RateLimited(ModelError):
    """Too many requests, or too many tokens, in a time."""

    retries = True


class QuotaExhausted(ModelError):
    """The account has no balance or quota left; waiting does not help."""


class ModelAuthError(ModelError):
    """The key is refused, or may not use this model."""


class ModelNotFound(ModelError):
    """The server does not have this model."""


class BadModelRequest(ModelError):
    """The server does not understand the request.

    `schema_refused`: what it does not take is the `response_format`.
    """

    def __init__(
        self, message: str = "", *, status: int | None = None, schema_refused: bool = False
    ) -> None:
        super().__init__(message, status=status)
        self.schema_refused = schema_refused


class ContextOverflow(ModelError):
    """The conversation is longer than the model's context."""


class ContentFiltered(ModelError):
    """Moderation refused the prompt or the answer."""


class BadModelAnswer(ModelError):
    """An answer came that cannot be used; `answer` is what came of it."""

    retries = True

    def __init__(self, message: str = "", *, answer: ModelAnswer | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class NoModel(ModelError):
    """No language model is configured."""

    def __init__(self, message: str = "No language model is configured.") -> None:
        super().__init__(f"{message} {HOW_TO_CONFIGURE}")
