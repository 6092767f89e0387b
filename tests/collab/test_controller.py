from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentinfer_lg.collab.controller import (
    CollabKnobs,
    CollabSettings,
    CollabState,
    Transition,
    Verdict,
    advance,
    needs_check,
    start,
)
from agentinfer_lg.context import CollabPolicy, Context
from agentinfer_lg.errors import CheckpointError, ConfigurationError

Step = dict[str, Any]

VERDICTS = st.sampled_from(get_args(Verdict))
STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "verdict": VERDICTS,
            "objection": st.sampled_from(["", "", "", "repeat: search made 3 times"]),
            "tool_error": st.booleans(),
        }
    ),
    max_size=120,
)
SETTINGS = st.builds(
    CollabSettings,
    policy=st.sampled_from(get_args(CollabPolicy)),
    budget=st.sampled_from(["static", "cumulative"]),
    warmup_steps=st.integers(0, 4),
    static_budget=st.integers(1, 6),
    initial_budget=st.integers(1, 6),
    budget_slope=st.integers(0, 4),
    budget_ceiling=st.integers(1, 10),
    cooldown=st.integers(0, 4),
    max_large_steps=st.integers(0, 40),
    random_p=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
COLLAB = SETTINGS.map(lambda settings: replace(settings, policy="agentcollab"))


def play(settings: CollabSettings, steps: list[Step]) -> tuple[list[str], list[Transition]]:
    """Tiers that made the steps, and the transitions after them."""
    state, tiers, transitions = start(settings), [], []
    for step in steps:
        tiers.append(state.tier)
        transitions.append(advance(state, settings, **step))
        state = transitions[-1].state
    return tiers, transitions


def says(text: str) -> list[Step]:
    """`"T F U S"` as verdicts."""
    names = {"T": "TRUE", "F": "FALSE", "U": "UNREADABLE", "S": "SKIPPED"}
    return [{"verdict": names[letter]} for letter in text.split()]


def letters(tiers: list[str]) -> str:
    return "".join(tier[0].upper() for tier in tiers)


def algorithm_1(verdicts: list[bool], warmup: int, limit: int) -> list[str]:
    """The paper's loop, written down naively: tier of each step."""
    tiers = []
    stream = iter(verdicts)
    try:
        for _ in range(warmup):
            next(stream)
            tiers.append("large")
        mode = "small"
        while True:
            if mode == "small":
                progress = next(stream)
                tiers.append("small")
                if not progress:
                    mode, large_steps = "large", 0
            else:
                progress = next(stream)
                tiers.append("large")
                large_steps += 1
                if progress or large_steps >= limit:
                    mode = "small"
    except StopIteration:
        return tiers


@given(verdicts=st.lists(st.booleans(), max_size=80), warmup=st.integers(0, 5), limit=st.integers(1, 6))
def test_reproduces_algorithm_1_step_by_step(verdicts: list[bool], warmup: int, limit: int) -> None:
    settings = CollabSettings(
        budget="static", warmup_steps=warmup, static_budget=limit, cooldown=0, max_large_steps=1000
    )
    steps = [{"verdict": "TRUE" if verdict else "FALSE"} for verdict in verdicts]
    assert play(settings, steps)[0] == algorithm_1(verdicts, warmup, limit)


def test_a_trace_of_algorithm_1() -> None:
    settings = CollabSettings(budget="static", warmup_steps=2, static_budget=2, cooldown=0)
    tiers, transitions = play(settings, says("F T T F F T T F F F T"))
    assert letters(tiers) == "LLSSLLSSLLS"
    assert [transition.event for transition in transitions] == [
        "stay",
        "warmup_done",
        "stay",
        "escalate",
        "stay",
        "deescalate",
        "stay",
        "escalate",
        "stay",
        "guardrail",
        "stay",
    ]
    assert all(transition.cause for transition in transitions)


def test_cumulative_budgets_of_failing_rescues_are_2_4_6_6() -> None:
    settings = CollabSettings(warmup_steps=0, cooldown=0, max_large_steps=1000)
    tiers, _ = play(settings, says("F " * 30))
    assert [len(run) for run in letters(tiers).strip("S").split("S")][:4] == [2, 4, 6, 6]


def test_a_successful_rescue_resets_the_budget() -> None:
    settings = CollabSettings(warmup_steps=0, cooldown=0)
    _, transitions = play(settings, says("F F F F T F"))
    budgets = [t.state.rescue_budget for t in transitions if t.event == "escalate"]
    assert budgets == [2, 4, 2]


def test_success_of_the_small_model_alone_does_not_reset_the_budget() -> None:
    settings = CollabSettings(warmup_steps=0, cooldown=0)
    _, transitions = play(settings, says("F F F T T F"))
    assert transitions[-1].state.rescue_budget == 4


def test_the_first_budget_respects_the_ceiling() -> None:
    settings = CollabSettings(warmup_steps=0, initial_budget=9, budget_ceiling=3)
    assert play(settings, says("F"))[1][-1].state.rescue_budget == 3


def test_an_early_final_answer_ends_the_warm_up() -> None:
    settings = CollabSettings(warmup_steps=3)
    transition = advance(start(settings), settings, verdict="SKIPPED", final=True)
    assert transition.event == "finish"
    assert transition.state.total_large == 1
    assert transition.state.phase == "work"


def test_a_final_answer_is_not_judged() -> None:
    settings = CollabSettings(warmup_steps=0)
    assert advance(start(settings), settings, verdict="FALSE", objection="x", final=True).event == "finish"


def test_the_verifier_overrules_the_model() -> None:
    settings = CollabSettings(warmup_steps=0)
    transition = advance(start(settings), settings, verdict="TRUE", objection="no new evidence for 2 rounds")
    assert transition.event == "escalate"
    assert "no new evidence" in transition.cause
    objected = advance(transition.state, settings, verdict="TRUE", objection="no new evidence for 3 rounds")
    assert objected.event == "stay"
    assert objected.state.tier == "large"


def test_unreadable_keeps_the_small_model_and_spends_the_rescue_budget() -> None:
    settings = CollabSettings(warmup_steps=0, cooldown=0)
    tiers, transitions = play(settings, says("U U F U U T"))
    assert letters(tiers) == "SSSLLS"
    assert transitions[4].event == "guardrail"
    assert transitions[4].state.failed_rescues == 1


def test_unreadable_with_an_objection_escalates() -> None:
    settings = CollabSettings(warmup_steps=0)
    assert advance(start(settings), settings, verdict="UNREADABLE", objection="repeat").event == "escalate"


def test_skipped_ends_a_rescue_like_true() -> None:
    settings = CollabSettings(warmup_steps=0)
    assert letters(play(settings, says("F S T"))[0]) == "SLS"


@pytest.mark.parametrize(("cooldown", "expected"), [(0, "SLSLS"), (1, "SLSSL"), (2, "SLSSS")])
def test_cooldown(cooldown: int, expected: str) -> None:
    settings = CollabSettings(warmup_steps=0, budget="static", static_budget=1, cooldown=cooldown)
    assert letters(play(settings, says("F F F F F"))[0]) == expected


def test_the_cap_ends_warm_up_and_rescue() -> None:
    assert letters(play(CollabSettings(warmup_steps=3, max_large_steps=2), says("T " * 5))[0]) == "LLSSS"
    settings = CollabSettings(warmup_steps=0, max_large_steps=1)
    tiers, transitions = play(settings, says("F F F F F"))
    assert letters(tiers) == "SLSSS"
    assert transitions[1].event == "guardrail"
    assert "cap" in transitions[-1].cause


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("always-small", "SSSSSS"), ("always-large", "LLLLSS"), ("large-planner-only", "LLSSSS")],
)
def test_fixed_policies_ignore_verdicts(policy: CollabPolicy, expected: str) -> None:
    settings = CollabSettings(policy=policy, warmup_steps=2, max_large_steps=4)
    for text in ("F " * 6, "T " * 6):
        assert letters(play(settings, says(text))[0]) == expected


