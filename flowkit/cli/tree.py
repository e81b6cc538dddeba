"""The live tree of steps on a terminal."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from flowkit.chat import ModelAnswer
from flowkit.cli.follow import Lines, Show, Silent, View, told
from flowkit.cli.text import clean, span
from flowkit.events import Event, ModelAnswered, StepView
from flowkit.slot import Slot

_MARKS = {
    "done": ("✓", "green"),
    "checking": ("✓", "yellow"),
    "accepted": ("✓", "green"),
    "running": ("●", "cyan"),
    "retrying": ("↻", "yellow"),
    "waiting": ("⧗", "magenta"),
    "expanded": ("▾", "cyan"),
    "failed": ("✗", "red"),
    "rejected": ("✗", "yellow"),
    "unknown": ("?", "red"),
    "begun": ("?", "yellow"),
    "dropped": ("-", "bright_black"),
}
_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_QUIET = frozenset({"pending", "dropped"})
_OVER = frozenset({"done", "pending", "dropped"})
_UNFOLDED = 4
"""Lines of a model's reasoning that are shown below its step while it streams."""


def is_live() -> bool:
    """Whether stderr is a terminal that can redraw lines, and a person may be looking at it."""
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    return sys.stderr.isatty() and not dumb and not os.environ.get("CI")


def is_coloured(stream_is_terminal: bool) -> bool:
    """What NO_COLOR, FORCE_COLOR and CLICOLOR say, else whether it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream_is_terminal and os.environ.get("CLICOLOR") != "0"


def show_for(*, quiet: bool, reasoning: bool = False) -> Show:
    """The tree on a terminal, lines elsewhere, nothing if nothing is wanted."""
    if quiet:
        return Silent()
    return Tree(reasoning=reasoning) if is_live() else Lines(reasoning=reasoning)


def error_console() -> Console:
    """The console of the tree."""
    plain = not is_coloured(sys.stderr.isatty())
    return Console(stderr=True, no_color=plain, highlight=False, markup=False, emoji=False)


class Tree:
    """A live tree, drawn anew at each tick; what models answered stands above it, a line for each.

    What a run says is text here, never markup.
    """

    def __init__(self, *, reasoning: bool = False) -> None:
        self._reasoning = reasoning
        self._console = error_console()
        self._live: Live | None = None
        self._view: View | None = None
        self._since = 0.0
        self._rests_until = 0.0

    def start(self, view: View) -> None:
        self._view, self._since = view, time.monotonic()
        self._live = Live(
            console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop"
        )
        self._live.start()

    def event(self, event: Event, view: View, answer: ModelAnswer | None) -> None:
        if isinstance(event.payload, ModelAnswered):
            for line in told(event, view.state, answer, reasoning=self._reasoning):
                self._console.print(Text(line))

    def tick(self) -> None:
        began = time.monotonic()
        if began >= self._rests_until:
            self._draw()
            # A run of thousands of steps is drawn less often: a tenth of the time at most.
            self._rests_until = began + 10 * (time.monotonic() - began)

    def _draw(self) -> None:
        if self._live is not None and self._view is not None:
            height = max(self._console.height - 2, 5)
            took = time.monotonic() - self._since
            drawn = render(self._view, took, height, self._console.width, reasoning=self._reasoning)
            self._live.update(drawn, refresh=True)

    def note(self, text: str) -> None:
        self._console.print(Text(clean(text)))

    def stop(self) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None


def render(
    view: View, took: float, height: int, width: int, *, reasoning: bool = False
) -> RenderableType:
    """The tree of a run in at most `height` lines: what is over gives way to what goes on."""
    steps = view.state.views()
    done = sum(step.status == "done" for step in steps)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(clean(view.workflow), "bold")
    head.append(f"  {clean(view.run_id)}  {_status(view)}  {done}/{len(steps)} steps  {span(took)}")
    lines = [head]
    shown = _fit(steps, height - 2)
    if len(shown) < len(steps):
        lines.append(Text(f"  … {len(steps) - len(shown)} more steps", "bright_black"))
    keys = {step.key.partition("@")[0] for step in steps}
    room = height - len(lines) - len(shown)
    for step in shown:
        lines.append(_line(step, view, keys, width))
        thought = _thought(step, view, width) if reasoning else []
        lines += thought[: max(room, 0)]
        room -= len(thought)
    return Group(*lines)


def _slot(step: StepView, view: View) -> Slot | None:
    return view.state.by_exec.get(step.key) or view.state.slots.get(step.key)


def _thought(step: StepView, view: View, width: int) -> list[Text]:
    """The last lines of what a step's model is just thinking."""
    slot = _slot(step, view)
    speech = view.speech.get(slot.exec) if slot is not None else None
    room = max(width - 6, 20)
    thought = clean(speech.thinking)[-_UNFOLDED * room :] if speech is not None else ""
    pieces = range(0, len(thought), room)
    return [Text(f"    | {thought[at : at + room]}", "bright_black") for at in pieces]


