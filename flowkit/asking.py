"""`ctx.model`: the run's model with every answer journaled, and answers of a type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar, overload

from pydantic import TypeAdapter

from flowkit.chat import ChatMessage, Delta, ModelAnswer, ModelRequest
from flowkit.errors import FlowkitError
from flowkit.events import ModelAnswered
from flowkit.graft import plan_from, plan_schema
from flowkit.node import AnyNode, ModelHandle
from flowkit.plan import Plan
from flowkit.ports import Model
from flowkit.values import Codec, Value, compact, digest, parse

T = TypeVar("T")


class BadAnswer(FlowkitError, ValueError):
    """The model's answer does not fit the wanted type, after all repairs."""


class Remember(Protocol):
    """Journals what a call gave, or gives back what the journal has of it."""

    async def __call__(
        self, request: str, make: Callable[[int], Awaitable[ModelAnswered]], /
    ) -> ModelAnswered: ...


class JournaledModel(ModelHandle):
    """The run's model; keyed by the request, never by the order of calls."""

    def __init__(
        self,
        model: Model | None,
        tools: Sequence[AnyNode],
        remember: Remember,
        on_delta: Callable[[Delta], None],
    ) -> None:
        self._model = model
        self._tools = tools
        self._remember = remember
        self._on_delta = on_delta

    @property
    def name(self) -> str:
        return self._need().name

    def _need(self) -> Model:
        if self._model is None:
            raise FlowkitError(
                "this node asks a model, but the engine has none: Engine(..., model=OpenAIModel.from_env())."
            )
        return self._model

    async def respond(self, request: ModelRequest) -> ModelAnswer:
        model = self._need()

        async def delta(piece: Delta) -> None:
            self._on_delta(piece)

        async def ask(n: int) -> ModelAnswered:
            answer = await model.respond(request, on_delta=delta)
            text = compact(_answers().dump_python(answer, mode="json", exclude_defaults=True))
            return ModelAnswered(key, n, answer.model or model.name, Value.of(text))

        plain = _requests().dump_python(request, mode="json", exclude_defaults=True)
        plain.pop("deadline", None)
        key = digest(compact(plain))[:32]
        answered = await self._remember(key, ask)
        if answered.value is None or answered.value.text is None:
            raise FlowkitError(f"the journal has no text for the answer to request {key}.")
        return _answers().validate_python(parse(answered.value.text))

    @overload
    async def complete(self, prompt: str | Sequence[ChatMessage]) -> str: ...
    @overload
    async def complete(
        self, prompt: str | Sequence[ChatMessage], *, returns: type[T], repairs_max: int = 2
    ) -> T: ...
    async def complete(
        self, prompt: str | Sequence[ChatMessage], *, returns: Any = str, repairs_max: int = 2
    ) -> Any:
        messages = [ChatMessage("user", prompt)] if isinstance(prompt, str) else list(prompt)
        if returns is str:
            answer = await self.respond(ModelRequest(tuple(messages)))
            return answer.message.content or ""
        read, schema, name = self._reader(returns)
        for repair in range(repairs_max + 1):
            request = ModelRequest(tuple(messages), schema=schema, schema_name=name)
            answer = await self.respond(request)
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
                messages += [answer.message, ChatMessage("user", wrong)]
        raise AssertionError("unreachable: the loop returns or raises")

    def _reader(self, returns: type[Any]) -> tuple[Callable[[str], Any], dict[str, Any], str]:
        if returns is Plan:
            tools = self._tools
            return lambda text: plan_from(parse(_bare(text)), tools), plan_schema(tools), "Plan"
        codec = Codec(returns, "answer")
        name = getattr(returns, "__name__", "Answer")
        return lambda text: codec.load(_bare(text)), codec.schema(), name


def _bare(text: str) -> str:
    """The JSON of an answer without the code fence that some models put around it."""
    text = text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rpartition("```")[0].strip()
    return text


@cache
def _answers() -> TypeAdapter[ModelAnswer]:
    return TypeAdapter(ModelAnswer)


@cache
def _requests() -> TypeAdapter[ModelRequest]:
    return TypeAdapter(ModelRequest)