def test_escalate_on_tool_error_makes_one_large_step_per_failure() -> None:
    settings = CollabSettings(policy="escalate-on-tool-error")
    failed = [False, True, False, False, True, True, False, False]
    steps = [{"verdict": "SKIPPED", "tool_error": error} for error in failed]
    tiers, transitions = play(settings, steps)
    assert letters(tiers) == "SSLSSLLS"
    assert [t.event for t in transitions[1:3]] == ["escalate", "deescalate"]
    assert transitions[-1].state.escalations == 2


def test_random_is_a_function_of_seed_agent_and_step() -> None:
    steps = says("S " * 1000)
    settings = CollabSettings(policy="random", random_p=0.3, seed=7, max_large_steps=1000)
    tiers = play(settings, steps)[0]
    assert tiers == play(settings, steps)[0]
    assert tiers != play(replace(settings, seed=8), steps)[0]
    assert tiers != play(replace(settings, agent="seeker-2"), steps)[0]
    assert 240 < tiers.count("large") < 360
    assert "large" not in play(replace(settings, random_p=0.0), steps)[0]
    assert "small" not in play(replace(settings, random_p=1.0), steps)[0]


@given(settings=SETTINGS, steps=STEPS)
def test_no_budget_is_exceeded(settings: CollabSettings, steps: list[Step]) -> None:
    tiers, transitions = play(settings, steps)
    assert tiers.count("large") <= settings.max_large_steps
    for number, transition in enumerate(transitions, start=1):
        state = transition.state
        assert state.step == number
        assert state.total_large == tiers[:number].count("large")
        assert not (state.tier == "large" and state.total_large >= settings.max_large_steps)
        assert transition.event != "finish"


