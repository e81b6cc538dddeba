"""For tests: models, in memory and as a strict server over HTTP, and a harness that crashes workflows.

`ScriptedModel` says what its script says. `strict_server` does the same to any client, refuses what
the real servers refuse, and does wrong what they do wrong, as far as it is told to. `crash_everywhere` crashes a workflow of one's own at each
point of its journal, and tells what came of it. `replay` drives a workflow with what a recorded run was given,
and tells where it does something else.
"""

from flowkit.testing.crash import Crash, CrashReport, crash_everywhere
from flowkit.testing.faults import FAULTS, TRANSIENT, Fault, FaultPlan, Faults
from flowkit.testing.model import ScriptedModel
from flowkit.testing.recording import Recording
from flowkit.testing.replay import Replay, replay
from flowkit.testing.rules import Rules, Violation
from flowkit.testing.script import Reply, Rule, Script, ScriptOver, by_text, by_turn, calls, says
from flowkit.testing.server import StrictServer, strict_server

__all__ = [
    "FAULTS",
    "TRANSIENT",
    "Crash",
    "CrashReport",
    "Fault",
    "FaultPlan",
    "Faults",
    "Recording",
    "Replay",
    "Reply",
    "Rule",
    "Rules",
    "Script",
    "ScriptOver",
    "ScriptedModel",
    "StrictServer",
    "Violation",
    "by_text",
    "by_turn",
    "calls",
    "crash_everywhere",
    "replay",
    "says",
    "strict_server",
]
