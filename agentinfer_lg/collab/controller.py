"""AgentCollab: which of the two models thinks next.

A pure, total state machine: Algorithm 1 of arXiv 2512.18337 (warm-up on the large model, then the small one,
which calls for a rescue when a Progress Check fails), the growing rescue budget of the follow-up
(arXiv 2603.26034), and fixed policies to compare with. It knows nothing of models, prompts or graphs.

What holds for every stream of verdicts, of any length, under the policy `agentcollab`:

- the large model makes at most `max_large_steps` steps in all, under every policy;
- a rescue lasts at most `state.rescue_budget` steps, which never exceeds B_L or B_max;
- between two rescues there are at least `cooldown + 1` steps of the small model;
- so, with B the largest budget, of T > K_L steps at most `K_L + B * ceil((T - K_L) / (B + cooldown + 1))` are
  large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from typing_extensions import TypedDict

from agentinfer_lg.context import (
    DEFAULTS,
    CollabBudget,
    CollabPolicy,
    Context,
    knob_choices,
    knob_range,
)
from agentinfer_lg.errors import CheckpointError, ConfigurationError
from agentinfer_lg.settings import Tier

Verdict = Literal["TRUE", "FALSE", "UNREADABLE", "SKIPPED"]
"""Outcome of a Progress Check: what the model said, could not be read, or was not asked."""

CollabPhase = Literal["warmup", "work"]
"""Phase 1 (K_L steps of the large model) and Phase 2 of Algorithm 1."""

CollabEvent = Literal["stay", "escalate", "deescalate", "guardrail", "finish", "warmup_done"]
"""What a step led to; `guardrail` is a return to the small model because a budget is spent."""


class CollabKnobs(TypedDict, total=False):
    """The knobs of `CollabSettings` as keyword arguments, for a signature that offers them: `**knobs: Unpack[CollabKnobs]`."""

    policy: CollabPolicy
    budget: CollabBudget
    warmup_steps: int
    static_budget: int
    initial_budget: int
    budget_slope: int
    budget_ceiling: int
    cooldown: int
    max_large_steps: int
    random_p: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollabSettings:
    """Policy and budgets of one controller (the planner and each seeker have their own).

    Defaults, choices and limits are those of the knobs of `Context` with the same names; its descriptions say what each
    knob does.

    Raises:
        ConfigurationError: A number is out of range, or a policy or budget does not exist.
    """

    policy: CollabPolicy = DEFAULTS.policy
    budget: CollabBudget = DEFAULTS.budget
    warmup_steps: int = DEFAULTS.warmup_steps
    """K_L; 0 starts on the small model."""
    static_budget: int = DEFAULTS.static_budget
    """B_L."""
    initial_budget: int = DEFAULTS.initial_budget
    """B0."""
    budget_slope: int = DEFAULTS.budget_slope
    budget_ceiling: int = DEFAULTS.budget_ceiling
    """B_max."""
    cooldown: int = DEFAULTS.cooldown
    """Small steps right after a rescue whose FALSE starts no other one; 0 is Algorithm 1 to the letter."""
    max_large_steps: int = DEFAULTS.max_large_steps
    """Large steps of this controller in all, warm-up included."""
    random_p: float = DEFAULTS.random_p
    seed: int = DEFAULTS.seed
    agent: str = ""
    """Mixed into the draws of the policy `random`, so that parallel agents do not draw alike."""

    def __post_init__(self) -> None:
        for name in _KNOBS:
            _check(name, getattr(self, name))

    @classmethod
    def from_context(
        cls, ctx: Context, *, warmup_steps: int, max_large_steps: int, agent: str = ""
    ) -> CollabSettings:
        """Take the knobs of a run.

        Args:
            ctx: Knobs of the run.
            warmup_steps: K_L of this controller; the planner's and the seekers' differ.
            max_large_steps: Share of the run's large steps that this controller may use.
            agent: Name of the agent; only the policy `random` looks at it.
        """
        own = {"warmup_steps": warmup_steps, "max_large_steps": max_large_steps}
        return cls(**{**{name: getattr(ctx, name) for name in _KNOBS}, **own}, agent=agent)


_KNOBS = tuple(CollabKnobs.__annotations__)
_SAME_RANGE = {"warmup_steps": "seeker_warmup_steps"}
"""K_L of any controller may be 0, as that of a seeker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollabState:
    """Where the controller stands before the next Think step."""

    phase: CollabPhase
    tier: Tier
    """Model of the next Think step."""
    step: int = 0
    """Think steps made."""
    warmup_left: int = 0
    rescue_steps: int = 0
    """Large steps made in the running rescue (`large_steps` of Algorithm 1)."""
    rescue_budget: int = 0
    """Large steps that the running rescue may make; 0 outside a rescue."""
    failed_rescues: int = 0
    """Rescues in a row that ended without progress."""
    total_large: int = 0
    cooldown_left: int = 0
    escalations: int = 0

    def to_json(self) -> dict[str, int | str]:
        """Return the state as a flat JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> CollabState:
        """Read what `to_json` wrote; keys that are not known are ignored.

        Raises:
            CheckpointError: A field is missing or malformed.
        """
        values: dict[str, object] = {}
        for field in fields(cls):
            value = data.get(field.name)
            allowed = _CHOICES.get(field.name)
            good = value in allowed if allowed else type(value) is int and value >= 0
            if not good:
                msg = f"Saved controller state is unusable: {field.name} is {value!r}. Start the run anew."
                raise CheckpointError(msg)
            values[field.name] = value
        return cls(**values)  # type: ignore[arg-type]  # checked field by field above


@dataclass(frozen=True, slots=True)
class Transition:
    """Result of one step."""

    state: CollabState
    event: CollabEvent
    cause: str
    """One short clause for people."""


_CHOICES: dict[str, tuple[str, ...]] = {"phase": get_args(CollabPhase), "tier": get_args(Tier)}
_CAP = "the large-step cap is reached"


def needs_check(settings: CollabSettings) -> bool:
    """Whether Progress Checks can change anything under these settings."""
    return settings.policy == "agentcollab" and settings.max_large_steps > 0


def start(settings: CollabSettings) -> CollabState:
    """Return the state before the first Think step."""
    if settings.policy in ("agentcollab", "large-planner-only"):
        if settings.warmup_steps > 0 and settings.max_large_steps > 0:
            return CollabState(phase="warmup", tier="large", warmup_left=settings.warmup_steps)
        return CollabState(phase="work", tier="small")
    blank = CollabState(phase="work", tier="small")
    return replace(blank, tier=_fixed_tier(blank, settings, tool_error=False))


def advance(
    state: CollabState,
    settings: CollabSettings,
    *,
    verdict: Verdict,
    objection: str = "",
    tool_error: bool = False,
    final: bool = False,
) -> Transition:
    """Account for one Think step and its Progress Check, and choose the next tier. Pure and total.

    Args:
        state: State before the step; `state.tier` made it.
        settings: Policy and budgets; the same throughout a run.
        verdict: Outcome of the check. `SKIPPED` counts as TRUE. `UNREADABLE` counts as TRUE on the small
            tier: it says nothing about progress, and a model that cannot write the block would always
            escalate. On the large tier it counts as FALSE: such a model leaves once its budget is spent.
        objection: What the verifier objects to; if not empty, the verdict is FALSE whatever the model said.
        tool_error: Whether a tool of the step failed; only the policy `escalate-on-tool-error` looks at it.
        final: Whether the step gave a final answer; the controller accepts it without judging it.
    """
    large = state.tier == "large"
    state = replace(state, step=state.step + 1, total_large=state.total_large + large)
    if final:
        return Transition(_finished(state, settings), "finish", "a final answer was given")
    if state.phase == "warmup":
        return _warm_up(state, settings)
    if settings.policy not in ("agentcollab", "large-planner-only"):
        return _follow_policy(state, settings, tool_error=tool_error)
    if settings.policy == "large-planner-only":
        return Transition(state, "stay", "policy large-planner-only")
    if large:
        return _large_step(state, settings, verdict, objection)
    return _small_step(state, settings, verdict, objection)


def _warm_up(state: CollabState, settings: CollabSettings) -> Transition:
    state = replace(state, warmup_left=state.warmup_left - 1)
    if state.warmup_left <= 0:
        return Transition(
            _to_small(state), "warmup_done", f"warm-up of {settings.warmup_steps} steps is over"
        )
    if state.total_large >= settings.max_large_steps:
        return Transition(_to_small(state), "guardrail", _CAP)
    return Transition(state, "stay", f"{state.warmup_left} warm-up steps left")


def _small_step(state: CollabState, settings: CollabSettings, verdict: Verdict, objection: str) -> Transition:
    resting = state.cooldown_left > 0
    state = replace(state, cooldown_left=max(0, state.cooldown_left - 1))
    if verdict != "FALSE" and not objection:
        return Transition(state, "stay", _reading(verdict, objection))
    if resting:
        return Transition(
            state, "stay", f"{_reading(verdict, objection)}, but the last rescue has only just ended"
        )
    if state.total_large >= settings.max_large_steps:
        return Transition(state, "stay", f"{_reading(verdict, objection)}, but {_CAP}")
    state = replace(
        state,
        tier="large",
        rescue_steps=0,
        rescue_budget=_rescue_budget(state.failed_rescues, settings),
        escalations=state.escalations + 1,
    )
    return Transition(state, "escalate", _reading(verdict, objection))


def _large_step(state: CollabState, settings: CollabSettings, verdict: Verdict, objection: str) -> Transition:
    state = replace(state, rescue_steps=state.rescue_steps + 1)
    reading = _reading(verdict, objection)
    if verdict in ("TRUE", "SKIPPED") and not objection:
        state = replace(_to_small(state), failed_rescues=0, cooldown_left=settings.cooldown)
        return Transition(state, "deescalate", reading)
    spent = state.rescue_steps >= state.rescue_budget
    if not spent and state.total_large < settings.max_large_steps:
        return Transition(state, "stay", reading)
    why = f"the rescue budget of {state.rescue_budget} steps is spent" if spent else _CAP
    state = replace(
        _to_small(state), failed_rescues=state.failed_rescues + 1, cooldown_left=settings.cooldown
    )
    return Transition(state, "guardrail", f"{reading}, and {why}")


def _follow_policy(state: CollabState, settings: CollabSettings, *, tool_error: bool) -> Transition:
    before, after = state.tier, _fixed_tier(state, settings, tool_error=tool_error)
    cause = "a tool failed" if tool_error and after == "large" else f"policy {settings.policy}"
    state = replace(
        state, tier=after, escalations=state.escalations + (before == "small" and after == "large")
    )
    if before == after:
        return Transition(state, "stay", cause)
    if after == "large":
        return Transition(state, "escalate", cause)
    if state.total_large >= settings.max_large_steps:
        return Transition(state, "guardrail", _CAP)
    return Transition(state, "deescalate", cause)


def _fixed_tier(state: CollabState, settings: CollabSettings, *, tool_error: bool) -> Tier:
    """Tier of the next step under a policy without Progress Checks."""
    if state.total_large >= settings.max_large_steps:
        return "small"
    match settings.policy:
        case "always-large":
            return "large"
        case "random":
            return "large" if _draw(settings, state.step) < settings.random_p else "small"
        case "escalate-on-tool-error":
            return "large" if tool_error else "small"
        case _:
            return "small"


def _finished(state: CollabState, settings: CollabSettings) -> CollabState:
    """State after a final answer: a caller that goes on regardless starts where no budget can be overrun."""
    return replace(_to_small(state), failed_rescues=0, tier=_fixed_tier(state, settings, tool_error=False))


def _to_small(state: CollabState) -> CollabState:
    return replace(state, phase="work", tier="small", warmup_left=0, rescue_steps=0, rescue_budget=0)


def _rescue_budget(failed: int, settings: CollabSettings) -> int:
    if settings.budget == "static":
        return settings.static_budget
    return min(settings.initial_budget + settings.budget_slope * failed, settings.budget_ceiling)


def _reading(verdict: Verdict, objection: str) -> str:
    if objection:
        return f"verifier: {objection}"
    return "no Progress Check" if verdict == "SKIPPED" else f"Progress Check {verdict}"


def _draw(settings: CollabSettings, step: int) -> float:
    """Uniform number in [0, 1), a function of seed, agent and step alone: a resumed run draws the same."""
    digest = hashlib.blake2b(f"{settings.seed}:{settings.agent}:{step}".encode(), digest_size=7).digest()
    return (int.from_bytes(digest, "big") >> 3) / 2.0**53


def _check(name: str, value: Any) -> None:  # Any: the value of any knob
    """Refuse what the knob `name` of `Context` refuses; how far its slider goes is no limit of the algorithm."""
    knob = _SAME_RANGE.get(name, name)
    choices = knob_choices(knob)
    if choices:
        _require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return
    low, high = knob_range(knob)
    if isinstance(getattr(DEFAULTS, knob), float):
        _require(low <= value <= high, f"{name} must be between {low:g} and {high:g}, got {value}")
    else:
        _require(value >= low, f"{name} must be at least {low:g}, got {value}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)
