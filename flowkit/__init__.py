"""flowkit: long agent workflows that cannot lose their work."""

from __future__ import annotations

from flowkit.dsl import Ref, Workflow, workflow
from flowkit.engine import Engine
from flowkit.errors import (
    DeclarationError,
    Fatal,
    FlowkitError,
    Reject,
    Replan,
    Retry,
    RunConflict,
    StepFailed,
    VersionMismatch,
)
from flowkit.handle import RunHandle
from flowkit.node import Context
from flowkit.policy import Budget
from flowkit.values import Artifact

__all__ = [
    "Artifact",
    "Budget",
    "Context",
    "DeclarationError",
    "Engine",
    "Fatal",
    "FlowkitError",
    "Ref",
    "Reject",
    "Replan",
    "Retry",
    "RunConflict",
    "RunHandle",
    "StepFailed",
    "VersionMismatch",
    "Workflow",
    "workflow",
]