def _status(view: View) -> str:
    if view.state.ended is not None:
        return view.state.ended.status
    return "running" if view.driven else "interrupted"


def _fit(steps: list[StepView], room: int) -> list[StepView]:
    """As many steps as there is room for, in their order; those that are over go first."""
    if len(steps) <= room:
        return steps
    active = [index for index, step in enumerate(steps) if step.status not in _OVER]
    kept = set(active[-room:])
    over = (index for index in range(len(steps) - 1, -1, -1) if index not in kept)
    done = [index for index in over if steps[index].status == "done"]
    kept.update(done[: room - len(kept)])
    return [step for index, step in enumerate(steps) if index in kept]


def _line(step: StepView, view: View, keys: set[str], width: int) -> Text:
    status = step.status
    if status == "ready":
        status = "running" if view.driven else "pending"
    mark, colour = _MARKS.get(status, ("·", "bright_black"))
    if status == "running":
        mark = _SPIN[int(time.monotonic() * 10) % len(_SPIN)]
    parts = step.key.split("/")
    above = [n for n in range(1, len(parts)) if "/".join(parts[:n]).partition("@")[0] in keys]
    depth = len(above)
    own = "/".join(parts[above[-1] :]) if above else step.key  # a planned step with its turn
    line = Text("  " * (depth + 1), no_wrap=True, overflow="ellipsis")
    line.append(f"{mark} ", colour)
    line.append(clean(own), "bright_black" if status in _QUIET else "")
    if step.node != parts[-1].partition("@")[0]:
        line.append(f" {clean(step.node)}", "bright_black")
    line.append(_rest(step, status, view), "bright_black")
    line.truncate(width, overflow="ellipsis")
    return line


def _rest(step: StepView, status: str, view: View) -> str:
    """What is to be said of a step beyond its name: time, tries, waits, the last error, progress."""
    words: list[str] = []
    slot = _slot(step, view)
    going = slot.exec if slot is not None else step.key  # a planner's turn, or a round
    if slot is not None and slot.planning is not None and slot.planning.tokens:
        words.append(f"turn {slot.turn}, {slot.planning.tokens:,} tokens")
    if step.duration_s >= 0.0005 and status != "running":
        words.append(span(step.duration_s))
    elif status == "running" and going in view.began:
        words.append(span(time.monotonic() - view.began[going]))
    if step.attempts > 1 or (step.attempts and status in ("running", "retrying")):
        words.append(
            f"{step.attempts} tries before" if status == "running" else f"{step.attempts} tries"
        )
    if step.detail:
        words.append(clean(step.detail, 160))
    elif step.errors and status != "done":
        words.append(clean(step.errors[-1], 160))
    if step.feedback and status != "done":
        words.append(clean(step.feedback[-1], 160))
    if going in view.speech:
        words.append(clean(view.speech[going].line()))
    elif view.progress.get(going):
        words.append(clean(view.progress[going])[-100:])
    return "  " + " · ".join(words) if words else ""
