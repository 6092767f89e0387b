"""One segment of a run: open what is saved, stream the graph into a view, sum up."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentinfer_lg.cli.failures import ExitCode, exit_code, sentence
from agentinfer_lg.cli.live import View
from agentinfer_lg.context import Context
from agentinfer_lg.errors import CheckpointError, EndpointError, UserInputError
from agentinfer_lg.result import Result, build_result
from agentinfer_lg.settings import EndpointSettings, Settings, Tier
from agentinfer_lg.threads import RunRecord, RunState, Threads

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore

    from agentinfer_lg.tools import SearchProvider

AskPlan = Callable[[list[str]], "list[str] | bool | None"]
"""Asks the user about a plan: True approves, False cancels, a list replaces it, None leaves it waiting."""

_STATES: Mapping[ExitCode, RunState] = {
    ExitCode.COMPLETE: "finished",
    ExitCode.PARTIAL: "partial",
    ExitCode.WAITING: "waiting",
    ExitCode.INTERRUPTED: "stopped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to run."""

    record: RunRecord
    settings: Settings
    context: Context
    resume: bool = False
    save: bool = True
    """Keep checkpoints on disk."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    code: ExitCode
    result: Result
    plan: list[str] | None = None
    """The plan that waits for approval."""
    error: str = ""
    notes: list[str] = field(default_factory=list)
    """Sentences for the end, such as why the run was not saved."""
    resumable: bool = True


async def run(request: Run, *, view: View, ask_plan: AskPlan) -> Outcome:
    """Run until the report, an interrupt, a signal or an error; what was found is never lost.

    Raises:
        CheckpointError: The run cannot be saved or continued.
        ConfigurationError: No endpoint, or nothing to search.
        EndpointError: A model server does not answer, and nothing had been found yet.
        UserInputError: The document folder cannot be used.
    """
    threads = Threads(request.settings.home)
    async with AsyncExitStack() as stack:
        if request.save:
            stack.enter_context(threads.hold(request.record.thread))
        try:
            segment = await _Segment.open(request, view, stack)
            outcome = await segment.go(ask_plan)
        except Exception:
            if request.save and not request.resume:  # nothing was done, so the name is free again
                threads.forget(request.record.thread)
            raise
        if request.save:
            state = _STATES.get(outcome.code, "failed")
            total = outcome.result["seconds"]["total"]
            ended = replace(request.record, state=state, seconds=total, sitting="")
            _note_failure(outcome, lambda: threads.save(ended))
    return outcome


def _note_failure(outcome: Outcome, save: Callable[[], None]) -> None:
    try:
        save()
    except CheckpointError as error:
        outcome.notes.append(str(error))


class _Segment:
    """A stretch of a run without interruption: the graph with its saver, and its stream."""

    def __init__(
        self, request: Run, view: View, saver: BaseCheckpointSaver[Any], store: BaseStore | None
    ) -> None:
        self._request = request
        self._view = view
        self._saver = saver
        self._store = store
        self._config: Any = {"configurable": {"thread_id": request.record.thread}}
        self._started = time.monotonic()
        self._seconds_before = request.record.seconds
        self._notes: list[str] = []
        self._graph: Any = None  # Any: a compiled graph, whose type needs LangGraph
        self._plan: list[str] | None = None
        self._refused = False
        self._recorded = request.save

    @classmethod
    async def open(cls, request: Run, view: View, stack: AsyncExitStack) -> _Segment:
        view.status("loading")
        saver = await stack.enter_async_context(_open_saver(request))
        store = await _open_store(request, view, stack)
        segment = cls(request, view, saver, store)
        try:
            if request.save:
                Threads(request.settings.home).save(segment._begun())
        except CheckpointError as error:  # a full disk must not keep anybody from an answer
            segment._notes.append(str(error))
            segment._recorded = False
        moved = getattr(saver, "set_aside", None)
        if moved:
            view.note(f"The saved runs could not be read; they were moved to {moved}.", "yellow")
        return segment

    def _begun(self) -> RunRecord:
        """The record while this segment goes on."""
        now = datetime.now(tz=UTC).isoformat(timespec="milliseconds")
        return replace(self._request.record, state="running", sitting=now)

    async def go(self, ask_plan: AskPlan) -> Outcome:
        """Run to the end of this segment."""
        with _stop_signals():
            try:
                error = await self._go(ask_plan)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()
                return await self._outcome(ExitCode.INTERRUPTED)
        if error is not None:
            return await self._failed(error)
        if self._refused:
            return await self._outcome(ExitCode.INTERRUPTED)
        return await self._outcome(ExitCode.WAITING if self._plan else None)

    async def _go(self, ask_plan: AskPlan) -> Exception | None:
        """Prepare and stream; returns the error that ended the run, if it had begun."""
        from agentinfer_lg.graphs.deep_research import create_deep_research_graph
        from agentinfer_lg.tools import make_provider

        settings = self._request.settings
        search = make_provider(settings)
        self._graph = create_deep_research_graph(
            settings=settings, search=search, checkpointer=self._saver, store=self._store
        )
        if self._request.resume:
            snapshot = await self._graph.aget_state(self._config, subgraphs=True)
            self._seconds_before += _seconds_of_killed_segment(self._request.record, snapshot)
            if snapshot.values.get("report") and not snapshot.next:
                return None
            begun = bool(snapshot.next)
        else:
            begun = False
        try:
            await self._contact(strict=not begun)
            await self._index(search)
            await self._stream(None if begun else {"question": self._request.record.question}, ask_plan)
        except Exception as error:
            return error
        return None

    async def _contact(self, *, strict: bool) -> None:
        """Make sure that an endpoint answers; with one of two the other tier's model goes on alone.

        Args:
            strict: Raise when none does; a run that goes on may only have to write down what it found.
        """
        from agentinfer_lg.llm.connection import public_url
        from agentinfer_lg.llm.known_endpoints import contact

        self._view.status("contacting the model servers")
        seen: list[EndpointSettings] = []
        errors: list[EndpointError] = []
        context = self._request.context
        settings = self._request.settings.with_models(
            small=context.small_model_name, large=context.large_model_name
        )
        for tier in _tiers(context):
            endpoint = settings.endpoint(tier)
            if endpoint in seen:
                continue
            seen.append(endpoint)
            if endpoint.provider:
                self._view.note(f"{tier} tier: {endpoint.model}", "dim")
                continue
            try:
                profile = await contact(endpoint, on_wait=self._view.status)
            except EndpointError as error:
                errors.append(error)
                self._view.note(str(error), "yellow")
                continue
            kind = " (vLLM)" if profile.vllm else ""
            self._view.note(f"{tier} tier: {profile.model} at {public_url(endpoint.base_url)}{kind}", "dim")
        if strict and len(errors) == len(seen):
            raise errors[0]

    async def _index(self, search: SearchProvider | None) -> None:
        from agentinfer_lg.tools import LocalFolder

        if not isinstance(search, LocalFolder):
            return
        self._view.status(f"indexing the documents in {self._request.settings.docs}")
        documents = await search.check()
        skipped = search.skipped
        self._view.note(
            f"{documents} documents to search" + (f", {len(skipped)} left out" if skipped else ""), "dim"
        )
        for reason in skipped[:3]:
            self._view.note(reason, "yellow")

    async def _stream(self, graph_input: object, ask_plan: AskPlan) -> None:
        from langgraph.types import Command

        answered = False
        while True:
            plan = await self._stream_once(graph_input, answered=answered)
            if plan is None:
                return
            self._view.pause()
            with _default_signals():
                answer = ask_plan(plan)
            self._view.go_on()
            if answer is None:
                self._plan = plan
                return
            self._refused, answered = answer is False, True
            graph_input = Command(
                resume={"plan": answer} if isinstance(answer, list) else {"approve": answer}
            )

    async def _stream_once(self, graph_input: object, *, answered: bool) -> list[str] | None:
        """Stream until the end or an interrupt; returns the plan that the interrupt asks about.

        Args:
            graph_input: What to run with.
            answered: It is an answer about a plan; one that is not understood must not be given again and again.

        Raises:
            UserInputError: The answer cannot be used.
        """
        self._view.status("researching")
        plan: list[str] | None = None
        stream = self._graph.astream(
            graph_input,
            config=self._config,
            context=self._request.context,
            stream_mode=["custom", "updates"],
            subgraphs=True,
            durability="sync",
        )
        async for _, mode, chunk in stream:
            if mode == "custom" and isinstance(chunk, Mapping):
                self._view.event(chunk)
            elif mode == "updates" and "__interrupt__" in chunk:
                plan, objection = _planned(chunk["__interrupt__"])
                if objection and answered:
                    raise UserInputError(objection)
        return plan

    async def _failed(self, error: Exception) -> Outcome:
        """Sum up after an error; where anything was found, that is what counts."""
        outcome = await self._outcome(exit_code(error))
        if not any(finding["answer"] for finding in outcome.result["findings"]):
            outcome.resumable = outcome.resumable and await self._has_state()
            if not outcome.resumable:
                raise error
        outcome.error = sentence(error)
        return outcome

    async def _has_state(self) -> bool:
        snapshot = await self._graph.aget_state(self._config)
        return bool(snapshot.values)

    async def _outcome(self, code: ExitCode | None) -> Outcome:
        """Sum up; `code` None: as the state says."""
        values: Mapping[str, Any] = {}
        if self._graph is not None:
            values = (await self._graph.aget_state(self._config)).values
        record = self._request.record
        seconds = self._seconds_before + time.monotonic() - self._started
        result = build_result({"question": record.question, **values}, thread=record.thread, seconds=seconds)
        failure = str(getattr(self._saver, "failure", ""))
        notes = [*self._notes, *([failure] if failure else [])]
        if code is None:
            code = ExitCode.COMPLETE if result["complete"] and not notes else ExitCode.PARTIAL
        return Outcome(
            code=code,
            result=result,
            plan=self._plan,
            notes=notes,
            resumable=self._recorded and not failure,
        )


def _seconds_of_killed_segment(record: RunRecord, snapshot: Any) -> float:
    """Seconds from the start of a segment that was killed to its last checkpoint."""
    states = [snapshot, *(task.state for task in snapshot.tasks if hasattr(task.state, "created_at"))]
    saved = [datetime.fromisoformat(state.created_at) for state in states if state.created_at]
    if not record.sitting or not saved:
        return 0.0
    return max(0.0, (max(saved) - datetime.fromisoformat(record.sitting)).total_seconds())


def _planned(interrupts: object) -> tuple[list[str], str]:
    """Sub-questions of the plan that an interrupt carries, and what it says was wrong with the last answer."""
    value = (
        getattr(next(iter(interrupts), None), "value", None) if isinstance(interrupts, tuple | list) else None
    )
    if not isinstance(value, Mapping):
        return [], ""
    tasks = value.get("plan", [])
    questions = [str(task["question"]) if isinstance(task, Mapping) else str(task) for task in tasks]
    return questions, str(value.get("error", ""))


def _tiers(context: Context) -> tuple[Tier, ...]:
    """Tiers that the policy uses."""
    match context.policy:
        case "always-small" | "one-model":
            return ("small",)
        case "always-large":
            return ("large",)
        case _:
            return ("small", "large")


@asynccontextmanager
async def _open_saver(request: Run) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    if not request.save:
        from langgraph.checkpoint.memory import InMemorySaver

        yield InMemorySaver()
        return
    from agentinfer_lg.checkpoints import open_checkpointer

    async with open_checkpointer(request.settings) as saver:
        yield saver


async def _open_store(request: Run, view: View, stack: AsyncExitStack) -> BaseStore | None:
    """Open the store of distillates; a run goes on without one, and makes again after a crash what it had made."""
    if not request.save:
        return None
    from agentinfer_lg.checkpoints import open_store

    try:
        return await stack.enter_async_context(open_store(request.settings))
    except CheckpointError as error:
        view.note(f"Distillates are not saved: {error}", "yellow")
        return None


_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Cancel the current task at the first signal; a second one ends the process at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        yield
        return

    def stop() -> None:
        task.cancel()
        for number in _STOPPING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    with suppress(
        NotImplementedError, RuntimeError, ValueError
    ):  # not the main thread: the caller handles signals
        for number in _STOPPING:
            loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)


@contextmanager
def _default_signals() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` while a prompt blocks the loop."""
    try:
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
