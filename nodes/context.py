"""What a model is sent of a long conversation: a fold over a planner's turns, under a few policies.

    system   the instructions       pinned
    user     the goal               pinned
    user     what came before       a summary, and how many turns are left out
    ...      the turns              assistant, its results, what it is told; never torn apart

The messages only grow, so that a server's prefix cache holds, until a policy's mark is reached; then
much is hidden, summarised or left out at once. The same turns always make the same messages: a
resumed run asks what it asked before, and finds the recorded answers.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from operator import attrgetter
from typing import Any, Final, TypeAlias

from flowkit.chat import ChatMessage
from flowkit.errors import DeclarationError
from flowkit.values import compact

WINDOW_TOKENS: Final = 262_144
"""Tokens that a model takes; those of Kimi K2 Thinking, the reference profile."""

GAIN_MIN: Final = 0.15
"""Share of the window that a policy must win, else it waits: each change costs the prefix cache.

In 300 simulated turns 0.15 left half of the breaks that 0.05 did; more won little.
"""

MEDIA_TOKENS: Final = 1_000
"""What a picture or a file is taken for; servers count them in ways of their own."""


# ---- policies ----


@dataclass(frozen=True, slots=True)
class HideResults:
    """From `at` (a share of the window): results older than `keep_turns` become stubs."""

    at: float = 0.6
    keep_turns: int = 3

    def __post_init__(self) -> None:
        _check(self, 0)


@dataclass(frozen=True, slots=True)
class Summarise:
    """From `at`: the model is asked for a summary of all turns but the last `keep_turns`."""

    at: float = 0.8
    keep_turns: int = 4

    def __post_init__(self) -> None:
        _check(self, 0)


@dataclass(frozen=True, slots=True)
class KeepLast:
    """From `at`: all turns but the last `turns` are left out; half of these, if that is not enough."""

    at: float = 0.9
    turns: int = 20

    def __post_init__(self) -> None:
        _check(self, 1)


@dataclass(frozen=True, slots=True)
class RestateGoal:
    """After every `every` turns the goal is said again, against drift."""

    every: int = 20

    def __post_init__(self) -> None:
        _check(self, 1)


def _check(policy: HideResults | Summarise | KeepLast | RestateGoal, least: int) -> None:
    for name, value in ((each.name, getattr(policy, each.name)) for each in fields(policy)):
        low, high = (0, 1) if name == "at" else (least, math.inf)
        if not low <= value <= high:
            raise DeclarationError(f"{policy}: {name} must be from {low} to {high}.")


@dataclass(frozen=True, slots=True)
class ForceTool:
    """See `force_tool`."""

    pattern: str
    tool: str
    choice: bool = False


def force_tool(pattern: str, tool: str, *, choice: bool = False) -> ForceTool:
    r"""Where the newest text matches, tell the model to use a tool: `force_tool(r"\d\s*[*/]\s*\d", "python")`.

    The newest text is the goal, then the last feedback, else the model's own words; never a tool's
    result, which may quote strangers. A turn that called the tool is told nothing. With `choice` the
    request names the tool as its `tool_choice`, too: not every server takes that (Kimi does not).
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise DeclarationError(
            f"force_tool({pattern!r}): no regular expression: {error}."
        ) from error
    return ForceTool(pattern, tool, choice)


ContextPolicy: TypeAlias = HideResults | Summarise | KeepLast | RestateGoal | ForceTool

DEFAULT: Final[tuple[ContextPolicy, ...]] = (HideResults(), Summarise(), KeepLast(), RestateGoal())


# ---- turns ----


@dataclass(frozen=True, slots=True)
class Said:
    """What one ended turn adds.

    `message` as it is settled, or None; `results` (call id, text) of its calls; `feedback` from
    verifiers and refused plans. `input_tokens`: what the server counted for the turn's request, 0 if
    it did not. What was done for this request goes in as well: `summary`, a text that was made of the
    turns before, and `shrunk`, how often `shrink` was called.
    """

    message: ChatMessage | None = None
    results: Sequence[tuple[str, str]] = ()
    feedback: Sequence[str] = ()
    input_tokens: int = 0
    summary: str | None = None
    shrunk: int = 0


@dataclass(frozen=True, slots=True)
class _Result:
    """A result that may be hidden: where it stands in its turn, its stub, and what that wins."""

    at: int
    id: str
    stub: ChatMessage
    wins: int


@dataclass(slots=True)
class _Turn:
    messages: list[ChatMessage] = field(default_factory=list[ChatMessage])
    shown: list[_Result] = field(default_factory=list[_Result])
    tokens: int = 0


_MESSAGES: Final = attrgetter("messages")


