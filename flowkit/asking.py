"""`ctx.model`: the models of a run with every answer journaled, and answers of a type.

    known in this attempt?  the recorded answer
    else ask and record     an answer; or an error, and what follows of it: the same model again at
                            `retry_at`, the next model, or the end

Keyed by the request, never by the order of calls. A try that failed is an event too, so that a
process that dies between two tries goes on counting where it was.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from operator import itemgetter
from typing import Any, Final, Protocol

import anyio
from pydantic import TypeAdapter

import flowkit.errors as fault
from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest, Usage
from flowkit.errors import BadModelAnswer, FlowkitError, ModelError
from flowkit.events import Error, ModelAnswered
from flowkit.node import AnyNode, ModelHandle
from flowkit.plan import Plan
from flowkit.planning import plan_from, plan_schema
from flowkit.policy import Policy
from flowkit.ports import Model, Windowed, World
from flowkit.values import Codec, Value, combine, compact, digest, parse

CONTEXT_TOKENS = 128_000
"""The window of a model that does not tell its own."""

_SECOND: Final = itemgetter(1)


class BadAnswer(FlowkitError, ValueError):
    """The model's answer does not fit the wanted type, after all repairs."""


class Remember(Protocol):
    """Journals what a call gave, or gives back what the journal has of it."""

    async def __call__(
        self, request: str, make: Callable[[int], Awaitable[ModelAnswered]], /
    ) -> ModelAnswered: ...


@dataclass(frozen=True, slots=True)
class Asking:
    """What a journaled model needs of its run: whom to ask in which order, and where it is kept.

    `policy` tells how often the same model is asked again. `digests` keeps those of messages from
    turn to turn, so that a long talk is not hashed anew each time.
    """

    models: Sequence[Model]
    policy: Policy
    tools: Sequence[AnyNode]
    world: World
    remember: Remember
    on_delta: Callable[[Delta], None]
    digests: dict[int, tuple[ChatMessage, str]]
    last_turn: bool = False


