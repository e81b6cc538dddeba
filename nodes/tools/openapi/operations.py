"""The operations of a document, and which of them a host means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from flowkit.errors import DeclarationError
from flowkit.nodes.tools.openapi.document import Document, Json, Unusable, is_array, is_object

METHODS: Final = ("GET", "HEAD", "OPTIONS", "QUERY", "PUT", "DELETE", "POST", "PATCH")
"""TRACE is no tool's affair: it gives back what was sent, the credentials among it."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY"})
REPEATABLE: Final = frozenset({*SAFE, "PUT", "DELETE"})
"""RFC 9110, 9.2: what is safe changes nothing, what is idempotent may be sent again."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as its document has it. `shared` is what its path says for all of its methods."""

    method: str
    path: str
    data: Mapping[str, Any]
    shared: Mapping[str, Any]

    @property
    def id(self) -> str:
        found: Json = self.data.get("operationId")
        return found if isinstance(found, str) else ""

    @property
    def tags(self) -> Sequence[str]:
        found: Json = self.data.get("tags")
        return [str(tag) for tag in found] if is_array(found) else []

    @property
    def place(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def selectors(self) -> Sequence[str]:
        """What may be said to mean it, from what means it alone to what means many."""
        return [*filter(None, [self.id]), self.place, *self.tags, self.method]

    def chosen(self, by: Collection[str]) -> bool:
        return any(each in by for each in self.selectors)


def operations_of(document: Document) -> Sequence[Operation]:
    """Every operation, in the document's order. Raises `DeclarationError` for a path that is none."""
    found: list[Operation] = []
    for path, item in document.data.get("paths", {}).items():
        if path.startswith("x-"):
            continue
        if not path.startswith("/"):
            raise DeclarationError(
                f"{document.label}: the path {path[:80]!r} does not begin with a slash."
            )
        try:
            shared = document.follow(item, f"the path {path}")
            found += [
                Operation(method, path, document.follow(data, f"{method} {path}"), shared)
                for method, data in _methods(shared)
            ]
        except Unusable as error:
            raise DeclarationError(f"{document.label}: {path[:200]}: {error}.") from error
    return found


def _methods(item: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    more: Json = item.get("additionalOperations")  # of OpenAPI 3.2
    for name, data in {**item, **(more if is_object(more) else {})}.items():
        if name.upper() in METHODS and name in (name.lower(), name.upper()):
            yield name.upper(), data


def chosen(
    document: Document, wanted: Collection[str], unwanted: Collection[str]
) -> Sequence[Operation]:
    """The operations that are wanted; none said is all.

    Raises:
        DeclarationError: something is said that means no operation, or two have one operationId.
    """
    every = operations_of(document)
    known = dict.fromkeys(selector for each in every for selector in each.selectors)
    for said in (*wanted, *unwanted):
        if said not in known:
            near = get_close_matches(said, known, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise DeclarationError(
                f"{document.label}: no operation has the operationId, tag or method {said[:80]!r}, nor is it "
                f'one as "GET /path".{hint}'
            )
    found = [
        each for each in every if (not wanted or each.chosen(wanted)) and not each.chosen(unwanted)
    ]
    if not found:
        raise DeclarationError(
            f"{document.label}: none of its {len(every)} operations is left to make a tool of."
        )
    for id, times in Counter(each.id for each in found if each.id).items():
        if times > 1:
            places = " and ".join(each.place for each in found if each.id == id)
            raise DeclarationError(
                f"{document.label}: the operationId {id[:80]!r} stands at {places[:200]}; one name means one "
                f"operation. Mend the document, or choose by method and path."
            )
    return found
