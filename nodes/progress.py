"""Progress Check: the active model judges its own step, on exactly the prefix of that step."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.runtime import Runtime

from agentinfer_lg.collab.controller import CollabState, needs_check
from agentinfer_lg.collab.progress_check import PROGRESS_PROMPT, PROGRESS_REGEX, parse_verdict
from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.calling import Called, seeker_caller
from agentinfer_lg.llm.chat import Guide
from agentinfer_lg.llm.protocol import gives_answer
from agentinfer_lg.llm.transcript import write_transcript
from agentinfer_lg.nodes.seeker.budget import seconds_left
from agentinfer_lg.nodes.seeker.collab import controller_settings, no_progress_already
from agentinfer_lg.nodes.seeker.compaction import seeker_view
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.resources import Resources
from agentinfer_lg.state import SeekerState


async def progress(state: SeekerState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Ask the model of this step for its verdict.

    Skipped where nothing can follow from it. A failed call is an unreadable verdict, not the end of the run.
    """
    if not decides(state, runtime.context):
        return {"verdict": {"verdict": "SKIPPED", "reason": ""}}
    try:
        called = await _ask(state, runtime.context, resources)
    except EndpointError as error:
        return {"verdict": {"verdict": "UNREADABLE", "reason": str(error)[:300]}}
    parsed = parse_verdict(called.reply.text)
    return {"verdict": {"verdict": parsed.verdict, "reason": parsed.reason}, "calls": [called.record]}


def decides(state: SeekerState, context: Context) -> bool:
    """Whether the verdict on the step can change anything.

    It cannot on an answer, which is accepted or refused. Nor can it under a policy without checks, while warming up, while
    the small model rests from a rescue, and where the verifier objects anyway. And of the first step there is nothing to
    judge: no result has come, nothing can be repeated.
    """
    if any(gives_answer(call["tool"]) for call in state["pending"]):
        return False
    controller = CollabState.from_json(state["collab"])
    if not needs_check(controller_settings(state, context)) or controller.phase == "warmup":
        return False
    if context.progress_checks == "all":
        return True
    resting = controller.tier == "small" and controller.cooldown_left > 0
    return state.get("turn", 0) > 0 and not resting and not no_progress_already(state, context)


def _is_readable(text: str) -> bool:
    return parse_verdict(text).verdict != "UNREADABLE"


async def _ask(state: SeekerState, context: Context, resources: Resources) -> Called:
    tier = state["calls"][-1]["tier"]
    mode = "json" if state["modes"].get(tier) == "json" else resources.models.tier(tier).tool_mode
    transcript = write_transcript(
        seeker_view(state, context),
        mode=mode,
        prompts=PROMPTS[state["language"]],
        question=state["task"]["question"],
    )
    return await seeker_caller(state, context, resources).call(
        tier,
        [*transcript, HumanMessage(PROGRESS_PROMPT[state["language"]])],
        role="progress",
        max_tokens=context.max_check_tokens,
        guide=Guide(regex=PROGRESS_REGEX),
        enough=_is_readable,
        native_tools="none" if mode == "native" else None,
        tool_seconds=resources.clock.expect([call["tool"] for call in state["pending"]]),
        timeout=seconds_left(state),
        fallback=False,  # a verdict of the other model would not be a self-evaluation
    )
