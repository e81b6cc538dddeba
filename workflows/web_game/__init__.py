"""Gomoku with skills: from a vague request to one playable HTML file.

    specification   specify, a model's | plain_specification
    game            writer: one ```html block, sealed, played in a real Chromium | embedded_game
    plays_right     what the play found goes back to the writer, with what was done, expected and seen
    hand_over       game.html, and a report of how it came about

Run it: `flowkit run web_game --example --out game/`, or `flowkit run web_game --input request="..."`.
"""

from __future__ import annotations

from flowkit.workflows.web_game.embedded import OFFLINE_RULES
from flowkit.workflows.web_game.play.browser import Browser
from flowkit.workflows.web_game.values import GameReport, GameRequest, Specification
from flowkit.workflows.web_game.workflow import web_game

EXAMPLE = GameRequest(request="Make me a five-in-a-row game with skills, something nice to play.")
"""A vague request, as it comes."""

VOLATILE = (
    "html.sha256", "html.size", "markdown.sha256", "markdown.size", "screenshots.0.sha256",
    "screenshots.0.size", "screenshots.1.sha256", "screenshots.1.size",
)  # fmt: skip
"""Fields of the result that two runs do not share: pages tell times, pictures differ by a pixel."""

__all__ = [
    "EXAMPLE",
    "OFFLINE_RULES",
    "VOLATILE",
    "Browser",
    "GameReport",
    "GameRequest",
    "Specification",
    "web_game",
]
