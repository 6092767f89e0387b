"""The deep-research graph: plan, one seeker per sub-task in parallel, write.

`create_deep_research_graph` is for applications; `graph` is for `langgraph dev`, which brings its own checkpointer and
store and reads endpoints from the environment.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, Send, interrupt

from agentinfer_lg.collab.controller import start
from agentinfer_lg.collab.effective_policy import ONE_MODEL_NOTE
from agentinfer_lg.collab.verifier import VerifierState
from agentinfer_lg.context import Context
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.events import emit
from agentinfer_lg.graphs.binding import bind, run_of
from agentinfer_lg.graphs.seeker import seeker_builder
from agentinfer_lg.nodes.plan import AGENT as PLANNER
from agentinfer_lg.nodes.plan import large_planner_steps, plan, sub_tasks
from agentinfer_lg.nodes.seeker.budget import share
from agentinfer_lg.nodes.seeker.collab import controller_settings
from agentinfer_lg.nodes.write import write
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.question import check_question
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Settings
from agentinfer_lg.state import ResearchInput, ResearchOutput, ResearchState, SeekerState, SubTask
from agentinfer_lg.text import detect_language

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.cache.base import BaseCache
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.store.base import BaseStore
    from langgraph.types import Checkpointer

    from agentinfer_lg.tools import SearchProvider

__all__ = ("create_deep_research_graph", "graph")


def create_deep_research_graph(
    *,
    settings: Settings | None = None,
    small: BaseChatModel | None = None,
    large: BaseChatModel | None = None,
    search: SearchProvider | None = None,
    checkpointer: Checkpointer = None,
    store: BaseStore | None = None,
    cache: BaseCache[Any] | None = None,
    name: str = "deep_research",
) -> CompiledStateGraph[ResearchState, Context, ResearchInput, ResearchOutput]:
    """Build the graph.

    Input is `{"question": str}` or `{"messages": [...]}` (the last human message is the question); knobs are passed as
    `context=Context(...)`; output has `report`, `answer`, `sources`, `findings` and the records of what happened.

    Args:
        settings: Endpoints, keys and folders; None reads `AGENTINFER_*` variables and `.env` on first use.
        small: A chat model to use for the small tier instead of an endpoint.
        large: The same for the large tier.
        search: Where to search; None takes the document folder or the web search of the settings.
        checkpointer: Needed for resume and plan approval; leave it out when the graph is a sub-graph or is served.
        store: Long-term store, passed on to the nodes.
        cache: Node cache.
        name: Name in traces and in Studio.

    Returns:
        The compiled graph. Running it raises `UserInputError` for an unusable question, `ConfigurationError` when
        something needed is not set, and `EndpointError` when no model answers before anything was found.
    """
    resources = Resources(settings, small=small, large=large, search=search)
    builder = StateGraph(
        ResearchState, context_schema=Context, input_schema=ResearchInput, output_schema=ResearchOutput
    )
    builder.add_node("intake", bind(_intake, resources, prepare=False))
    builder.add_node("plan", bind(plan, resources))
    builder.add_node("approve", _approver(resources))
    builder.add_node("seeker", seeker_builder(resources).compile(name="seeker"))
    builder.add_node("write", bind(write, resources))
    builder.add_edge(START, "intake")
    builder.add_edge("intake", "plan")
    builder.add_conditional_edges("plan", _after_plan, ["plan", "approve"])
    builder.add_edge("seeker", "write")
    builder.set_finish_point("write")
    return builder.compile(checkpointer=checkpointer, store=store, cache=cache, name=name)


async def _intake(state: ResearchState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Check the question and that everything needed is configured, before anything is spent."""
    context = runtime.context
    question = check_question(_question(state))
    knobs, _ = await run_of(runtime, resources)
    one_model = knobs.policy == "one-model"
    if one_model and context.policy != "one-model":
        emit("note", PLANNER, text=ONE_MODEL_NOTE)
    language = detect_language(question) if context.language == "auto" else context.language
    fresh = {"question": question, "asked": question, "language": language, "run_id": uuid.uuid4().hex}
    empty = {"plan_step": 0, "plan": [], "answer": "", "report": ""}
    return {**fresh, "one_model": one_model, **empty, **_cleared(state)}


def _cleared(state: ResearchState) -> dict[str, Any]:
    """Empty what an earlier question of the same thread has gathered."""
    empty: dict[str, Any] = {
        "sources": {},
        "findings": [],
        "calls": [],
        "tools": [],
        "checks": [],
        "escalations": [],
        "filters": [],
        "swaps": [],
        "rounds": [],
        "ran_out": [],
        "dropped_citations": 0,
        "plan_notes": [],
    }
    return {key: Overwrite(value) for key, value in empty.items() if state.get(key)}


