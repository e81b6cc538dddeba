"""The page as a player sees and touches it.

It is read in an isolated world: the page's own script shares the elements with it and nothing else, so it
cannot lie about them by changed prototypes. It is touched by real input at the elements' places.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

PATIENCE_S = 1.5
"""How long a page may take to show what a click did."""

CELLS_LEAST_PX = 18
BUTTONS_LEAST_PX = 24  # WCAG 2.2, 2.5.8 target size (minimum)

READ = """(() => {
  const one = (s) => document.querySelector(s), all = (s) => [...document.querySelectorAll(s)];
  const stones = {};
  for (const cell of all('[data-cell]')) {
    if (cell.getAttribute('data-stone')) stones[cell.getAttribute('data-cell')] = cell.getAttribute('data-stone');
  }
  const off = (s) => { const e = one(s); return !e || e.disabled || e.getAttribute('aria-disabled') === 'true'; };
  const status = one('[data-status]');
  const told = { stones, turn: status?.getAttribute('data-turn') ?? null,
    winner: status?.getAttribute('data-winner') ?? null, status: (status?.innerText ?? '').trim(),
    skip: !off('button[data-skill=skip]'), force: !off('button[data-skill=force]'),
    armed: one('button[data-skill=force]')?.getAttribute('aria-pressed') === 'true' };
  for (const who of ['black', 'white']) {
    told['energy_' + who] = Number(one(`[data-energy=${who}]`)?.getAttribute('aria-valuenow') ?? NaN);
    told['points_' + who] = (one(`[data-points=${who}]`)?.innerText ?? '').trim();
  }
  return told;
})()"""

LAYOUT = """(() => {
  const all = (s) => [...document.querySelectorAll(s)];
  const seen = (e) => { const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    return { w: r.width, h: r.height, left: r.left, right: r.right,
      hidden: s.visibility === 'hidden' || s.display === 'none' || Number(s.opacity) < 0.1 }; };
  const places = {};
  for (const s of %s) places[s] = all(s).map(seen);
  const names = all('[data-cell]').map((e) => e.getAttribute('data-cell'));
  return { content: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth),
    names, places, cells: all('[data-cell]').map(seen) };
})()"""

PLACE = """(() => {
  const e = document.querySelector(%s);
  if (!e) return null;
  e.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });
  const r = e.getBoundingClientRect(), x = r.left + r.width / 2, y = r.top + r.height / 2;
  const top = document.elementFromPoint(x, y);
  return { x, y, left: r.left, top: r.top, w: r.width, h: r.height, free: Boolean(top && e.contains(top)),
    over: top ? top.tagName.toLowerCase() + (top.id ? '#' + top.id : '') : 'nothing' };
})()"""

FILL = """(() => {
  const bar = document.querySelector('[data-energy=%s]'), fill = bar?.querySelector('[data-fill]');
  if (!bar || !fill) return null;
  const whole = bar.getBoundingClientRect(), part = fill.getBoundingClientRect();
  return whole.width ? Math.round(100 * part.width / whole.width) : null;
})()"""

FOCUSED = """(() => {
  const e = document.activeElement;
  for (const name of ['cell', 'skill', 'action']) {
    if (e?.hasAttribute('data-' + name)) return name + ':' + e.getAttribute('data-' + name);
  }
  return '';
})()"""

STORED = """(() => [...Object.keys(localStorage), ...Object.keys(sessionStorage), document.cookie].filter(Boolean).join(', '))()"""

BUTTONS = ("button[data-skill=skip]", "button[data-skill=force]", "button[data-action=restart]")
BARS = (
    "[data-energy=black]", "[data-energy=white]", "[data-points=black]", "[data-points=white]",
    "[data-status]",
)  # fmt: skip

State = dict[str, Any]


class Wrong(Exception):
    """The page did not do what it should."""

    def __init__(self, did: str, expected: str, seen: str) -> None:
        super().__init__(f"{did}: expected {expected}; seen: {seen}")
        self.did, self.expected, self.seen = did, expected, seen


class Board:
    """One page in one tab. `page` is playwright's; `tell` hears what is done before it is done."""

    def __init__(self, page: Any, url: str, tell: Callable[[str], None], *, touch: bool) -> None:
        self.page, self.url, self.tell, self.touch = page, url, tell, touch
        self._cdp = page.context.new_cdp_session(page)
        self._world = 0
        self._done: list[str] = []

    def open(self) -> None:
        """Open the page anew; what was done before is forgotten."""
        self._done = []
        self._do("opened the page")
        self.page.goto(self.url, wait_until="load", timeout=8000)
        frame = self._cdp.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
        made = self._cdp.send("Page.createIsolatedWorld", {"frameId": frame})
        self._world = made["executionContextId"]

    @property
    def wide(self) -> int:
        """The window's width. A phone's browser makes the page's own idea of it as wide as the content."""
        return int(self.page.viewport_size["width"])

    @property
    def browser(self) -> str:
        """Name and version."""
        product = str(self._cdp.send("Browser.getVersion")["product"])
        return product.replace("HeadlessChrome", "Chrome").replace("Chrome/", "Chromium ")

    @property
    def did(self) -> str:
        return "; ".join(self._done[-12:])

    def _do(self, what: str) -> None:
        self._done.append(what)
        self.tell(self.did)

    def read(self, expression: str) -> Any:
        """An expression's value, by the isolated world."""
        told = self._cdp.send(
            "Runtime.evaluate",
            {"expression": expression, "contextId": self._world, "returnByValue": True},
        )
        if "exceptionDetails" in told:
            raise Wrong(self.did, "a page that can be read", str(told["exceptionDetails"])[:200])
        return told["result"].get("value")

    def state(self) -> State:
        return dict(self.read(READ))

    def place_of(self, selector: str) -> Mapping[str, Any]:
        """Where an element is, after it was scrolled to; `Wrong` if nobody could click it."""
        found = self.read(PLACE % json.dumps(selector))
        if found is None:
            raise Wrong(self.did, f"an element {selector}", "there is none")
        if not found["free"]:
            raise Wrong(self.did, f"{selector} can be clicked", f"{found['over']} lies over it")
        return dict(found)

    def put(self, row: int, column: int) -> None:
        """Click a cell, or tap it."""
        self._do(f"{self._verb} cell {row},{column}")
        self._click(f'[data-cell="{row},{column}"]')

    def press(self, button: str) -> None:
        """Click a button: skip, force or restart. A disabled one, too: nothing may come of it."""
        self._do(f"{self._verb} {button}")
        name = "action" if button == "restart" else "skill"
        self._click(f"button[data-{name}={button}]")

    @property
    def _verb(self) -> str:
        return "tapped" if self.touch else "clicked"

    def _click(self, selector: str) -> None:
        place = self.place_of(selector)
        if self.touch:
            self.page.touchscreen.tap(place["x"], place["y"])
        else:
            self.page.mouse.click(place["x"], place["y"])
            self.page.mouse.move(1, 1)  # no look of a hovered element in the pictures

    def key(self, name: str) -> None:
        self._do(f"pressed {name}")
        self.page.keyboard.press(name)

    def picture_of(self, row: int, column: int) -> bytes:
        """How a cell looks."""
        place = self.place_of(f'[data-cell="{row},{column}"]')
        clip = {"x": place["left"], "y": place["top"], "width": place["w"], "height": place["h"]}
        return bytes(self.page.screenshot(clip=clip, animations="disabled", caret="hide"))

    def expect(self, **wanted: Any) -> State:
        """Wait until the page shows this; `Wrong` with what it shows instead."""
        until = time.monotonic() + PATIENCE_S
        while True:
            state = self.state()
            wrong = {key: value for key, value in wanted.items() if state.get(key) != value}
            if not wrong:
                return state
            if time.monotonic() > until:
                shown = {key: state.get(key) for key in wrong}
                raise Wrong(self.did, _told(wrong), _told(shown))
            time.sleep(0.03)

    def still(self, before: State) -> None:
        """What was done changes nothing."""
        time.sleep(0.15)
        after = self.state()
        keys = [key for key in before if key != "status" and before[key] != after[key]]
        if keys:
            raise Wrong(
                self.did,
                f"nothing changes ({_told({key: before[key] for key in keys})})",
                _told({key: after[key] for key in keys}),
            )


def _told(state: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in state.items())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + "…"