class JournaledModel(ModelHandle):
    """The models of a run, or of one node, as a node asks them."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    @property
    def name(self) -> str:
        return self._need()[0].name

    @property
    def context_tokens(self) -> int:
        told = [each.context_tokens for each in self._asking.models if isinstance(each, Windowed)]
        return min(told, default=CONTEXT_TOKENS)

    def _need(self) -> Sequence[Model]:
        if not self._asking.models:
            raise FlowkitError(
                "this node asks a model, but the engine has none: Engine(..., model=OpenAIModel.from_env())."
            )
        return self._asking.models

    async def respond(self, request: ModelRequest, *, purpose: str = "") -> ModelAnswer:
        key = self.key(request)
        problem = ModelError("no model was asked")
        for model in self._need():
            for tried in count(1):
                ask = partial(self._ask, model, request, key, purpose, tried)
                answered = await self._asking.remember(key, ask)
                if answered.error is None:
                    return _read(answered)
                problem = _as_raised(answered.error)
                if answered.retry_at is None:
                    break
                await anyio.sleep(max(answered.retry_at - self._asking.world.now(), 0.0))
            if not problem.elsewhere:
                break
        raise problem

    async def _ask(
        self, model: Model, request: ModelRequest, key: str, purpose: str, tried: int, n: int
    ) -> ModelAnswered:
        """One try, and what follows if it fails: decided once, here, and recorded."""
        asking, began = self._asking, time.monotonic()

        async def delta(piece: Delta) -> None:
            asking.on_delta(piece)

        answer: ModelAnswer | None = None
        error: Error | None = None
        retry_at: float | None = None
        try:
            answer = await model.respond(request, on_delta=delta)
            value = _stored(answer)
        except ModelError as problem:
            error = Error(type(problem).__name__, str(problem))
            if problem.retryable and tried <= asking.policy.retries:
                wait = asking.policy.delay_s(tried, asking.world.draw())
                retry_at = asking.world.now() + max(wait, problem.retry_after_s or 0.0)
            if isinstance(problem, BadModelAnswer):  # it could not be used, and was paid for
                answer = problem.answer
            value = None
        return ModelAnswered(
            key, n, (answer and answer.model) or model.name, value, error,
            duration_s=time.monotonic() - began, retry_at=retry_at,
            usage=answer.usage if answer else Usage(), purpose=purpose, last_turn=asking.last_turn,
        )  # fmt: skip

    def key(self, request: ModelRequest) -> str:
        """Hash of all that is asked, the deadline apart."""
        rest = compact([request.tools, request.schema, request.schema_name, request.settings])
        for message in reversed(request.messages):  # what is new stands at the end
            if id(message) in self._asking.digests:
                break
            self._digest(message)
        try:
            digests = self._known(request.messages)
        except KeyError:
            for message in request.messages:
                self._digest(message)
            digests = self._known(request.messages)
        return combine([digest(rest), digests])

    def _known(self, messages: Sequence[ChatMessage]) -> str:
        """The digests of messages, one after the other; without a step in Python for each of them."""
        known = map(self._asking.digests.__getitem__, map(id, messages))
        return "".join(map(_SECOND, known))

    def _digest(self, message: ChatMessage) -> None:
        if id(message) not in self._asking.digests:
            text = compact(_messages().dump_python(message, mode="json", exclude_defaults=True))
            # Kept alive, so that its id stays its own.
            self._asking.digests[id(message)] = (message, digest(text))

    async def complete(
        self, prompt: str | Sequence[ChatMessage], *, returns: Any = str, repairs_max: int = 2,
        tools: Sequence[AnyNode] | None = None, purpose: str = "",
    ) -> Any:  # fmt: skip
        messages = [ChatMessage("user", prompt)] if isinstance(prompt, str) else list(prompt)
        if returns is str:
            answer = await self.respond(ModelRequest(tuple(messages)), purpose=purpose)
            return answer.message.content or ""
        read, schema, name = _reader(returns, self._asking.tools if tools is None else tools)
        for repair in range(repairs_max + 1):
            request = ModelRequest(tuple(messages), schema=schema, schema_name=name)
            answer = await self.respond(request, purpose=purpose)
            text = answer.message.content or ""
            try:
                return read(text)
            except (ValueError, FlowkitError) as error:
                if repair == repairs_max:
                    raise BadAnswer(
                        f"{self.name} gave no valid {name} in {repairs_max + 1} answers. The last error: "
                        f"{error}. The last answer began: {text[:200]!r}"
                    ) from error
                wrong = f"That is not a valid {name}: {error}\nAnswer again, with JSON only."
                if text.strip():  # a stray call is not kept, since nobody answers it
                    messages.append(replace(answer.message, tool_calls=()))
                messages.append(ChatMessage("user", wrong))
        raise AssertionError("unreachable: the loop returns or raises")


def _reader(
    returns: type[Any], tools: Sequence[AnyNode]
) -> tuple[Callable[[str], Any], dict[str, Any], str]:
    """How an answer of a type is read, its JSON schema, and its name."""
    if returns is Plan:
        return lambda text: plan_from(parse(bare(text)), tools), plan_schema(tools), "Plan"
    codec = Codec(returns, "answer")
    name = getattr(returns, "__name__", "Answer")
    return lambda text: codec.load(bare(text)), codec.schema(), name


def _stored(answer: ModelAnswer) -> Value:
    try:
        return Value.of(compact(_answers().dump_python(answer, mode="json", exclude_defaults=True)))
    except (ValueError, RecursionError) as error:
        raise BadModelAnswer(f"the answer cannot be kept: {error}", answer=answer) from error


def _read(answered: ModelAnswered) -> ModelAnswer:
    if answered.value is None or answered.value.text is None:
        raise FlowkitError(f"the journal has no text for the answer to request {answered.request}.")
    return read_answer(answered.value.text)


def read_answer(text: str) -> ModelAnswer:
    """A recorded answer."""
    return _answers().validate_python(parse(text))


def _as_raised(stored: Error) -> ModelError:
    """A recorded error as its class; one of another version's is a plain `ModelError`."""
    kind: object = getattr(fault, stored.type, None)
    if isinstance(kind, type) and issubclass(kind, ModelError):
        return kind(stored.message)
    return ModelError(stored.message)


def bare(text: str) -> str:
    """The JSON of an answer without the code fence that some models put around it."""
    text = text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0].strip()
    return text


@cache
def _answers() -> TypeAdapter[ModelAnswer]:
    return TypeAdapter(ModelAnswer)


@cache
def _messages() -> TypeAdapter[ChatMessage]:
    return TypeAdapter(ChatMessage)
