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

Words of a node, not failures of flowkit: Retry · Reject · Replan · Fatal.
"""

from __future__ import annotations

import math


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
