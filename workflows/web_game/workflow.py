"""The workflow: from a vague request to one playable HTML file."""

from __future__ import annotations

from flowkit import Ref, workflow
from flowkit.workflows.web_game.steps import (
    VERSIONS_MAX,
    embedded_game,
    hand_over,
    plain_specification,
    plays_right,
    specify,
    writer,
)
from flowkit.workflows.web_game.values import GameReport, GameRequest


@workflow
def web_game(request: Ref[GameRequest]) -> Ref[GameReport]:
    """Make a game of Gomoku with skills: specify it, write it, play it in a browser, mend it."""
    specification = (specify | plain_specification)(request, id="specification")
    game = (writer | embedded_game)(specification, id="game")
    checked = plays_right(game, attempts=VERSIONS_MAX + 1)
    return hand_over(request, specification, checked)