@given(settings=COLLAB, steps=STEPS)
def test_rescues_are_bounded_and_spaced(settings: CollabSettings, steps: list[Step]) -> None:
    tiers, transitions = play(settings, steps)
    most = settings.static_budget if settings.budget == "static" else settings.budget_ceiling
    rescue = quiet = escalations = 0
    budget = rescued = None
    for index, (tier, transition) in enumerate(zip(tiers, transitions, strict=True)):
        if index >= settings.warmup_steps and tier == "large":
            rescue += 1
            assert budget is not None
            assert rescue <= budget <= most
        elif tier == "small":
            quiet += 1
        if transition.event in ("deescalate", "guardrail"):
            rescue, quiet, rescued = 0, 0, index >= settings.warmup_steps
        if transition.event == "escalate":
            assert not rescued or quiet > settings.cooldown
            budget, escalations = transition.state.rescue_budget, escalations + 1
        assert transition.state.escalations == escalations
    over = max(0, len(steps) - settings.warmup_steps)
    bound = min(len(steps), settings.warmup_steps) + most * math.ceil(over / (most + settings.cooldown + 1))
    assert tiers.count("large") <= bound


@given(settings=COLLAB, verdicts=st.lists(VERDICTS, max_size=60))
def test_a_rescue_starts_only_after_false(settings: CollabSettings, verdicts: list[Verdict]) -> None:
    _, transitions = play(settings, [{"verdict": verdict} for verdict in verdicts])
    for verdict, transition in zip(verdicts, transitions, strict=True):
        if transition.event == "escalate":
            assert verdict == "FALSE"
        if transition.event == "deescalate":
            assert verdict in ("TRUE", "SKIPPED")


@given(settings=SETTINGS, steps=STEPS, cut=st.integers(0, 120), final=st.booleans())
def test_a_saved_state_goes_on_as_if_it_had_not_been_saved(
    settings: CollabSettings, steps: list[Step], cut: int, final: bool
) -> None:
    state = start(settings)
    for step in steps[:cut]:
        state = advance(state, settings, **step).state
    restored = CollabState.from_json(json.loads(json.dumps(state.to_json())))
    assert restored == state
    for step in steps[cut:]:
        ahead, behind = (advance(each, settings, **step, final=final) for each in (state, restored))
        assert ahead == behind
        state, restored = ahead.state, behind.state


