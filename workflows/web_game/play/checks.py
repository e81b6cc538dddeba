"""The rules, each played on a page that was opened anew. A check returns, or raises `Wrong`.

The figures of `values.RULES` are written out: a check that computed them would repeat a page's mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from flowkit.workflows.web_game.play.board import (
    BARS,
    BUTTONS,
    BUTTONS_LEAST_PX,
    CELLS_LEAST_PX,
    FILL,
    FOCUSED,
    LAYOUT,
    Board,
    Wrong,
)

SIZE = 15
TABS_MAX = SIZE * SIZE + 40

Cell = tuple[int, int]

START: Mapping[str, Any] = MappingProxyType(
    {
        "stones": {},
        "turn": "black",
        "winner": "",
        "energy_black": 100,
        "energy_white": 100,
        "points_black": "100",
        "points_white": "100",
        "skip": True,
    }
)


def alternate(board: Board, cells: Sequence[Cell], **also: Any) -> None:
    """Place stones in turn, black first; each must be there before the next, and what else is wanted."""
    for number, (row, column) in enumerate(cells, 1):
        board.put(row, column)
        board.expect(stones=_placed(cells[:number]), **also)


def _placed(cells: Sequence[Cell]) -> dict[str, str]:
    return {f"{r},{c}": ("black", "white")[n % 2] for n, (r, c) in enumerate(cells)}


# ---- what it looks like


def opens(board: Board) -> None:
    """The board is there, empty, with both energies and all buttons."""
    found = board.read(LAYOUT % json.dumps([*BARS, *BUTTONS]))
    names = sorted(found["names"])
    if names != sorted(f"{row},{column}" for row in range(SIZE) for column in range(SIZE)):
        wanted = f'{SIZE * SIZE} elements data-cell="row,column" with 0 to {SIZE - 1}'
        raise Wrong(board.did, wanted, f"{len(names)} elements, such as {names[:3]}")
    for selector, places in found["places"].items():
        if len(places) != 1:
            raise Wrong(board.did, f"one element {selector}", f"there are {len(places)}")
    state = board.expect(**START)
    if not state["status"]:
        raise Wrong(board.did, "a text in [data-status]", "an empty one")


def fits(board: Board) -> None:
    """Everything is inside the window's width, visible, and large enough to hit."""
    found = board.read(LAYOUT % json.dumps([*BARS, *BUTTONS]))
    wide = board.wide
    did = f"opened the page, {wide} pixels wide"
    if found["content"] > wide + 1:
        raise Wrong(did, "no scrolling sideways", f"the content is {found['content']} pixels wide")
    for selector, (place, *_) in found["places"].items():
        if place["hidden"] or place["w"] < 1 or place["h"] < 1:
            raise Wrong(did, f"{selector} can be seen", "it is hidden or has no size")
        if place["left"] < -1 or place["right"] > wide + 1:
            raise Wrong(did, f"{selector} is inside the window", f"from {place['left']:.0f} to {place['right']:.0f}")  # fmt: skip
        if selector in BUTTONS and min(place["w"], place["h"]) < BUTTONS_LEAST_PX:
            raise Wrong(did, f"{selector} has {BUTTONS_LEAST_PX} pixels or more each way", f"{place['w']:.0f} x {place['h']:.0f}")  # fmt: skip
    for name, place in zip(found["names"], found["cells"], strict=True):
        if place["hidden"] or min(place["w"], place["h"]) < CELLS_LEAST_PX:
            raise Wrong(did, f"cell {name} has {CELLS_LEAST_PX} pixels or more each way", f"{place['w']:.0f} x {place['h']:.0f}")  # fmt: skip
        if place["left"] < -1 or place["right"] > wide + 1:
            raise Wrong(did, f"cell {name} is inside the window", f"from {place['left']:.0f} to {place['right']:.0f}")  # fmt: skip


