"""A seeker in the middle of its work, without a graph: its state, its models, and what it can search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult
from langgraph.runtime import Runtime

from agentinfer_lg.collab.controller import CollabSettings, start
from agentinfer_lg.context import Context
from agentinfer_lg.errors import ToolError
from agentinfer_lg.llm.protocol import Action, Step
from agentinfer_lg.llm.transcript import step_message
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Settings
from agentinfer_lg.state import CallRecord, SeekerState, Source
from agentinfer_lg.tools import Document, SearchHit

QUESTION = "When was Heron Point Light lit?"
SEARCH = Action(tool="web_search", arguments={"queries": ["heron point"]})


class ScriptedModel(GenericFakeChatModel):
    """A chat model of the caller that says one text after the other, and keeps what it was asked."""

    asked: list[str] = []  # noqa: RUF012  # a field of the model, each has its own

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        self.asked.append("\n".join(str(message.content) for message in messages))
        return super()._generate(messages, *args, **options)


class Broken(ScriptedModel):
    """A model that does not answer."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        msg = "the model is on fire"
        raise RuntimeError(msg)


def model(*texts: str) -> ScriptedModel:
    """Return a model that says `texts`, in order."""
    return ScriptedModel(messages=iter([AIMessage(text) for text in texts]))


def broken() -> Broken:
    """Return a model that does not answer."""
    return Broken(messages=iter([]))


class Shelf:
    """Documents by their address; a query finds those whose title shares a word with it."""

    name = "shelf"

    def __init__(self, **documents: str) -> None:
        self.documents = documents
        self.queries: list[str] = []
        self.fails = False

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        """Return whole documents."""
        self.queries += queries
        if self.fails:
            msg = "The index is gone."
            raise ToolError(msg)
        return [self._hits(query)[:limit] for query in queries]

    def _hits(self, query: str) -> list[SearchHit]:
        return [
            SearchHit(uri=name, title=name.title(), snippet=text, complete=True)
            for name, text in self.documents.items()
            if name in query.casefold()
        ]

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        """Return a document by its name."""
        text = self.documents.get(uri)
        return None if text is None else Document(uri=uri, title=uri.title(), text=text)


def resources(
    shelf: Shelf | None = None, *, small: ScriptedModel | None = None, large: ScriptedModel | None = None
) -> Resources:
    """Return what nodes share; a tier without a model has one that does not answer."""
    return Resources(
        Settings(_env_file=None),
        small=small or broken(),
        large=large or broken(),
        search=shelf or Shelf(),
    )


def runtime(**knobs: Any) -> Runtime[Context]:
    """Return the runtime of a node, with the knobs of its run."""
    return Runtime(context=Context(**knobs))


def source(key: str, *passages: str, title: str = "", read: bool = False) -> Source:
    """Return a source under a short key."""
    return Source(key=key, uri=f"{key}.md", title=title or key.title(), passages=list(passages), read=read)


def call_record(**values: Any) -> CallRecord:
    """Return the record of a call of the small model that cost 10 tokens and a tenth of a second."""
    blank = CallRecord(
        agent="seeker-1",
        turn=0,
        role="think",
        tier="small",
        model="m",
        prompt_tokens=8,
        cached_tokens=0,
        output_tokens=2,
        seconds=0.1,
        reprefill_tokens=0,
    )
    return cast(CallRecord, {**blank, **values})


def rounds(*steps: tuple[Action, str]) -> list[AnyMessage]:
    """Return the messages of a seeker after one round per action and result; an empty result is not there yet."""
    messages: list[AnyMessage] = [HumanMessage(f"Question: {QUESTION}", id="seeker-1-task")]
    for turn, (action, result) in enumerate(steps):
        message = step_message(
            Step(thought=f"Thought number {turn}.", actions=(action,)),
            message_id=f"seeker-1-{turn}",
            raw=None,
        )
        call = message.tool_calls[0]
        messages.append(message)
        if result:
            messages.append(ToolMessage(result, tool_call_id=str(call["id"]), name=call["name"]))
    return messages


def seeker(*sources: Source, **values: Any) -> SeekerState:
    """Return the state of a seeker that knows `sources`; other keys have the values of a first round."""
    settings = CollabSettings(policy="agentcollab", warmup_steps=0, max_large_steps=5)
    blank = SeekerState(
        task={"id": "seeker-1", "question": QUESTION},
        question=QUESTION,
        language="en",
        run_id="run",
        messages=rounds((SEARCH, "")),
        turn=0,
        tier="small",
        modes={},
        collab=start(settings).to_json(),
        sources={each["key"]: each for each in sources},
        numbers=[each["key"] for each in sources],
        calls=[],
        tools=[],
        pending=[],
        observations=[],
        verdict={"verdict": "TRUE", "reason": "news"},
        proposal={"answer": "", "sources": [], "accepted": False},
        budget={
            "turns": 10,
            "small_tokens": 10_000,
            "large_tokens": 10_000,
            "large_steps": 5,
            "seconds": 600.0,
        },
    )
    return cast(SeekerState, {**blank, **values})