@given(settings=SETTINGS, steps=STEPS, finals=st.lists(st.booleans(), min_size=120, max_size=120))
def test_going_on_after_a_final_answer_stays_inside_the_cap(
    settings: CollabSettings, steps: list[Step], finals: list[bool]
) -> None:
    tiers, transitions = play(
        settings, [{**step, "final": final} for step, final in zip(steps, finals, strict=False)]
    )
    assert tiers.count("large") <= settings.max_large_steps
    assert all((t.event == "finish") == final for t, final in zip(transitions, finals, strict=False))


@pytest.mark.parametrize(
    "broken",
    [{}, {"tier": "huge"}, {"step": -1}, {"step": True}, {"step": "3"}, {"phase": None}, {"phase": ["work"]}],
)
def test_a_broken_saved_state_is_refused(broken: dict[str, object]) -> None:
    good = start(CollabSettings()).to_json()
    data = {**good, **broken} if broken else {}
    with pytest.raises(CheckpointError, match="unusable"):
        CollabState.from_json(data)


def test_unknown_keys_of_a_saved_state_are_ignored() -> None:
    state = start(CollabSettings())
    assert CollabState.from_json({**state.to_json(), "later": 1}) == state


@pytest.mark.parametrize(
    "wrong",
    [
        {"static_budget": 0},
        {"budget_ceiling": 0},
        {"cooldown": -1},
        {"random_p": 1.5},
        {"random_p": float("nan")},
        {"warmup_steps": -1},
        {"policy": "always"},
        {"budget": "dynamic"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CollabSettings(**wrong)


def test_the_end_of_a_slider_is_no_limit_of_the_controller() -> None:
    assert CollabSettings(static_budget=50, warmup_steps=9).static_budget == 50
    with pytest.raises(ValidationError):
        Context(static_budget=50)


def test_settings_come_from_the_context() -> None:
    context = Context(policy="random", budget="static", static_budget=5, cooldown=3, random_p=0.7, seed=4)
    settings = CollabSettings.from_context(context, warmup_steps=2, max_large_steps=9, agent="planner")
    assert settings == CollabSettings(
        policy="random",
        budget="static",
        static_budget=5,
        cooldown=3,
        random_p=0.7,
        seed=4,
        warmup_steps=2,
        max_large_steps=9,
        agent="planner",
    )


def test_only_the_self_checking_policy_needs_checks() -> None:
    wants = {policy: needs_check(CollabSettings(policy=policy)) for policy in get_args(CollabPolicy)}
    assert [policy for policy, wanted in wants.items() if wanted] == ["agentcollab"]
    assert not needs_check(CollabSettings(max_large_steps=0))


def test_a_knob_is_the_same_here_as_in_the_context_and_as_a_keyword() -> None:
    """Three declarations that the type checker needs; a new knob that one of them lacks fails here."""
    hints, keywords = get_type_hints(CollabSettings), get_type_hints(CollabKnobs)
    assert keywords == {name: kind for name, kind in hints.items() if name != "agent"}
    for name, kind in keywords.items():
        assert Context.model_fields[name].annotation == kind
        assert getattr(CollabSettings(), name) == getattr(Context(), name)


@given(values=st.dictionaries(st.sampled_from(sorted(get_type_hints(CollabKnobs))), st.integers(-3, 30)))
def test_what_the_context_accepts_the_controller_accepts(values: dict[str, Any]) -> None:
    try:
        context = Context(**values)
    except ValidationError:
        return
    settings = CollabSettings.from_context(context, warmup_steps=0, max_large_steps=context.max_large_steps)
    assert settings.static_budget == context.static_budget