def stones(board: Board) -> None:
    """Stones alternate, are seen, and are not placed on others; energy does not pass 100."""
    empty = board.picture_of(7, 7), board.picture_of(3, 4)
    board.put(7, 7)
    board.expect(stones={"7,7": "black"}, turn="white", energy_black=100)
    black = board.picture_of(7, 7)
    if black == empty[0]:
        raise Wrong(board.did, "a stone can be seen", "the cell looks as before")
    board.put(3, 4)
    state = board.expect(stones={"7,7": "black", "3,4": "white"}, turn="black", energy_white=100)
    if board.picture_of(3, 4) == empty[1]:
        raise Wrong(board.did, "a stone can be seen", "the cell looks as before")
    for cell in ((7, 7), (3, 4)):
        board.put(*cell)
        board.still(state)


# ---- winning


def _wins(board: Board, five: Sequence[Cell], elsewhere: Sequence[Cell], who: str) -> None:
    first, second = (five, elsewhere) if who == "black" else (elsewhere, five)
    order = [cell for pair in zip(first, second, strict=False) for cell in pair]
    if who == "black":
        order = order[:9]
    alternate(board, order[:-1])
    board.expect(winner="")
    board.put(*order[-1])
    state = board.expect(winner=who, skip=False, force=False)
    board.put(0, 7)
    board.still(state)


_APART = ((0, 0), (2, 3), (4, 0), (0, 4), (6, 2))


def wins_row(board: Board) -> None:
    _wins(board, [(7, column) for column in (5, 6, 8, 9, 7)], _APART, "black")


def wins_column(board: Board) -> None:
    _wins(board, [(row, 14) for row in (14, 13, 12, 11, 10)], _APART, "white")


def wins_diagonal(board: Board) -> None:
    _wins(board, [(10 + n, 10 + n) for n in range(5)], _APART, "black")


def wins_antidiagonal(board: Board) -> None:
    _wins(board, [(8 + n, 12 - n) for n in (4, 3, 1, 0, 2)], _APART, "white")


def no_false_win(board: Board) -> None:
    """Four with a gap are none, nor is a row that goes on in the next one."""
    black = [(3, 13), (4, 0), (4, 1), (4, 2), (3, 14), (10, 5), (10, 6), (10, 7), (10, 9), (10, 10)]
    white = [(0, 0), (0, 2), (0, 4), (0, 6), (0, 8), (14, 0), (14, 2), (14, 4), (14, 6), (14, 8)]
    alternate(board, [cell for pair in zip(black, white, strict=True) for cell in pair], winner="")


# ---- skills


def skip(board: Board) -> None:
    """30 energy; the one who skips moves twice; each stone gives 10."""
    board.press("skip")
    board.expect(energy_black=70, points_black="70", energy_white=100, turn="black", skip=False)
    board.put(7, 7)
    board.expect(stones={"7,7": "black"}, turn="black", energy_black=80)
    board.put(7, 9)
    board.expect(stones={"7,7": "black", "7,9": "black"}, turn="white", energy_black=90)
    board.put(2, 2)
    board.expect(turn="black", energy_black=90, energy_white=100)
    _fills(board, black=90, white=100)


def force(board: Board) -> None:
    """50 energy, taken when a stone of the opponent is replaced; nothing else can be chosen."""
    alternate(board, [(7, 7), (7, 8)])
    board.press("force")
    state = board.expect(armed=True, energy_black=100, turn="black")
    board.put(1, 1)
    board.still(state)
    board.put(7, 7)
    board.still(state)
    board.press("force")
    board.expect(armed=False, energy_black=100)
    board.press("force")
    board.expect(armed=True)
    white = board.picture_of(7, 8)
    board.put(7, 8)
    board.expect(
        stones={"7,7": "black", "7,8": "black"}, turn="white", armed=False,
        energy_black=60, points_black="60", energy_white=100,
    )  # fmt: skip
    if board.picture_of(7, 8) == white:
        raise Wrong(board.did, "the cell shows the other colour", "it looks as before")
    _fills(board, black=60, white=100)


def forced_win(board: Board) -> None:
    """A stone that was placed by force counts for five."""
    alternate(board, [(5, 5), (5, 7), (5, 6), (0, 0), (5, 8), (0, 3), (5, 9), (2, 9)])
    board.press("force")
    board.expect(armed=True)
    board.put(5, 7)
    board.expect(winner="black", skip=False, force=False)


