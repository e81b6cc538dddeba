"""flowkit: long agent workflows that cannot lose their work.

The engine is loaded when it is first asked for: who only declares workflows does not pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowkit.dsl import Ref, Workflow, workflow
from flowkit.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    DeclarationError,
    Fatal,
    FlowkitError,
    OutcomeUnknown,
    Reject,
    Rejected,
    Replan,
    ResumeError,
    Retry,
    RunBusy,
    RunCancelled,
    RunConflict,
    RunNotFound,
    StepFailed,
    VersionMismatch,
)
from flowkit.node import Context
from flowkit.policy import Approve, Budget
from flowkit.values import Artifact

if TYPE_CHECKING:
    from flowkit.engine import Engine
    from flowkit.handle import RunHandle

__all__ = [
    "Approve",
    "Artifact",
    "Budget",
    "BudgetExceeded",
    "Context",
    "DeadlineExceeded",
    "DeclarationError",
    "Engine",
    "Fatal",
    "FlowkitError",
    "OutcomeUnknown",
    "Ref",
    "Reject",
    "Rejected",
    "Replan",
    "ResumeError",
    "Retry",
    "RunBusy",
    "RunCancelled",
    "RunConflict",
    "RunHandle",
    "RunNotFound",
    "StepFailed",
    "VersionMismatch",
    "Workflow",
    "workflow",
]

_LATER = {"Engine": "flowkit.engine", "RunHandle": "flowkit.handle"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return __all__
