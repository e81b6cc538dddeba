"""`openapi_tools`: the operations of an API as tools, each checked, called and answered for."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Unpack

from flowkit.errors import BadArguments, DeclarationError, OutcomeUnknown, Retry
from flowkit.node import Context
from flowkit.nodes.options import Options, TrustOptions, policy_of, trust_of
from flowkit.nodes.tools.openapi.answers import (
    RETRY_S_MAX,
    ApiAnswer,
    answer_of,
    error_of,
    retry_after,
    without,
)
from flowkit.nodes.tools.openapi.credentials import (
    Credential,
    Credentials,
    base_of,
    with_credentials,
)
from flowkit.nodes.tools.openapi.document import (
    Document,
    Unusable,
    is_array,
    is_object,
    read_document,
)
from flowkit.nodes.tools.openapi.operations import REPEATABLE, SAFE, Operation, chosen
from flowkit.nodes.tools.openapi.request import Request, request_of
from flowkit.nodes.tools.openapi.schemas import Schemas, shortened
from flowkit.nodes.tools.openapi.shape import Shape, shape_of
from flowkit.nodes.tools.schema import SchemaTool
from flowkit.nodes.tools.web import Answer, Refused, Web
from flowkit.nodes.tools.web.client import URL_CHARACTERS_MAX, NotSent, Unreachable
from flowkit.nodes.tools.web.pages import web_of
from flowkit.policy import Effect, Policy, Trust
from flowkit.values import combine

log = logging.getLogger("flowkit")

DESCRIPTION_CHARACTERS: Final = 1_000
NAME_CHARACTERS: Final = 64


class ApiError(OSError):
    """The API did not do what it was asked; the text is for whoever asked."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What the host says of one API."""

    name: str
    server: str
    effects: Mapping[str, Effect]
    idempotency_header: str
    policy: Policy
    trust: TrustOptions


class OpenAPITool(SchemaTool[ApiAnswer]):
    """One operation of an API. Made by `openapi_tools`.

    What an API answers is a stranger's word; what it gives to those alone who have credentials is
    private; and all but GET and its like change something outside. The host may know better.
    """

    def __init__(
        self, name: str, operation: Operation, shape: Shape, base: str, said: _Said
    ) -> None:
        effect = _effect(operation, said)
        retries = 0 if effect == "once" else said.policy.retries
        trust = Trust(_is_secured(operation), True, operation.method not in SAFE)
        trust = trust_of(trust, said.trust)
        policy = replace(said.policy, retries=retries, effect=effect, trust=trust)
        super().__init__(name, _description(operation), shape.schema, ApiAnswer, policy)
        self.operation = operation
        self.base = base
        self._shape = shape
        self._keyed = said.idempotency_header if operation.method not in SAFE else ""
        self._secured = _is_secured(operation)

    def fingerprinted(self) -> Sequence[str]:
        return (self.description, self.operation.place)

    async def run(self, ctx: Context, /, arguments: dict[str, Any]) -> ApiAnswer:
        self.check(arguments)
        request = request_of(
            self.operation.method, self.base, self.operation.path, self._shape, arguments
        )
        if len(request.address) > URL_CHARACTERS_MAX:
            raise BadArguments(
                f"{self.name}: the arguments are too long for an address; give less."
            )
        if self._keyed:
            headers = {**request.headers, self._keyed: ctx.idempotency_key}
            request = replace(request, headers=headers)
        web = web_of(ctx)
        request, hidden = await with_credentials(request, self._credentials(ctx, web))
        answer = without(await self._sent(web, request), hidden)
        if answer.status >= 500 or answer.status in (408, 425, 429):
            raise self._failure(answer)
        found = await answer_of(ctx, answer, self.name)
        if answer.status != 401 or hidden:
            return found
        why = (
            f"The host gives no credentials for {self.base}: it can, with the resource Credentials."
        )
        return found.model_copy(update={"note": f"{found.note} {why}".strip()})

    def _credentials(self, ctx: Context, web: Web) -> Sequence[Credential]:
        try:
            found = ctx.resource(Credentials).of(self.base) if self._secured else ()
        except LookupError:
            return ()
        if found and not self.base.startswith("https://"):
            place = self.base.removeprefix("http://").partition("/")[0]
            if (place if ":" in place else f"{place}:80") not in web.allow:
                raise Refused(
                    f"{self.base} is not https, so no credentials go there, unless the engine's Web allows the "
                    f"place by name. Nothing was sent."
                )
        return found

    async def _sent(self, web: Web, request: Request) -> Answer:
        headers = dict(request.headers)
        if request.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in request.cookies)
        try:
            return await web.send(
                request.method, request.address, headers=headers, body=request.body
            )
        except (NotSent, Refused) as error:
            raise type(error)(f"{error} Nothing was sent.") from None
        except Unreachable as error:
            lost = OutcomeUnknown if self.policy.effect == "once" else ApiError
            raise lost(str(error)) from None

    def _failure(self, answer: Answer) -> Exception:
        """What to raise for an answer after which the same request may do better later."""
        text, wait = error_of(answer), retry_after(answer)
        if self.policy.effect == "once" and answer.status >= 500 and answer.status != 503:
            return OutcomeUnknown(text)
        if wait is None:
            return ApiError(text)
        if self.policy.effect == "once" or wait > RETRY_S_MAX:
            return ApiError(f"{text} The API asks to be left alone for {wait:g} s.")
        return Retry(wait, text)