def _question(state: ResearchState) -> str:
    """Return the question; in a thread that goes on, a new human message wins over the question already answered."""
    messages = state.get("messages", [])
    question = state.get("question", "")
    follows_up = bool(messages) and messages[-1].type == "human" and question == state.get("asked")
    if question and not follows_up:
        return question
    for message in reversed(messages):
        if message.type == "human":
            return str(message.text)
    if "question" in state:
        return question
    msg = 'There is no question. Pass {"question": "..."}, or messages that end with the user\'s question.'
    raise UserInputError(msg)


def _after_plan(state: ResearchState) -> Literal["plan", "approve"]:
    return "approve" if state.get("plan") else "plan"


_Next = Command[Literal["seeker", "__end__"]]


class _Approver(Protocol):
    def __call__(self, state: ResearchState, *, runtime: Runtime[Context]) -> Awaitable[_Next]: ...


def _approver(resources: Resources) -> _Approver:
    """Return the node that follows the plan; LangGraph reads from its signature where it leads."""

    async def approve(state: ResearchState, *, runtime: Runtime[Context]) -> _Next:
        knobs, _ = await run_of(runtime, resources)
        return _approve(state, knobs)

    return approve


def _approve(state: ResearchState, context: Context) -> _Next:
    """Ask for the plan's approval if that is wanted, then start one seeker per sub-task."""
    tasks = state["plan"]
    if context.plan_approval:
        tasks = _ask(state["question"], tasks)
    if not tasks:
        sentence = PROMPTS[state["language"]].plan_refused
        return Command(
            goto="__end__",
            update={"report": sentence, "ran_out": [sentence], "messages": [AIMessage(sentence)]},
        )
    return Command(
        goto=[Send("seeker", _seeker(state, context, task, len(tasks))) for task in tasks],
        update={"plan": tasks},
    )


def _ask(question: str, tasks: list[SubTask]) -> list[SubTask]:
    """Interrupt until the plan gets an answer that can be read; `error` then says what was wrong with the last one.

    Raising instead would keep the thread from ever going on, since LangGraph replays the answers given so far.
    """
    request: dict[str, object] = {"question": question, "plan": tasks}
    while True:
        answer = interrupt(request)
        try:
            return _approved(answer, tasks)
        except UserInputError as error:
            request = {"question": question, "plan": tasks, "error": str(error)}


def _approved(answer: object, tasks: list[SubTask]) -> list[SubTask]:
    """Read the human's answer: `{"approve": bool}`, `{"plan": [question, ...]}`, or a bare boolean or list.

    Raises:
        UserInputError: The answer is none of these.
    """
    if isinstance(answer, dict) and "plan" in answer:
        answer = answer["plan"]
    elif isinstance(answer, dict):
        answer = answer.get("approve")
    if isinstance(answer, bool):
        return tasks if answer else []
    if isinstance(answer, list) and answer and len(answer) <= 8:
        questions = [item.get("question") if isinstance(item, dict) else item for item in answer]
        if all(isinstance(question, str) for question in questions):
            return sub_tasks([check_question(str(question)) for question in questions])
    msg = 'Answer the plan with {"approve": true}, {"approve": false}, or {"plan": ["question", ...]} (1 to 8 questions).'
    raise UserInputError(msg)


def _seeker(state: ResearchState, context: Context, task: SubTask, seekers: int) -> SeekerState:
    """Return the first state of the seeker of `task`."""
    prompts = PROMPTS[state["language"]]
    parts = [prompts.task.format(question=task["question"])]
    if task["question"] != state["question"]:
        parts.append(prompts.part_of.format(question=state["question"]))
    if notes := [note for note in state.get("plan_notes", []) if note]:
        parts.append(prompts.notes.format(notes="\n".join(f"- {note}" for note in notes)))
    budget = share(context, state.get("calls", []), planner_steps=large_planner_steps(state), seekers=seekers)
    seeker = SeekerState(
        task=task,
        question=state["question"],
        language=state["language"],
        run_id=state["run_id"],
        messages=[HumanMessage("\n".join(parts), id=f"{task['id']}-task")],
        turn=0,
        modes={},
        verifier=VerifierState().to_json(),
        budget=budget,
    )
    collab = start(controller_settings(seeker, context))
    return {**seeker, "tier": collab.tier, "collab": collab.to_json()}


graph = create_deep_research_graph()
"""For `langgraph dev`: no checkpointer (the server brings its own), settings from the environment on first use."""
