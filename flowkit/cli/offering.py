"""Workflows as tools of the Model Context Protocol, and their runs as resources `flowkit://runs/ID`.

    call -> run (durable) -> ended, or waits for somebody, or `wait_s` is over -> answer with the run's id

The client may go away at any time: the run goes on, and is found by its id.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from flowkit.chat import ModelAnswer
from flowkit.cli.follow import Follower, Silent, View, describe
from flowkit.cli.lineage import lineage
from flowkit.cli.results import artifacts_in, failure, run_data
from flowkit.cli.step import view_data
from flowkit.cli.targets import Target
from flowkit.cli.text import clean
from flowkit.engine import Engine
from flowkit.errors import DeclarationError, FlowkitError, RunNotFound
from flowkit.events import FINAL, Event
from flowkit.graph import check_name
from flowkit.handle import RunHandle
from flowkit.ports import RunQuery
from flowkit.rewind import fold
from flowkit.store import SqlStore
from flowkit.values import compact, digest

if TYPE_CHECKING:
    import mcp_types as types
    from mcp.server import Server, ServerRequestContext

RUN_ID: Final = "flowkit/runId"
IDEMPOTENCY_KEY: Final = "flowkit/idempotencyKey"
"""In a call's `_meta`: the run's id, or what is the same on every repeat of the call. Both join a run."""

STATUS: Final = "run_status"
SCHEME: Final = "flowkit://runs/"
LISTED_MAX: Final = 50
RESULT_CHARACTERS_MAX: Final = 1_000_000

_ANY: Final = {
    "type": "object",
    "properties": {"run_id": {"type": "string"}},
    "required": ["run_id"],
}


@dataclass
class Offering:
    """What a client can see and do. Made on an entered engine."""

    engine: Engine
    store: SqlStore
    targets: Mapping[str, Target]
    wait_s: float
    _asked: dict[tuple[str, object], str] = field(default_factory=dict[tuple[str, object], str])

    def server(self) -> Server[Any]:
        """The SDK's server of all this, for any transport."""
        from mcp.server import Server

        made: Server[Any] = Server(
            "flowkit",
            instructions="Each tool but run_status starts a durable run, and gives its result if it ends in "
            "time. Else ask run_status for it with the run's id.",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_list_resources=self.list_resources,
            on_list_resource_templates=self.list_templates,
            on_read_resource=self.read_resource,
        )
        made.middleware.append(self.heed)
        return made

    # ---- tools

    async def list_tools(
        self,
        ctx: ServerRequestContext[Any],
        params: types.PaginatedRequestParams | None,
    ) -> types.ListToolsResult:
        from mcp_types import ListToolsResult, Tool, ToolAnnotations

        tools = [
            Tool(
                name=name,
                description=target.workflow.description or f"Runs the workflow {name}.",
                input_schema=_input_schema(target)[0],
                output_schema=_ANY,
                annotations=ToolAnnotations(read_only_hint=False, open_world_hint=True),
            )
            for name, target in self.targets.items()
        ]
        told = "How a run stands, and its result when it has ended. Waits for its end for a while."
        looks = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        tools.append(
            Tool(
                name=STATUS,
                description=told,
                input_schema=_ANY,
                output_schema=_ANY,
                annotations=looks,
            )
        )
        return ListToolsResult(tools=tools)

    async def call_tool(
        self, ctx: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        since = time.time()
        try:
            handle = await self._begin(ctx, params.name, params.arguments or {})
            await self._follow(ctx, handle, since)
            return await self._answer(handle.id)
        except (FlowkitError, ValueError) as error:  # of pydantic too: for the model to read
            return _refusal(str(error))

    async def _begin(
        self, ctx: ServerRequestContext[Any], name: str, arguments: dict[str, Any]
    ) -> RunHandle[Any]:
        if name == STATUS:
            run_id = str(arguments.get("run_id", ""))
            await self._own(run_id)
            return self.engine.handle(run_id)
        target = self.targets.get(name)
        if target is None:
            raise DeclarationError(
                f"there is no tool {name[:64]!r}; tools: {', '.join(self.targets)}, {STATUS}."
            )
        codec, (_, wrapped) = target.workflow.codec(), _input_schema(target)
        value: Any = codec.load(
            compact(arguments["input"] if wrapped and "input" in arguments else arguments)
        )
        joined = _run_id(name, ctx.meta or {})
        handle: RunHandle[Any] = await self.engine.start(target.workflow, value, run_id=joined)
        self._asked[self._key(ctx, ctx.request_id)] = handle.id
        return handle

    async def _follow(
        self, ctx: ServerRequestContext[Any], handle: RunHandle[Any], since: float
    ) -> None:
        """Until the run has ended, waits for somebody, or `wait_s` is over; progress is told meanwhile."""
        record = await handle.record()
        to_client, lines = anyio.create_memory_object_stream[str](100)
        view, show = View(record.run_id, record.workflow), _Telling(to_client)
        follower = Follower(view, show, self.store, elsewhere=True, since=since)
        with anyio.move_on_after(self.wait_s):
            async with to_client, lines, anyio.create_task_group() as tasks:
                tasks.start_soon(_tell, ctx, lines)
                await follower.follow(handle.events(live=True), record)
                to_client.close()  # what it holds is told before the answer
        self._asked.pop(self._key(ctx, ctx.request_id), None)

    async def _answer(self, run_id: str) -> types.CallToolResult:
        from mcp_types import CallToolResult, TextContent

        data = await self._data(run_id)
        data["resource"] = f"{SCHEME}{run_id}"
        text = ""
        match data["status"]:
            case "succeeded":
                result: Any = data["result"]
                text = result if isinstance(result, str) else compact(result)
            case status if status in FINAL:
                why: Any = data["error"] or {"message": "it gave no reason"}
                text = f"run {run_id} {status}: {why['message']}"
            case "waiting":
                names = ", ".join(f"{each['what']} {each['name']!r}" for each in data["waits_for"])
                text = f"run {run_id} waits for {names or 'somebody'}. Ask {STATUS} later."
            case _:
                text = f"run {run_id} has not ended yet. Ask {STATUS} for it."
        failed = data["status"] in FINAL and data["status"] != "succeeded"
        return CallToolResult(
            content=[TextContent(type="text", text=text)], structured_content=data, is_error=failed
        )

    # ---- a client that cancels

    async def heed(
        self, ctx: ServerRequestContext[Any], call_next: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """Cancel the run of a call that is cancelled. A connection that ends cancels nothing."""
        if ctx.method == "notifications/cancelled":
            run_id = self._asked.pop(self._key(ctx, (ctx.params or {}).get("requestId")), None)
            if run_id is not None:
                await self._cancel(run_id)
        return await call_next(ctx)

    async def _cancel(self, run_id: str) -> None:
        if (await self.engine.handle(run_id).record()).status not in FINAL:
            await self.engine.cancel(run_id, "the client cancelled its call")

    @staticmethod
    def _key(ctx: ServerRequestContext[Any], request: object) -> tuple[str, object]:
        headers: Mapping[str, str] = getattr(ctx.request, "headers", None) or {}
        return headers.get("mcp-session-id", ""), request

    # ---- resources

    async def list_resources(
        self,
        ctx: ServerRequestContext[Any],
        params: types.PaginatedRequestParams | None,
    ) -> types.ListResourcesResult:
        from mcp_types import ListResourcesResult, Resource

        found = await self.store.runs(RunQuery(limit=LISTED_MAX))
        return ListResourcesResult(
            resources=[
                Resource(
                    uri=f"{SCHEME}{record.run_id}",
                    name=record.run_id,
                    description=f"A run of {record.workflow}, {record.status}.",
                    mime_type="application/json",
                )
                for record in found
                if record.workflow in self.targets
            ]
        )

    async def list_templates(
        self,
        ctx: ServerRequestContext[Any],
        params: types.PaginatedRequestParams | None,
    ) -> types.ListResourceTemplatesResult:
        from mcp_types import ListResourceTemplatesResult, ResourceTemplate

        told = "A run: its status, its steps, what it waits for, and its result."
        one = f"{SCHEME}{{run_id}}"
        run = ResourceTemplate(
            uri_template=one, name="run", description=told, mime_type="application/json"
        )
        told = "A file of a run's result."
        file = ResourceTemplate(
            uri_template=f"{one}/artifacts/{{sha256}}", name="artifact", description=told
        )
        return ListResourceTemplatesResult(resource_templates=[run, file])

    async def read_resource(
        self, ctx: ServerRequestContext[Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        from mcp import MCPError
        from mcp_types import INVALID_PARAMS, ReadResourceResult, TextResourceContents

        run_id, inner, sha256 = params.uri.removeprefix(SCHEME).partition("/artifacts/")
        try:
            if not params.uri.startswith(SCHEME):
                raise RunNotFound(f"resources here are {SCHEME}ID, not {params.uri[:80]!r}.")
            await self._own(run_id)
            data = await self._data(run_id, steps=True)
            if inner:
                blob = await self._artifact(params.uri, data["result"], sha256)
                return ReadResourceResult(contents=[blob])
        except FlowkitError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from error
        text = compact(data)
        made = TextResourceContents(uri=params.uri, mime_type="application/json", text=text)
        return ReadResourceResult(contents=[made])

    async def _artifact(self, uri: str, result: Any, sha256: str) -> types.BlobResourceContents:
        from mcp_types import BlobResourceContents

        for each in artifacts_in(result):
            if each.sha256 == sha256:
                raw = base64.b64encode(await self.store.get(sha256)).decode()
                return BlobResourceContents(uri=uri, mime_type=each.media_type, blob=raw)
        raise RunNotFound(f"the run's result has no artifact {sha256[:64]!r}.")

    async def _own(self, run_id: str) -> None:
        """Refuse a run that is not of a workflow which is offered here; it may be anybody's."""
        found = await self.store.runs(RunQuery(run_id=check_name(run_id, "run id")))
        if not found or found[0].workflow not in self.targets:
            raise RunNotFound(f"there is no run {run_id!r} of these workflows.")

    async def _data(self, run_id: str, *, steps: bool = False) -> dict[str, Any]:
        journal = await self.store.load(run_id)
        state = fold(journal)
        forked = lineage(journal.record, journal.events)
        data = await run_data(journal.record, state, self.store, forked)
        error = failure(state)
        if data["error"] is not None and error is not None:
            data["error"] = {"type": data["error"]["type"], "message": str(error.args[0])}
        if len(compact(data["result"])) > RESULT_CHARACTERS_MAX:
            data["result"] = None
            data["note"] = f"the result is too long to be sent: flowkit show {run_id} --json"
        if steps:
            data["steps"] = [view_data(view) for view in state.views()]
        return data


class _Telling(Silent):
    """Has each event told as progress; what nobody takes in time is dropped."""

    def __init__(self, to_client: MemoryObjectSendStream[str]) -> None:
        self._to_client = to_client

    def event(self, event: Event, view: View, answer: ModelAnswer | None) -> None:
        if line := describe(event, view.state, answer):
            try:
                self._to_client.send_nowait(clean(line, 300))
            except anyio.WouldBlock:
                return


async def _tell(ctx: ServerRequestContext[Any], lines: MemoryObjectReceiveStream[str]) -> None:
    told = 0
    async for line in lines:
        told += 1
        await ctx.session.report_progress(told, None, line)


def _input_schema(target: Target) -> tuple[dict[str, Any], bool]:
    """The schema of a call's arguments, and whether the input is their one property `input`."""
    schema = target.workflow.codec().schema()
    whole = schema
    if "$ref" in schema:
        whole = schema.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], schema)
    if whole.get("type") == "object":
        defs = schema.get("$defs")
        return ({**whole, "$defs": defs} if defs else whole), False
    defs = schema.pop("$defs", None)
    made = {"type": "object", "properties": {"input": schema}, "required": ["input"]}
    return ({**made, "$defs": defs} if defs else made), True


def _run_id(workflow: str, meta: Mapping[str, Any]) -> str | None:
    """The run that a call joins, if it names one."""
    if (named := meta.get(RUN_ID)) is not None:
        return check_name(str(named), "run id")
    if (key := meta.get(IDEMPOTENCY_KEY)) is not None:
        return f"mcp-{digest(compact([workflow, str(key)]))[:32]}"
    return None


def _refusal(text: str) -> types.CallToolResult:
    from mcp_types import CallToolResult, TextContent

    lines = [line for line in text.splitlines() if "errors.pydantic.dev" not in line]
    said = TextContent(type="text", text="\n".join(lines)[:4000])
    return CallToolResult(content=[said], is_error=True)
