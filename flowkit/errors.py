"""Every error that flowkit raises, and the four words that a node says with `raise`.

    FlowkitError
      DeclarationError(ValueError)    the workflow cannot be right; raised at import
        UnknownInput · DuplicateStep · CycleFound · UnusedStep · TypeMismatch
      PlanError                       a plan was refused; its text goes back to the planner
        UnknownTool · BadArguments · PlanTooLarge
      ValueRefused(ValueError)        a value cannot be stored; names its path
      RunError                        how a run ended, when it did not succeed
        StepFailed · Rejected · BudgetExceeded · DeadlineExceeded · RunCancelled · RunQuarantined
      ResumeError                     a stored run cannot be driven now
        RunNotFound(LookupError) · VersionMismatch · RunBusy
      RunConflict                     the same run id with another workflow or input
      StoreError                      the journal cannot be read or written
        JournalConflict · LeaseLost · SchemaTooNew · StoreUnusable
      ModelError                      a language model did not answer; by what helps:
        ModelUnavailable                overloaded, 5xx, network, a cut stream     try again
        RateLimited                     too many requests                          try again, later
        BadModelAnswer                  an answer came that cannot be used         try again
        ContextOverflow                 the conversation is too long               send less
        ContentFiltered                 moderation refused prompt or answer        another model
        QuotaExhausted                  no balance, no subscription                pay, or another model
        ModelNotFound                   the server has no such model (any more)    another model
        ModelAuthError                  the key is refused                         change the key
        BadModelRequest                 the server does not understand             mend the request
        NoModel                         nothing is configured, or not completely   configure

Words of a node, not failures of flowkit: Retry · Reject · Replan · Fatal · OutcomeUnknown.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class FlowkitError(Exception):
    """Something in flowkit went wrong."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class DeclarationError(FlowkitError, ValueError):
    """The workflow cannot be right."""


class UnknownInput(DeclarationError):
    """A step reads something that is not in its workflow."""


class DuplicateStep(DeclarationError):
    """Two steps have the same id."""


class CycleFound(DeclarationError):
    """The steps wait for each other."""


class UnusedStep(DeclarationError):
    """A step reaches no output."""


class TypeMismatch(DeclarationError):
    """A value does not fit where it is used."""


class PlanError(FlowkitError):
    """The plan was refused."""


class UnknownTool(PlanError):
    """The plan names a tool that the planner does not have."""


class BadArguments(PlanError):
    """The plan calls a tool with arguments that do not fit."""


class PlanTooLarge(PlanError):
    """The plan has more steps than the planner may plan."""


class ValueRefused(FlowkitError, ValueError):
    """The value cannot be stored as JSON and given back the same."""


class RunError(FlowkitError):
    """The run did not succeed."""


class StepFailed(RunError):
    """A step has failed and the run with it.

    `step` is the step's key, `error_type` the name of the error class of the last attempt.
    """

    def __init__(self, message: str = "", *, step: str = "", error_type: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.error_type = error_type


class Rejected(StepFailed):
    """A verifier has rejected every round of a step."""


class BudgetExceeded(RunError):
    """The run has used up its budget."""


class DeadlineExceeded(RunError):
    """The run's deadline has passed."""


class RunCancelled(RunError):
    """The run was cancelled."""


class RunQuarantined(RunError):
    """The run killed its process three times without a step in between."""


class ResumeError(FlowkitError):
    """The stored run cannot be driven now."""


class RunNotFound(ResumeError, LookupError):
    """No run has this id."""


class VersionMismatch(ResumeError):
    """The workflow has changed since the run began; `diff` says what, one line each."""

    def __init__(self, message: str = "", *, diff: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.diff = diff


class RunBusy(ResumeError):
    """Another process drives the run; `owner` names it, `until` is its lease's end (Unix time)."""

    def __init__(self, message: str = "", *, owner: str = "", until: float = 0.0) -> None:
        super().__init__(message)
        self.owner = owner
        self.until = until


class RunConflict(FlowkitError):
    """A run with this id exists with another workflow or another input."""


class StoreError(FlowkitError):
    """The store cannot do what was asked."""


class JournalConflict(StoreError):
    """The journal does not continue where the writer, or the graph, expects it to."""


class LeaseLost(StoreError):
    """Somebody else drives this run now; nothing was written."""


class SchemaTooNew(StoreError):
    """The database was written by a newer flowkit."""


class StoreUnusable(StoreError):
    """The database cannot be opened or written."""


HOW_TO_CONFIGURE = (
    "Set OPENAI_API_KEY, or MOONSHOT_API_KEY, or OPENAI_BASE_URL for a server that needs no key "
    "(such as http://localhost:8000/v1). FLOWKIT_MODEL, FLOWKIT_BASE_URL and FLOWKIT_API_KEY "
    "come before them."
)


class ModelError(FlowkitError):
    """The model did not answer.

    `retryable`: the same request may succeed later; `retry_after_s`: not before so many seconds,
    as the server says. `status` is the HTTP status, or None where there was none. No message holds
    a key, and none of them has a cause: what an SDK raises carries the request, and with it the key.
    """

    retries: ClassVar[bool] = False
    """What `retryable` is for this class, where nothing else is said."""
    elsewhere: ClassVar[bool] = True
    """Whether another model may well answer the same request."""

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

    elsewhere = False

    def __init__(
        self, message: str = "", *, status: int | None = None, schema_refused: bool = False
    ) -> None:
        super().__init__(message, status=status)
        self.schema_refused = schema_refused


class ContextOverflow(ModelError):
    """The conversation is longer than the model's context."""

    elsewhere = False


class ContentFiltered(ModelError):
    """Moderation refused the prompt or the answer."""


class BadModelAnswer(ModelError):
    """An answer came that cannot be used; `answer` is the `ModelAnswer` that came of it."""

    retries = True

    def __init__(self, message: str = "", *, answer: Any = None) -> None:
        super().__init__(message)
        self.answer = answer


class NoModel(ModelError):
    """No language model is configured."""

    elsewhere = False

    def __init__(self, message: str = "No language model is configured.") -> None:
        bare = message.startswith("No language model is configured")
        told = HOW_TO_CONFIGURE in message  # as in one that was recorded
        super().__init__(f"{message} {HOW_TO_CONFIGURE}" if bare and not told else message)


class Retry(Exception):
    """Say in a node: this try failed, try again, after `after_s` seconds if given."""

    def __init__(
        self, after_s: float | None = None, reason: str = "the node asked for a retry"
    ) -> None:
        super().__init__(reason)
        if after_s is not None and not 0 <= after_s < math.inf:
            raise ValueError(f"Retry(after_s={after_s!r}): a number of seconds, 0 or more")
        self.after_s = after_s


class Reject(Exception):
    """Say in a verifier: do the step again, with this feedback."""

    def __init__(self, feedback: str) -> None:
        super().__init__(feedback)
        self.feedback = feedback


class Replan(Exception):
    """Say in a planned step: the plan does not hold; ask the planner again, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Fatal(Exception):
    """Say in a node: nothing can help; end the run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OutcomeUnknown(Exception):
    """Say in a node with `effect="once"`: it may have happened, and nobody here can tell.

    Its probe is asked then, or a person. In any other node it is an error like every other.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