def openapi_tools(
    source: Mapping[str, Any] | Path | str,
    *,
    name: str = "",
    server: str = "",
    operations: Collection[str] = (),
    exclude: Collection[str] = (),
    effects: Mapping[str, Effect] | None = None,
    idempotency_header: str = "",
    trust: TrustOptions | None = None,
    **policy: Unpack[Options],
) -> list[OpenAPITool]:
    """Tools for the operations of an API that an OpenAPI document (3.0, 3.1, 3.2) describes.

    Requests go out through the engine's `Web`, with what its `Credentials` have for the base address.
    GET, HEAD, OPTIONS and QUERY are `"pure"`, PUT and DELETE `"idempotent"`, all others `"once"`.
    Operations of which no tool can be made are left out, which the log tells; one that is named by its
    operationId, or as "POST /orders", is not.

    Args:
        source: a file (JSON or YAML), or a document at hand, such as `fetch_document` gives.
        name: goes before the tools' names, so that those of two APIs are told apart.
        server: the API's base address; by default the first of the document's servers. Say it where
            you give credentials: the document is somebody else's.
        operations: which ones, by operationId, tag, method, or "POST /orders"; by default all.
        exclude: which ones not, said in the same ways.
        effects: what is so of other effect than its method says, in the same ways.
        idempotency_header: a header in which the API takes a key by which it knows a request again,
            such as "Idempotency-Key"; what would be `"once"` is then `"idempotent"`.
        trust: of all of them, such as `{"approve": "never"}`. By default answers are untrusted, secured ones
            private too, and all but GET and its like have an effect outside.
        policy: as of any tool; by default 60 s for an attempt, and 2 retries of what may be repeated.
            A Retry-After of up to five minutes is heeded.

    Raises:
        DeclarationError: the document cannot be used, or what is said means nothing in it.
    """
    schemas = Schemas(document := read_document(source))
    tried = policy_of({"timeout_s": 60.0, "retries": 2, **policy})
    said = _Said(name, server, effects or {}, idempotency_header, tried, trust or {})
    found = chosen(document, [*operations], [*exclude])
    _check_said(document, found, said)
    made: list[OpenAPITool] = []
    left_out: list[str] = []
    for each in found:
        try:
            label = _name(each, said.name, {tool.name for tool in made})
            base = _base(document, each, said)
            made.append(OpenAPITool(label, each, shape_of(document, schemas, each), base, said))
        except (Unusable, DeclarationError) as error:
            why = f"{each.place}: {str(error).rstrip('.')}"
            if each.id in operations or each.place in operations:
                raise DeclarationError(f"{document.label}: {why}.") from error
            left_out.append(why)
    if not made:
        raise DeclarationError(
            f"{document.label}: no tool can be made of any operation. {'; '.join(left_out[:5])}."
        )
    _tell(document, found, left_out)
    return made


