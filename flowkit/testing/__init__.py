"""Models for tests: one in memory, and a strict server that speaks chat completions over HTTP.

`ScriptedModel` says what its script says. `strict_server` does the same to any client, refuses what
the real servers refuse, and does wrong what they do wrong, as far as it is told to.
"""

from flowkit.testing.faults import FAULTS, TRANSIENT, Fault, FaultPlan, Faults
from flowkit.testing.model import ScriptedModel
from flowkit.testing.rules import Rules, Violation
from flowkit.testing.script import Reply, Rule, Script, ScriptOver, by_text, by_turn, calls, says
from flowkit.testing.server import StrictServer, strict_server

__all__ = [
    "FAULTS",
    "TRANSIENT",
    "Fault",
    "FaultPlan",
    "Faults",
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
    "says",
    "strict_server",
]
