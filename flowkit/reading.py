"""A run's values as nodes see them: typed objects made from what the state holds.

Each reader gets its own object, made from the stored JSON. Large values are kept once by hash and
brought into memory when somebody reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowkit.context import findings
from flowkit.dsl import item_type
from flowkit.errors import FlowkitError
from flowkit.events import Fact
from flowkit.graph import INPUT, Source
from flowkit.node import AnyNode
from flowkit.ports import Artifacts
from flowkit.slot import Slot
from flowkit.state import State
from flowkit.values import INLINE_MAX, Codec, Value, compact, digest, parse


class Reading:
    """Reads and stores the values of one run."""

    def __init__(
        self, state: State, nodes: Mapping[str, AnyNode], entry: Codec, artifacts: Artifacts
    ) -> None:
        self._state = state
        self._nodes = nodes
        self._entry = entry
        self._artifacts = artifacts
        self._items: dict[str, tuple[str, Sequence[str]]] = {}
        self._item_codecs: dict[str, Codec] = {}
        self._fetched: dict[str, int] = {}
        """Turns of a planner whose values are in memory; nothing in an ended turn changes any more."""

    async def arguments(self, slot: Slot, node: AnyNode) -> Sequence[Any]:
        """What an attempt is given, one object for each input."""
        await self.fetch_inputs(slot)
        inputs = enumerate(slot.step.inputs)
        return [self.argument(source, node, index) for index, source in inputs]

    def argument(self, source: Source, node: AnyNode, index: int) -> Any:
        if source.text is not None:
            codec = list(node.codecs().values())[index]
            if source.item is None:
                return codec.load(source.text)
            return codec.load(self._items_of("", source.text)[source.item])
        slot = self._state.slots[source.step]
        if source.item is None:
            return self.load(slot)
        if slot.members is not None:
            return self.load(slot.members[source.item])
        return self._load_item(slot, source.item)

    def _load_item(self, slot: Slot, index: int) -> Any:
        """One item of a list, without making the others."""
        if slot.key not in self._item_codecs:
            hint = self._codec_of(slot).hint
            self._item_codecs[slot.key] = Codec(item_type(hint, slot.key), f"{slot.key}[]")
        return self._item_codecs[slot.key].load(
            self._items_of(slot.key, self._text_of(slot))[index]
        )

    def _items_of(self, key: str, text: str) -> Sequence[str]:
        """The items' JSON of the list that is mapped over; the last list of each step is kept."""
        known = self._items.get(key)
        if known is None or known[0] is not text:
            known = self._items[key] = (text, [compact(item) for item in parse(text)])
        return known[1]

    async def input_texts(self, slot: Slot) -> tuple[str, ...]:
        """The JSON of each input of a step that is ready; its node is not needed for it."""
        await self.fetch_inputs(slot)
        return tuple(self._input_text(source) for source in slot.step.inputs)

    def _input_text(self, source: Source) -> str:
        if source.text is not None:
            return (
                source.text if source.item is None else self._items_of("", source.text)[source.item]
            )
        slot = self._state.slots[source.step]
        if source.item is None:
            return self.text(slot)
        if slot.members is not None:
            return self.text(slot.members[source.item])
        return self._items_of(slot.key, self._text_of(slot))[source.item]

    def load(self, slot: Slot) -> Any:
        """The typed value of a settled slot, made anew for each reader."""
        if slot.members is not None:
            return [self.load(member) for member in slot.members]
        if slot.value is None and slot.planning is not None:
            return findings(slot, self.load)
        return self._codec_of(slot).load(self._text_of(slot))

    def text(self, slot: Slot) -> str:
        """The JSON of a settled slot as it is stored; of lists and findings made of their parts."""
        if slot.members is not None:
            return f"[{','.join(self.text(member) for member in slot.members)}]"
        if slot.value is None and slot.planning is not None:
            found = findings(slot, self.text)
            parts = [f"{compact(key)}:{text}" for key, text in found.results.items()]
            return f"{{{','.join(parts)}}}"
        return self._text_of(slot)

    def _codec_of(self, slot: Slot) -> Codec:
        codec = self._entry if slot.key == INPUT else self._nodes[slot.node].codec()
        if codec is None:
            raise FlowkitError(f"{slot.key!r} has no value of its own")
        return codec

    def _text_of(self, slot: Slot) -> str:
        if slot.value is None or slot.value.text is None:
            raise FlowkitError(f"the value of {slot.key!r} is not in memory")
        return slot.value.text

    async def fetch_inputs(self, slot: Slot) -> None:
        """Bring the large values that an attempt reads into memory."""
        wanted: list[Slot] = []
        for source in slot.step.inputs:
            if source.step:
                read = self._state.slots[source.step]
                if source.item is not None and read.members is not None:
                    read = read.members[source.item]
                wanted.append(read)
        turns = slot.planning.turns if slot.planning else []
        for turn in turns[self._fetched.get(slot.key, 0) :]:
            wanted += [child for child in turn.children if child.status == "settled"]
            turn.said = [
                replace(said, value=await self.inline(said.value)) if said.value else said
                for said in turn.said
            ]
        await self.fetch(wanted)
        if turns:
            self._fetched[slot.key] = len(turns)

    async def fetch(self, wanted: Sequence[Slot]) -> None:
        """Bring the large values of these slots, and of what they are made of, into memory."""
        todo = list(wanted)
        while todo:
            slot = todo.pop()
            todo += slot.members or ()
            if slot.value is not None:
                if slot.value.text is None:
                    slot.value = await self.inline(slot.value)
            elif slot.planning is not None:
                for turn in slot.planning.turns:
                    todo += [child for child in turn.children if child.status == "settled"]

    async def inline(self, value: Value) -> Value:
        """The value with its text."""
        if value.text is not None:
            return value
        text = (await self._artifacts.get(value.digest)).decode()
        return Value(text, value.digest, value.size, value.items)

    async def shrink(self, fact: Fact) -> Fact:
        """A fact whose value is large refers to it by hash; the text is stored once, before it."""
        value: Value | None = getattr(fact.payload, "value", None)
        if value is None or value.text is None or not is_large(fact):
            return fact
        raw = value.text.encode()
        items = value.count() if value.text.startswith("[") else None
        await self._artifacts.put(raw)
        small = Value(None, digest(value.text), len(raw), items)
        payload: Any = fact.payload
        return replace(fact, payload=replace(payload, value=small))


def is_large(fact: Fact) -> bool:
    """Whether a fact carries a value that is to be stored apart from it."""
    value: Value | None = getattr(fact.payload, "value", None)
    return value is not None and value.text is not None and len(value.text) > INLINE_MAX
