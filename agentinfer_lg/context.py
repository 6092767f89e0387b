"""Knobs of one run: what Studio shows and what a caller passes as `context=`.

Every field is plain data with a description. It makes the control in the form of `langgraph dev` (`x_oap_ui_config` in the
JSON schema), the check of `--set`, and the row of `docs/knobs.md`. Endpoints and keys are not here: see
`agentinfer_lg.settings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

CollabPolicy = Literal[
    "agentcollab",
    "one-model",
    "always-small",
    "always-large",
    "large-planner-only",
    "random",
    "escalate-on-tool-error",
]
"""Who thinks: the self-checking policy of the paper, what takes its place where there is one model, or a fixed one to
compare with."""

CollabBudget = Literal["static", "cumulative"]
"""How long a rescue may last: B_L of Algorithm 1, or the growing budget of the follow-up (arXiv 2603.26034)."""

CompressionMode = Literal["background", "barrier", "off"]
"""Whether old tool results are distilled, and whether a round waits for it."""

ProgressChecks = Literal["deciding", "all"]
"""Which steps are judged by the model that made them."""

SearchFilter = Literal["lexical", "model", "off"]
"""Who prunes search results before they are read."""


Language = Literal["auto", "en", "zh"]
"""Language of prompts and report; `auto` follows the question."""

ReportForm = Literal["full", "brief"]
"""A report that the large model writes, or the answer and the findings put together by code."""


def _knob(
    default: Any, description: str, *, slider: bool = False, **limits: Any
) -> Any:  # Any: pydantic's own Field signature
    """Declare a knob; its type, default, limits and description make its control in the form, too.

    Args:
        default: Value where nobody sets one.
        description: A sentence for the form and for `docs/knobs.md`.
        slider: Show a number as a slider; it needs a lower and an upper limit.
        **limits: Those of pydantic's `Field`.
    """
    return Field(
        default=default,
        description=description,
        json_schema_extra={"slider": True} if slider else None,
        **limits,
    )


def _add_controls(schema: dict[str, Any]) -> None:
    """Add to each property of a JSON schema the control that Studio shows for it."""
    for knob in schema["properties"].values():
        knob["x_oap_ui_config"] = _control(knob, slider=knob.pop("slider", False))


def _control(knob: Mapping[str, Any], *, slider: bool) -> dict[str, Any]:
    control: dict[str, Any] = {"default": knob["default"], "description": knob["description"]}
    if "enum" in knob:
        return {
            **control,
            "type": "select",
            "options": [{"label": name, "value": name} for name in knob["enum"]],
        }
    match knob["type"]:
        case "boolean":
            control["type"] = "switch"
        case "string":
            control["type"] = "text"
        case _:
            control["type"] = "slider" if slider else "number"
    for end, limit in (("min", "minimum"), ("max", "maximum")):
        if limit in knob:
            control[end] = knob[limit]
    return control


class Context(BaseModel):
    """Per-run knobs of the deep-research graph."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_add_controls)

    language: Language = _knob(
        "auto",
        "Language of prompts and report; auto follows the question.",
    )
    plan_approval: bool = _knob(False, "Stop after planning and wait for the plan to be approved or edited.")
    max_seekers: int = _knob(3, "Sub-tasks researched in parallel.", slider=True, ge=1, le=8)
    small_model_name: str = _knob(
        "",
        "Another small model for this run: a name that its endpoint serves, or provider:name; empty: as the settings say.",
        max_length=200,
    )
    large_model_name: str = _knob("", "The same for the large model.", max_length=200)
    report: ReportForm = _knob(
        "full",
        "full: the large model writes a report; brief: the answer and the findings, put together by code.",
    )
    tenant: str = _knob(
        "",
        "Namespace of the user, passed to the engine so that memory never crosses it.",
        max_length=128,
    )

    policy: CollabPolicy = _knob(
        "agentcollab",
        "Which model thinks: the agent's own Progress Check decides (one-model, where both tiers are one), or a fixed policy.",
    )
    warmup_steps: int = _knob(
        1, "K_L: steps of the large model while planning (1 to 3).", slider=True, ge=1, le=3
    )
    seeker_warmup_steps: int = _knob(0, "K_L again, at the start of each seeker.", slider=True, ge=0, le=5)
    budget: CollabBudget = _knob(
        "cumulative",
        "Length of a rescue: static (B_L, Algorithm 1) or cumulative (grows with failed rescues in a row).",
    )
    static_budget: int = _knob(2, "B_L: large steps per rescue, static budget.", slider=True, ge=1, le=10)
    initial_budget: int = _knob(
        2, "B0: large steps of the first rescue, cumulative budget.", slider=True, ge=1, le=10
    )
    budget_slope: int = _knob(2, "Large steps added per failed rescue in a row.", slider=True, ge=0, le=10)
    budget_ceiling: int = _knob(6, "B_max: most large steps of one rescue.", slider=True, ge=1, le=20)
    cooldown: int = _knob(
        1,
        "Small steps that must follow a rescue before the next one may start (against flapping).",
        slider=True,
        ge=0,
        le=5,
    )
    progress_checks: ProgressChecks = _knob(
        "deciding",
        "Steps with a Progress Check: those where it can decide something, or all (Algorithm 1).",
    )
    verifier: bool = _knob(
        True,
        "Check progress without a model too: repeated actions and rounds without new evidence count as FALSE.",
    )
    repeat_limit: int = _knob(
        2, "How often one action may be made before it counts as a repeat.", slider=True, ge=1, le=5
    )
    stall_limit: int = _knob(
        2, "Rounds in a row without new evidence that count as no progress.", slider=True, ge=1, le=10
    )
    random_p: float = _knob(
        0.3, "Chance of the large model per step, policy random.", slider=True, ge=0.0, le=1.0
    )
    seed: int = _knob(0, "Seed of the policy random.", ge=0)

    compression: CompressionMode = _knob(
        "background",
        "Distill old tool results: in the background, with the round waiting for it (barrier: repeatable), or not at all.",
    )
    compress_after_tokens: int = _knob(
        5000, "Length of a context, in tokens, from which old results are distilled.", ge=200
    )
    keep_rounds: int = _knob(2, "Last rounds whose results stay whole.", slider=True, ge=0, le=20)
    notes_tokens: int = _knob(1000, "Most tokens of the notes.", ge=100, le=20_000)
    notes: bool = _knob(True, "Write notes; off: old results are just left out.")
    keep_reasoning: bool = _knob(
        True, "Keep the agent's own steps word for word; off: they go with the results."
    )
    max_reasoning_tokens: int = _knob(
        8000,
        "Most tokens of those steps; the oldest beyond that are left out, and what they searched is listed.",
        ge=500,
    )
    prewarm: bool = _knob(
        True, "Prefill the new context in the background before it takes the place of the old one."
    )
    rescue_tokens: int = _knob(
        800,
        "Most tokens of results shown to the large model when it takes over; 0, or compression off: all of them, whole.",
        ge=0,
        le=100_000,
    )
    passage_tokens: int = _knob(
        120,
        "Most tokens of one passage when an answer is read: its sentences that match best; 0, or compression off: all of it.",
        ge=0,
        le=100_000,
    )
    rescue_reads: bool = _knob(
        True,
        "Let a rescue begin with reading what was found for an answer; off: with a Think step of the large model.",
    )
    recall: bool = _knob(True, "Let the model ask for the original of a distilled result (tool recall).")
    auto_recall: bool = _knob(
        True,
        "Show the original of a distilled result again when a search asks for what the notes on it leave out.",
    )
    distill_seconds: float = _knob(
        300.0, "Seconds for one distillation; then sentences of the results stand in.", gt=0
    )
    search_filter: SearchFilter = _knob(
        "lexical",
        "Choose among search results before they are read: by their words, by the small model, or not at all.",
    )
    search_keep: int = _knob(5, "Most results of a round that pass the filter.", slider=True, ge=1, le=20)
    filter_seconds: float = _knob(
        20.0, "Seconds for the filter's model; then the words decide.", gt=0, le=600
    )

    max_turns: int = _knob(12, "Think steps of each seeker.", slider=True, ge=1, le=1000)
    max_small_tokens: int = _knob(1_000_000, "Prompt and output tokens of the small tier, per run.", ge=0)
    max_large_tokens: int = _knob(1_000_000, "Prompt and output tokens of the large tier, per run.", ge=0)
    max_large_steps: int = _knob(24, "Think steps of the large model, per run.", ge=0)
    max_seconds: float = _knob(3600.0, "Seconds a run may take.", gt=0)

    results_per_query: int = _knob(5, "Search results asked for per query.", slider=True, ge=1, le=20)
    leads: bool = _knob(
        True,
        "Search for what the results name and nobody asked for: when a search asks nothing new, and before an answer is read.",
    )
    max_observation_tokens: int = _knob(
        1500, "Most tokens of tool output shown to the model in one round.", ge=100, le=100_000
    )
    max_plan_tokens: int = _knob(200, "Most tokens of one planning step.", ge=32, le=16_000)
    max_thought_tokens: int = _knob(400, "Most tokens of one Think step.", ge=32, le=16_000)
    max_check_tokens: int = _knob(96, "Most tokens of one Progress Check.", ge=48, le=16_000)
    max_answer_tokens: int = _knob(
        80, "Most tokens of an answer that is read out of what was found.", ge=16, le=16_000
    )
    max_reading_tokens: int = _knob(
        160, "Most tokens of what is read out of one document for a question.", ge=16, le=16_000
    )
    max_report_tokens: int = _knob(1500, "Most tokens of the report.", ge=64, le=32_000)
    crawl_seconds: float = _knob(20.0, "Seconds allowed for fetching one page.", gt=0, le=600)
    crawl_max_bytes: int = _knob(5_000_000, "Most bytes read of one page.", ge=1_000)
    temperature: float = _knob(0.0, "Sampling temperature of both tiers.", slider=True, ge=0.0, le=2.0)


def as_context(value: object) -> Context:
    """Return the knobs of a run from what the runtime carries.

    A graph that is embedded in another application sees that application's context. If it is no `Context`, nor a mapping
    of its fields, it is not meant for this graph, and the defaults hold.

    Raises:
        pydantic.ValidationError: A mapping of its fields with a value out of range.
    """
    if isinstance(value, Context):
        return value
    if isinstance(value, Mapping) and value and set(value) <= set(Context.model_fields):
        return Context.model_validate(dict(value))
    return Context()


DEFAULTS: Final = Context()
"""The knobs where nobody sets one, for whoever offers some of them elsewhere."""


def knob_choices(name: str) -> tuple[str, ...]:
    """Return the values that the knob `name` may have; empty where it is no choice."""
    annotation = Context.model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def knob_range(name: str) -> tuple[float, float]:
    """Return the lowest and the highest value of the knob `name`; infinite where it has no limit."""
    limits = Context.model_fields[name].metadata
    low = next((limit.ge for limit in limits if hasattr(limit, "ge")), -math.inf)
    high = next((limit.le for limit in limits if hasattr(limit, "le")), math.inf)
    return low, high
