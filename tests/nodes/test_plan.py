"""The plan: sub-questions as the planner listed them, without its inventions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seekers import ScriptedModel, call_record, model, resources, runtime

from agentinfer_lg.context import Context
from agentinfer_lg.nodes.plan import large_planner_steps, parse_questions, plan, planner_tier

QUESTION = "Which lighthouse is older, Heron Point or Gull Rock?"
HERON = "When was Heron Point built?"
GULL = "When was Gull Rock built?"


def _json(*questions: Any) -> str:
    return json.dumps({"questions": list(questions)})


@pytest.mark.parametrize(
    "text",
    [
        _json(HERON, GULL),
        f"Here is the plan:\n```json\n{_json(HERON, GULL)}\n```\nGood luck!",
        _json(f"  {HERON}\n", GULL, HERON),
        _json(HERON, 7, None, {"question": GULL}, GULL),
        _json(HERON, "What is the capital of France?", GULL),
        f"1. {HERON}\n2) {GULL}\nThat is all.",
        f"- {HERON}\n* {GULL}",
    ],
)
def test_sub_questions_are_read(text: str) -> None:
    assert parse_questions(text, question=QUESTION) == [HERON, GULL]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do that.",
        _json(),
        _json(HERON),
        _json("What is the capital of France?", "Who painted the Mona Lisa?"),
        _json(HERON, HERON),
        _json("", " "),
        '{"questions": "When was Heron Point built?"}',
        '{"questions": {"a": 1}}',
        '{"questions": [',
        '["When was Heron Point built?", 3]',
        "{" * 100_000 + "}" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
    ],
)
def test_the_question_is_the_plan(text: str) -> None:
    assert parse_questions(text, question=QUESTION) == [QUESTION]


def test_chinese() -> None:
    question = "苍鹭角灯塔和海鸥岩灯塔哪个更早？"
    parts = ["苍鹭角灯塔是哪一年建成的？", "海鸥岩灯塔是哪一年建成的？"]
    text = json.dumps({"questions": [*parts, "法国的首都是哪里？"]}, ensure_ascii=False)
    assert parse_questions(text, question=question) == parts
    assert parse_questions("1、" + "\n2、".join(parts), question=question) == parts


def test_long_lists_and_long_questions_are_cut() -> None:
    many = [f"Was Heron Point rebuilt in {1800 + n}?" for n in range(20)]
    assert parse_questions(_json(*many), question=QUESTION) == many[:8]
    long = parse_questions(_json("Heron " * 1000, GULL), question=QUESTION)
    assert len(long[0]) <= 500


def test_half_a_character_never_reaches_the_wire() -> None:
    text = '{"questions": ["When was Heron \\ud83d built?", "When was Gull Rock built?"]}'
    "".join(parse_questions(text, question=QUESTION)).encode()


_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=20) | st.sampled_from([HERON, GULL]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("questions"), inner, max_size=1),
    max_leaves=8,
)


@given(st.text() | _values.map(json.dumps), st.integers(0, 200))
def test_never_raises(text: str, end: int) -> None:
    for part in (text, text[:end]):
        parts = parse_questions(part, question=QUESTION)
        assert 1 <= len(parts) <= 8
        assert all(item.strip() for item in parts)
        assert len(set(parts)) == len(parts)


def test_who_plans() -> None:
    assert planner_tier(Context()) == "large"
    assert planner_tier(Context(policy="large-planner-only")) == "large"
    assert planner_tier(Context(policy="always-small")) == "small"
    assert planner_tier(Context(max_large_steps=0)) == "small"


def test_large_planner_steps() -> None:
    calls: Any = [
        {"agent": "planner", "tier": "large"},
        {"agent": "planner", "tier": "small"},
        {"agent": "seeker-1", "tier": "large"},
    ]
    assert large_planner_steps({"calls": calls}) == 1
    assert large_planner_steps({}) == 0


def test_echoes_of_the_question_are_no_parts() -> None:
    question = "When was Heron Point lit, and who kept it?"
    part = "Who kept Heron Point?"
    assert parse_questions(_json(question, "When was Heron Point lit, and", part), question=question) == [
        question
    ]
    other = "When was Heron Point built?"
    assert parse_questions(_json(question.lower(), part, other), question=question) == [part, other]


# The node


async def _plan(*texts: str, state: Any = None, **knobs: Any) -> tuple[dict[str, Any], ScriptedModel]:
    large = model(*texts)
    blank = {"question": QUESTION, "language": "en", "run_id": "run"}
    update = await plan({**blank, **(state or {})}, runtime(**knobs), resources=resources(large=large))
    return update, large


async def test_the_last_step_splits_the_question() -> None:
    update, large = await _plan(_json(HERON, GULL), max_seekers=2, warmup_steps=1)
    assert update["plan"] == [{"id": "seeker-1", "question": HERON}, {"id": "seeker-2", "question": GULL}]
    assert update["plan_step"] == 1
    assert [(call["agent"], call["role"], call["tier"]) for call in update["calls"]] == [
        ("planner", "plan", "large")
    ]
    assert "List at most 2 simpler questions" in large.asked[0]


async def test_steps_before_it_leave_notes() -> None:
    update, large = await _plan("Two dates are asked for.", max_seekers=2, warmup_steps=3)
    assert update["plan_notes"] == ["Two dates are asked for."]
    assert "plan" not in update
    assert "what exactly is asked for" in large.asked[0]
    update, large = await _plan("Look at both.", state={"plan_step": 1}, max_seekers=2, warmup_steps=3)
    assert "where and in which order" in large.asked[0]


async def test_one_seeker_gets_the_facts_to_look_up_as_notes() -> None:
    update, _ = await _plan(_json(HERON, GULL), max_seekers=1, warmup_steps=1)
    assert update["plan"] == [{"id": "seeker-1", "question": QUESTION}]
    assert update["plan_notes"] == [HERON, GULL]


async def test_no_more_parts_than_seekers() -> None:
    update, _ = await _plan(_json(HERON, GULL, "Where is Gull Rock?"), max_seekers=2, warmup_steps=1)
    assert len(update["plan"]) == 2


async def test_the_small_model_steps_in() -> None:
    shared = resources(small=model(_json(HERON, GULL)))
    state: Any = {"question": QUESTION, "language": "en", "run_id": "run"}
    update = await plan(state, runtime(max_seekers=2, warmup_steps=1), resources=shared)
    assert len(update["plan"]) == 2
    assert "small model goes on" in update["ran_out"][0]


async def test_no_time_is_left_to_plan() -> None:
    spent = {"calls": [call_record(agent="planner", seconds=700.0)], "plan_step": 1}
    update, large = await _plan("never said", state=spent, max_seconds=600, warmup_steps=3)
    assert update["plan"] == [{"id": "seeker-1", "question": QUESTION}]
    assert "(max_seconds)" in update["ran_out"][0]
    assert large.asked == []
