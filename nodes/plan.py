"""Planning: the large model understands the question and splits it (phase 1 of Algorithm 1, K_L steps)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.runtime import Runtime

from agentinfer_lg.context import Context
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import Called, Caller
from agentinfer_lg.llm.chat import Guide, OutOfTimeError
from agentinfer_lg.prompts import PROMPTS, Prompts
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import ResearchState, SubTask
from agentinfer_lg.text import content_terms, well_formed

AGENT = "planner"
_MAX_STEPS = 3


def planner_tier(context: Context) -> Tier:
    """Return who plans under the policy of `context`."""
    alone = context.policy in ("always-small", "one-model")
    return "small" if alone or context.max_large_steps == 0 else "large"


def large_planner_steps(state: ResearchState) -> int:
    """Return how many steps of the large model the planner made."""
    calls = state.get("calls", [])
    return sum(1 for call in calls if call["agent"] == AGENT and call["tier"] == "large")


async def plan(state: ResearchState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Make one planning step; the last one splits the question.

    The K_L steps are intent, strategy and decomposition; with K_L = 1 there is just the decomposition. Nothing follows
    from a Progress Check here (phase 1 has no branch but an early answer, which without evidence could not be cited),
    so none is made.
    """
    context = runtime.context
    step = state.get("plan_step", 0)
    last = step >= context.warmup_steps - 1
    try:
        called = await _call(state, context, resources, step, last=last)
    except OutOfTimeError:
        sentence = PROMPTS[state["language"]].out_of_seconds.format(agent=AGENT, limit=context.max_seconds)
        return {"plan": sub_tasks([state["question"]]), "ran_out": [sentence]}
    update: dict[str, Any] = {"calls": [called.record], "plan_step": step + 1}
    if called.warning:
        update["ran_out"] = [called.warning]
    if not last:
        return update | {"plan_notes": [called.reply.text[:2000]]}
    questions = parse_questions(called.reply.text, question=state["question"])
    if context.max_seekers == 1:
        # One seeker: what was listed are the facts it looks up one after the other.
        update["plan_notes"] = [question for question in questions if question != state["question"]]
        questions = [state["question"]]
    update["plan"] = sub_tasks(questions[: context.max_seekers])
    emit("plan", AGENT, plan=[task["question"] for task in update["plan"]])
    return update


async def _call(
    state: ResearchState, context: Context, resources: Resources, step: int, *, last: bool
) -> Called:
    prompts = PROMPTS[state["language"]]
    prompt = _prompt(prompts, context, step, last).format(
        question=state["question"], notes="\n".join(state.get("plan_notes", [])), limit=context.max_seekers
    )
    limit = context.max_seekers if context.max_seekers > 1 else _MAX_STEPS
    seconds = context.max_seconds - sum(call["seconds"] for call in state.get("calls", []))
    caller = Caller(resources=resources, context=context, run_id=state["run_id"], agent=AGENT, turn=step)
    return await caller.call(
        planner_tier(context),
        [HumanMessage(prompt)],
        role="plan",
        max_tokens=context.max_plan_tokens,
        guide=Guide(schema=_schema(limit)) if last else None,
        timeout=max(0.0, seconds),
    )


def sub_tasks(questions: Sequence[str]) -> list[SubTask]:
    """Return one task per question; its id is the name of its seeker."""
    return [
        SubTask(id=f"seeker-{number}", question=question)
        for number, question in enumerate(questions, start=1)
    ]


def parse_questions(text: str, *, question: str) -> list[str]:
    """Read the sub-questions from the planner's output; never raises.

    Sub-questions that share no word with the question are inventions, those that only repeat it or its beginning are
    echoes; both are left out. If none is left, or just one (then nothing was split and rewording can only lose
    something), the question itself is the plan.
    """
    words, whole = content_terms(question), _bare(question)
    kept = [
        item
        for item in dict.fromkeys(_listed(text))
        if content_terms(item) & words and not whole.startswith(_bare(item))
    ]
    return kept if len(kept) > 1 else [question]


def _bare(question: str) -> str:
    return " ".join(question.casefold().split()).rstrip("?？.。… ")


def _prompt(prompts: Prompts, context: Context, step: int, last: bool) -> str:
    if last:
        return prompts.plan_split if context.max_seekers > 1 else prompts.plan_steps
    return prompts.plan_intent if step == 0 and context.warmup_steps >= 3 else prompts.plan_strategy


def _schema(limit: int) -> dict[str, object]:
    item = {"type": "string", "minLength": 5, "maxLength": 200}
    questions = {"type": "array", "items": item, "minItems": 1, "maxItems": limit}
    return {
        "type": "object",
        "properties": {"questions": questions},
        "required": ["questions"],
        "additionalProperties": False,
    }


def _listed(text: str) -> list[str]:
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1], strict=False) if 0 <= start < end else None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("questions"), list):
        items = [item for item in value["questions"] if isinstance(item, str)]
    else:
        items = [
            line.strip(" -*\t0123456789.)、") for line in text.splitlines() if "?" in line or "？" in line
        ]
    return [well_formed(" ".join(item.split())[:500]) for item in items if item.strip()][:8]
