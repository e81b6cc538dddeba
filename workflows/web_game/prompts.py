"""What the models are told, and the contract by which the check finds its way in a page."""

from __future__ import annotations

import json

from flowkit.chat import ChatMessage
from flowkit.workflows.web_game.values import RULES, GameRequest, Specification

LANGUAGES = {"en": "English", "zh": "Simplified Chinese (简体中文)"}

_R = RULES

RULES_TEXT = f"""\
- A board of {_R.board} x {_R.board}. Two people at one screen, black and white, place stones in turn; black begins.
- {_R.in_a_row} or more of one colour in a row, a column or either diagonal win; then nothing can be placed until a
  new game. A full board without is a draw.
- Each begins with {_R.energy} energy and gains {_R.gain} after each stone of theirs, never above {_R.energy_max}.
- Skip, {_R.skip_cost} energy, taken when it is pressed, once a turn, before one's stone: the opponent's next turn is
  left out, so the one who skips places two stones one after the other, and gains {_R.gain} for each.
- Forced placement, {_R.force_cost} energy: pressing it takes nothing yet and arms it; pressing again puts it back.
  While it is armed only a stone of the opponent can be chosen (clicks elsewhere do nothing): it is replaced by one's
  own, the energy is taken, {_R.gain} are gained as for any stone, it counts for five in a row, and the turn ends.
- A skill's button is disabled when the one to move has too little energy, and when the game is over; skip also
  while a skip is under way. A new game resets everything.
"""

CONTRACT = f"""\
The page is played by a program, by real clicks, taps and keys on these elements. They must be there as soon as the
page has loaded, exactly once each unless said otherwise:
- {_R.board * _R.board} cells with `data-cell="ROW,COLUMN"` (0 to {_R.board - 1}), each with `data-stone`: "black",
  "white" or "". A stone is seen, in two different looks. At least 18 pixels wide on a phone.
- For each of black and white: `data-energy="black"`, the bar's track, with `role="progressbar"` and `aria-valuenow`;
  in it an element with `data-fill`, whose width is that share of the track; and `data-points="black"`, whose only
  text is the number.
- `<button data-skill="skip">`, `<button data-skill="force">` (for whoever is to move; force with `aria-pressed`
  "true" while armed; `disabled` when it cannot be used), `<button data-action="restart">`; at least 24 pixels high.
- `data-status`, with a text that says how the game stands, and `data-turn` ("black" or "white") and `data-winner`
  ("", "black", "white" or "draw"). It changes within a second of a click.
- Everything fits, without scrolling sideways, 390 pixels wide (a phone, touched) and 1280 (clicked). A cell and all
  buttons are reached with Tab; Enter on a cell places a stone.
- One file. No other script, style, picture, font or request; no alert, confirm or prompt; no localStorage or cookie;
  no eval; no frame or form; no error in the console.
"""

SPECIFY = f"""\
You plan a small web game, Gomoku with skills, from a vague request. Its rules are fixed:
{RULES_TEXT}
Decide what the request leaves open: title, names of the players, look. `wishes` are what it asks for beyond the
rules and can be done in one HTML file without network; `assumptions` say what you decided, a sentence each. A wish
that contradicts the rules is no wish: say so in `assumptions`. All texts in the given language.
"""

WRITE = f"""\
You write one HTML file, a game that is played at once when the file is opened: CSS and script inside it, no library.

The rules:
{RULES_TEXT}
{CONTRACT}
Answer with the whole page in one ```html block, and nothing that matters outside of it. The page begins with
<!DOCTYPE html>. If a version comes back with what was wrong, give the whole page again, mended.
"""


def _fenced(data: object) -> str:
    return f"```json\n{json.dumps(data, ensure_ascii=False, indent=1)}\n```"


def specify(request: GameRequest) -> list[ChatMessage]:
    asked = {"request": request.request, "language": request.spoken}
    told = f"Language: {LANGUAGES[request.spoken]}. The request:\n{_fenced(asked)}"
    return [ChatMessage("system", SPECIFY), ChatMessage("user", told)]


def write(specification: Specification) -> list[ChatMessage]:
    data = specification.model_dump(exclude={"author"})
    told = f"All texts in {LANGUAGES[specification.language]}. The game:\n{_fenced(data)}"
    return [ChatMessage("system", WRITE), ChatMessage("user", told)]


def mend(answer: str, wrong: str) -> list[ChatMessage]:
    """The last answer and what was wrong with it; older versions are not shown again."""
    told = f"That does not pass:\n{wrong}\nGive the whole page again, mended, in one ```html block."
    return [ChatMessage("assistant", answer or "(no text)"), ChatMessage("user", told)]