def energy(board: Board) -> None:
    """Who has too little for a skill finds its button disabled, and pressing it does nothing."""
    alternate(board, [(7, 7), (7, 8)])
    placed = {"7,7": "black", "7,8": "white"}
    for number, left in enumerate((60, 20)):
        board.press("force")
        board.expect(armed=True)
        board.put(7, 8 + 2 * number)
        placed[f"7,{8 + 2 * number}"] = "black"
        board.expect(stones=placed, energy_black=left)
        board.put(7, 10) if number == 0 else board.put(0, 0)
        placed["7,10" if number == 0 else "0,0"] = "white"
        board.expect(stones=placed, turn="black")
    state = board.expect(skip=False, force=False, energy_black=20)
    for button in ("skip", "force"):
        board.press(button)
        board.still(state)
    _fills(board, black=20, white=100)
    board.put(12, 12)
    board.expect(turn="white", energy_black=30, skip=True, force=True)
    board.put(0, 5)
    board.expect(turn="black", skip=True, force=False)
    board.press("skip")
    board.expect(energy_black=0, turn="black")


def _fills(board: Board, **wanted: int) -> None:
    """The bars are as full as the energies say."""
    board.page.wait_for_timeout(400)  # a bar may glide
    for who, value in wanted.items():
        seen = board.read(FILL % who)
        if seen is None or abs(seen - value) > 4:
            told = "no [data-fill] in it" if seen is None else f"{seen} %"
            raise Wrong(board.did, f"the bar of {who} is {value} % full", told)


# ---- the rest


def restart(board: Board) -> None:
    """All is as at the beginning, also after a win and with a skill in hand."""
    board.press("skip")
    for cell in ((7, 3), (7, 4)):
        board.put(*cell)
    board.expect(turn="white", energy_black=90)
    board.press("restart")
    board.expect(**START, armed=False)
    alternate(board, [(7, 3), (0, 0), (7, 4), (0, 2), (7, 5), (0, 4), (7, 6), (0, 6), (7, 7)])
    board.expect(winner="black")
    board.press("restart")
    board.expect(**START, armed=False)
    board.put(7, 7)
    board.expect(stones={"7,7": "black"}, turn="white")


def keyboard(board: Board) -> None:
    """A cell and all buttons are reached by Tab; Enter places a stone."""
    wanted = {"skill:skip", "skill:force", "action:restart"}
    cell = ""
    for _ in range(TABS_MAX):
        board.page.keyboard.press("Tab")
        reached = str(board.read(FOCUSED))
        if reached.startswith("cell:"):
            cell = cell or reached
        wanted.discard(reached)
        if cell and not wanted:
            break
    did = f"opened the page; pressed Tab up to {TABS_MAX} times"
    if not cell or wanted:
        missing = [*sorted(wanted), *([] if cell else ["a cell"])]
        raise Wrong(did, "a cell and all buttons get the focus", f"never: {', '.join(missing)}")
    for _ in range(TABS_MAX):
        if str(board.read(FOCUSED)).startswith("cell:"):
            break
        board.page.keyboard.press("Shift+Tab")
    name = str(board.read(FOCUSED)).removeprefix("cell:")
    board.key("Enter")
    board.expect(stones={name: "black"}, turn="white")


def touch(board: Board) -> None:
    """A game by taps: stones, a skill, a win, a new game."""
    board.press("skip")
    board.expect(energy_black=70, turn="black")
    board.put(7, 5)
    board.expect(stones={"7,5": "black"}, turn="black")
    board.press("restart")
    board.expect(**START)
    wins_row(board)


Check = Callable[[Board], None]

DESKTOP: Mapping[str, Check] = MappingProxyType(
    {
        each.__name__: each
        for each in (
            opens, fits, stones, wins_row, wins_column, wins_diagonal, wins_antidiagonal,
            no_false_win, skip, force, forced_win, energy, restart, keyboard,
        )
    }
)  # fmt: skip
PHONE: Mapping[str, Check] = MappingProxyType(
    {each.__name__: each for each in (opens, fits, force, touch)}
)