def _tell(document: Document, found: Sequence[Operation], left_out: Sequence[str]) -> None:
    for why in left_out:
        log.info("%s: no tool for %s", document.label, why)
    if left_out:
        log.warning(
            "%s: %d of %d operations are left out; the first: %s",
            document.label, len(left_out), len(found), left_out[0],
        )  # fmt: skip


def _check_said(document: Document, found: Sequence[Operation], said: _Said) -> None:
    known = {selector for each in found for selector in each.selectors}
    for each in said.effects:
        if each not in known:
            raise DeclarationError(
                f"{document.label}: effects={{{each!r}: ...}} means no operation that is chosen."
            )
    if said.idempotency_header and not re.fullmatch(
        r"[A-Za-z0-9-]{1,100}", said.idempotency_header
    ):
        raise DeclarationError(f"{said.idempotency_header!r} is no name of a header.")


def _effect(operation: Operation, said: _Said) -> Effect:
    for selector in operation.selectors:
        if selector in said.effects:
            return said.effects[selector]
    if operation.method in SAFE:
        return "pure"
    if operation.method in REPEATABLE or said.idempotency_header:
        return "idempotent"
    return "once"


def _name(operation: Operation, prefix: str, taken: set[str]) -> str:
    """The operationId, or method and path, in the letters that a name may have."""
    stem = operation.id or f"{operation.method.lower()}_{operation.path.strip('/')}"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{prefix}_{stem}" if prefix else stem).strip("_")
    if plain and len(plain) <= NAME_CHARACTERS and plain not in taken:
        return plain
    mark = combine([operation.id, operation.place])[:8]
    return f"{plain[: NAME_CHARACTERS - 9]}_{mark}".lstrip("_")


def _description(operation: Operation) -> str:
    data = operation.data
    summary = shortened(data.get("summary"), 300).rstrip(".")
    text = shortened(data.get("description"), DESCRIPTION_CHARACTERS)
    told = text if text.startswith(summary) else f"{summary}. {text}".rstrip()
    old = " (deprecated)" if data.get("deprecated") is True else ""
    return f"{told[:DESCRIPTION_CHARACTERS] or operation.place}{old}"


def _is_secured(operation: Operation) -> bool:
    """Whether credentials go with it: an operation whose list of requirements is empty is for anybody."""
    return operation.data.get("security") != []


def _base(document: Document, operation: Operation, said: _Said) -> str:
    """The base address of an operation, as it is compared; raises `Unusable` or `DeclarationError`."""
    listed: Any = operation.data.get("servers") or operation.shared.get("servers") or ()
    own = _server(listed)
    first = said.server or _server(document.data.get("servers"))
    if not first and not own:
        raise DeclarationError(
            "the document does not say where the API is (servers); say it with server="
        )
    try:
        bases = [base_of(each) for each in (first, own) if each]
    except ValueError as error:
        raise DeclarationError(f"{str(error).rstrip('.')}; say the API's with server=") from error
    if len(set(bases)) > 1:
        raise Unusable(
            f"it is at {bases[1]}, and not at {bases[0]}; make tools of it with server={bases[1]!r}"
        )
    return bases[0]


def _server(listed: Any) -> str:
    """The first of a list of servers, its variables at their defaults."""
    first: Any = listed[0] if is_array(listed) and listed else None
    if not is_object(first):
        return ""
    server = first
    variables: Any = server.get("variables")
    given = variables if is_object(variables) else {}

    def value(found: re.Match[str]) -> str:
        each: Any = given.get(found[1])
        return str(each.get("default", "")) if is_object(each) else ""

    return re.sub(r"\{([^{}]*)\}", value, str(server.get("url", "")))