class Conversation:
    """What a model is sent next. `add` each turn as it ends; after a resume, all that have ended.

    Within a turn: `wants_summary` and `summarise`, then `request_messages` and `settings`, and
    `shrink` as long as the server says that the conversation is too long.
    """

    def __init__(
        self,
        instructions: str,
        goal: str,
        policies: Sequence[ContextPolicy] = DEFAULT,
        window_tokens: int = WINDOW_TOKENS,
    ) -> None:
        self._goal = goal
        self._policies = tuple(policies)
        self._window = window_tokens
        self._orders = self._matching(goal, ())
        system = [ChatMessage("system", instructions)] if instructions else []
        first = ChatMessage("user", "\n\n".join([goal, *map(_order, self._orders)]))
        self._before: tuple[ChatMessage, ...] = (*system, first)
        self._pinned = len(self._before)
        self._turns: list[_Turn] = []
        self._ended = 0
        self._left_out = 0
        self._summary = ""
        self._due: Summarise | None = None
        self._shrunk = 0
        self._texts: dict[str, str] = {}
        self._hidden: list[str] = []
        self._tokens = _estimate(self._before)

    def instruct(self, instructions: str) -> None:
        """Say other instructions from now on; the planner has had some from the beginning."""
        self._before = (ChatMessage("system", instructions), *self._before[1:])

    def copy(self) -> Conversation:
        """The same conversation, to be made shorter without touching this one."""
        made = copy.copy(self)
        made._turns = [_Turn([*each.messages], [*each.shown], each.tokens) for each in self._turns]
        made._texts, made._hidden = dict(self._texts), [*self._hidden]
        return made

    def add(self, said: Said) -> None:
        """Take in a turn that has ended."""
        if said.summary is not None:
            self.summarise(said.summary)
        while self._shrunk < said.shrunk and self.shrink():
            pass
        self._shrunk = 0
        self._ended += 1
        turn = self._turn(said)
        self._turns.append(turn)
        self._tokens = (said.input_tokens or self._tokens) + turn.tokens
        missed, self._due = self._due is not None, None
        self._relieve(self._policies, missed=missed)

    def request_messages(self) -> tuple[ChatMessage, ...]:
        """The messages of the next request; those that were sent before are the same objects."""
        return (*self._before, *chain.from_iterable(map(_MESSAGES, self._turns)))

    def settings(self) -> Mapping[str, Any]:
        """Settings for the next request, to be put over the planner's own."""
        named = [order.tool for order in self._orders if order.choice]
        chosen = {"type": "function", "function": {"name": named[0]}} if named else None
        return {"tool_choice": chosen} if chosen else {}

    def wants_summary(self) -> tuple[ChatMessage, ...] | None:
        """What to ask a model before the next request, if a summary is due.

        The answer's text goes to `summarise`. The messages begin as the conversation does, with its
        calls of tools: pass the same tools, and take no calls.
        """
        if self._due is None or self._shrunk:
            return None
        old = self._turns[: len(self._turns) - self._due.keep_turns]
        told = (each for turn in old for each in turn.messages)
        return (*self._before, *told, ChatMessage("user", _ASK_SUMMARY))

    def summarise(self, text: str) -> None:
        """Put a summary in place of the turns that it was made of.

        Nothing changes if none was due, if the text is empty, or after a `shrink` in the same turn.
        """
        policy = self._due
        if policy is None or self._shrunk or not text.strip():
            return
        self._due, self._summary, self._left_out = None, text.strip(), 0
        self._leave_out(policy.keep_turns, counted=False)
        rest = self._policies[self._policies.index(policy) + 1 :]
        self._relieve(rest, missed=True)

    def shrink(self) -> bool:
        """Make the conversation shorter at once, for `ContextOverflow`; False if nothing is left.

        Old results are hidden first, then all but the last turn's; then half of the turns are left
        out, again and again; at last the newest results are hidden.
        """
        turns = len(self._turns)
        keep = next(
            (each.keep_turns for each in self._policies if isinstance(each, HideResults)), 1
        )
        done = self._hide(keep) or self._hide(1)
        if not done and turns > 1:
            self._leave_out(turns // 2)
            done = True
        done = done or self._hide(0)
        self._shrunk += done
        return done

    def recall(self, id: str) -> str | None:
        """The text of a result, hidden or left out or neither; None for an id that there is not."""
        return self._texts.get(id)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Ids of the results that became stubs, in the order of their turns."""
        return tuple(self._hidden)

    @property
    def tokens(self) -> int:
        """About how long the next request is: what the server counted last, and what came since.

        What came since is taken as a token for 4 bytes of UTF-8 (4 characters of English).
        """
        return self._tokens

    # ---- a turn becomes messages ----

    def _turn(self, said: Said) -> _Turn:
        turn = _Turn([said.message] if said.message else [])
        calls = said.message.tool_calls if said.message else ()
        given: dict[str, str] = {}
        for id, text in said.results:
            given.setdefault(id, text)
        for call in calls:
            self._result(turn, call.id, given.pop(call.id, _NO_RESULT), native=True)
        for id, text in given.items():  # of calls that stand in the message's text
            self._result(turn, id, text, native=False)
        newest = (
            said.feedback[-1] if said.feedback else (said.message and said.message.content) or ""
        )
        self._orders = self._matching(newest, [call.name for call in calls])
        told = [*said.feedback, *map(_order, self._orders)]
        for policy in self._policies:
            if isinstance(policy, RestateGoal) and self._ended % policy.every == 0:
                told.append(f"Keep to the goal:\n{self._goal}")
        if told:
            turn.messages.append(ChatMessage("user", "\n\n".join(told)))
        turn.tokens = _estimate(turn.messages)
        return turn

    def _result(self, turn: _Turn, call_id: str, text: str, *, native: bool) -> None:
        id, n = call_id, 1
        while id in self._texts:  # servers that count their calls begin anew in each turn
            n += 1
            id = f"{call_id}#{n}"
        self._texts[id] = text
        stub = f'[output hidden: {len(text):,} characters; call recall("{id}") to read it]'

        def shown(content: str) -> ChatMessage:
            if native:
                return ChatMessage("tool", content, tool_call_id=call_id)
            return ChatMessage("user", f"Result of {call_id}:\n{content}")

        whole, short = shown(text), shown(stub)
        wins = _estimate([whole]) - _estimate([short])
        if wins > 0:
            turn.shown.append(_Result(len(turn.messages), id, short, wins))
        turn.messages.append(whole)

    def _matching(self, text: str, called: Collection[str]) -> list[ForceTool]:
        return [
            policy
            for policy in self._policies
            if isinstance(policy, ForceTool)
            and policy.tool not in called
            and re.search(policy.pattern, text)
        ]

    # ---- what makes it shorter ----

    def _relieve(self, policies: Iterable[ContextPolicy], *, missed: bool) -> None:
        """Let the policies act, in order, up to a summary that is due; beyond it if one was missed."""
        least = int(GAIN_MIN * self._window)
        for policy in policies:
            if isinstance(policy, RestateGoal | ForceTool):
                continue
            if self._tokens < policy.at * self._window:
                continue
            if isinstance(policy, HideResults):
                self._hide(policy.keep_turns, least)
            elif isinstance(policy, KeepLast):
                self._keep_last(policy)
            else:
                old = self._turns[: max(len(self._turns) - policy.keep_turns, 0)]
                if sum(turn.tokens for turn in old) >= least:
                    self._due = policy
                    if not missed:
                        return

    def _keep_last(self, policy: KeepLast) -> None:
        self._due = None
        while self._tokens >= (policy.at - GAIN_MIN) * self._window and len(self._turns) > 1:
            many = len(self._turns)
            self._leave_out(policy.turns if many > policy.turns else many // 2)

    def _hide(self, keep: int, least: int = 1) -> bool:
        """Hide the results of all but the last turns, if that wins enough tokens."""
        old = self._turns[: max(len(self._turns) - keep, 0)]
        wins = sum(result.wins for turn in old for result in turn.shown)
        if wins < least:
            return False
        for turn in old:
            for result in turn.shown:
                turn.messages[result.at] = result.stub
                turn.tokens -= result.wins
                self._hidden.append(result.id)
            turn.shown = []
        self._tokens = max(self._tokens - wins, 0)
        return True

    def _leave_out(self, keep: int, *, counted: bool = True) -> None:
        """Take out all but the last turns, and say so behind the goal."""
        gone = self._turns[: max(len(self._turns) - keep, 0)]
        del self._turns[: len(gone)]
        self._left_out += len(gone) if counted else 0
        pinned, head = self._before[: self._pinned], self._before[self._pinned :]
        text = f"What was done before, in short:\n{self._summary}\n\n" if self._summary else ""
        if self._left_out:
            text += f"[{self._left_out} turns between here and the next message are left out.]"
        told = (ChatMessage("user", text.strip()),) if text else ()
        wins = sum(turn.tokens for turn in gone) + _estimate(head) - _estimate(told)
        self._before = (*pinned, *told)
        self._tokens = max(self._tokens - wins, 0)


_NO_RESULT: Final = "There is no result of this call."

_ASK_SUMMARY: Final = (
    "The conversation up to here is about to be taken away. Write what is needed to go on without it: "
    "what was found, with names, numbers, sources and ids; what was tried and failed, and why; what is "
    "decided; what is left to do. Answer with that alone, and call no tool."
)


def _order(policy: ForceTool) -> str:
    return f"Use the tool {policy.tool} for this; do not work it out yourself."


def _length(text: str | None) -> int:
    """Tokens of a text. In UTF-8, since a Chinese character is nearer to one token than to a quarter."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4 if text else 0


def _estimate(messages: Iterable[ChatMessage]) -> int:
    total = 0
    for message in messages:
        details = compact(list(message.reasoning_details)) if message.reasoning_details else None
        total += _length(message.content) + _length(message.reasoning or details)
        total += sum(_length(call.name) + _length(call.arguments) for call in message.tool_calls)
        total += MEDIA_TOKENS * len(message.media)
    return total
