from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cpu_time import takes_less

from agentinfer_lg.collab.verifier import (
    MAX_ACTIONS,
    MAX_SEEN,
    RoundEvidence,
    VerifierState,
    normalise_action,
    observe,
)
from agentinfer_lg.errors import CheckpointError

PARIS = "Paris is the capital of France. It has about two million inhabitants in the city proper."
ROME = "Rome is the capital of Italy. Its oldest quarters lie on seven hills near the river Tiber."
THOUGHT = "I should look for the population of the city in the almanac of last year"


def watch(*rounds: RoundEvidence, repeat_limit: int = 2, stall_limit: int = 2) -> list[str]:
    state, objections = VerifierState(), []
    for each in rounds:
        state, objection = observe(state, each, repeat_limit=repeat_limit, stall_limit=stall_limit)
        objections.append(objection)
    return objections


def saw(*texts: str, action: str = "", thought: str = "", errors: int = 0) -> RoundEvidence:
    return RoundEvidence((action,) if action else (), texts, thought, errors)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"query": "Who directed Jaws?"}, {"query": "  who   directed JAWS "}),
        ({"query": "Jaws director film"}, {"query": "director, film: Jaws"}),
        ({"query": "Ｊａｗｓ　１９７５"}, {"query": "jaws 1975"}),
        ({"queries": ["a b", "c"]}, {"queries": ["C", "b a"]}),
        ({"query": "x", "k": None}, {"query": "x"}),
        ({"q": "x", "k": 5}, {"k": 5, "q": "x"}),
        ({"url": "https://www.Example.org/a/"}, {"url": "http://example.org/a#part"}),
        ({"url": "https://example.org/a?utm_source=x&b=1&a=2"}, {"url": "https://example.org/a?a=2&b=1"}),
    ],
)
def test_calls_that_ask_the_same_have_one_key(first: dict[str, object], second: dict[str, object]) -> None:
    assert normalise_action("search", first) == normalise_action("Search ", second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"query": "jaws 1975"}, {"query": "jaws 1978"}),
        ({"query": "C++"}, {"query": "C"}),
        ({"query": "x", "page": 1}, {"query": "x", "page": 2}),
        ({"query": "3.5"}, {"query": "5.3"}),
        ({"query": "黑客帝国 导演"}, {"query": "黑客帝国 主演"}),
        ({"url": "https://example.org/a"}, {"url": "https://example.org/b"}),
        ({"query": "?"}, {"query": "!"}),
        ({"query": "word " * 300 + "one"}, {"query": "word " * 300 + "two"}),
    ],
)
def test_calls_that_ask_for_different_things_differ(
    first: dict[str, object], second: dict[str, object]
) -> None:
    assert normalise_action("search", first) != normalise_action("search", second)


def test_the_tool_is_part_of_the_key() -> None:
    assert normalise_action("search", {"q": "x"}) != normalise_action("crawl", {"q": "x"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), JSON, max_size=4))
def test_any_arguments_have_a_short_stable_key(tool: str, arguments: dict[str, object]) -> None:
    key = normalise_action(tool, arguments)
    assert len(key) <= 210
    assert key == normalise_action(tool, dict(reversed(arguments.items())))


@given(st.permutations(["when", "was", "the", "bridge", "built", "1932"]))
def test_word_order_makes_no_difference(words: list[str]) -> None:
    assert normalise_action("s", {"q": " ".join(words)}) == normalise_action(
        "s", {"q": "when was the bridge built 1932"}
    )


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_an_action_made_more_often_than_the_limit_is_a_repeat(limit: int) -> None:
    rounds = [saw(f"{PARIS} Number {n} of many different and new pages.", action="s(q=a)") for n in range(6)]
    objections = watch(*rounds, repeat_limit=limit, stall_limit=99)
    assert [bool(objection) for objection in objections] == [n >= limit for n in range(6)]
    assert objections[limit] == f"repeat: s(q=a) made {limit + 1} times"


def test_a_repeat_is_only_held_against_the_round_that_makes_it() -> None:
    again, other = saw(PARIS, action="s(q=a)"), saw(ROME, action="s(q=b)")
    assert watch(again, again, again, other, stall_limit=99)[2:] == ["repeat: s(q=a) made 3 times", ""]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_rounds_without_new_evidence_are_no_progress(limit: int) -> None:
    objections = watch(saw(PARIS), saw(PARIS), saw(), saw("", errors=1), saw(ROME), stall_limit=limit)
    stalled = [0, 1, 2, 3, 0]
    assert [bool(objection) for objection in objections] == [rounds >= limit for rounds in stalled]
    assert "no new evidence for 3 rounds, 1 failed tool calls" in objections[3]


def test_a_page_with_a_few_new_words_is_not_new_evidence() -> None:
    page = " ".join(f"Sentence number {n} tells of the town and its {n} bridges." for n in range(20))
    assert watch(saw(page), saw(f"Visitor 7,231 today is welcome. {page}"), stall_limit=1)[1]


def test_half_old_results_with_a_new_page_are_new_evidence() -> None:
    assert watch(saw(PARIS), saw(PARIS, ROME), stall_limit=1) == ["", ""]


def test_short_and_chinese_results_are_evidence() -> None:
    assert watch(saw("42"), saw("43"), saw("42"), stall_limit=1) == ["", "", "no new evidence for 1 round"]
    chinese = watch(
        saw("巴黎是法国的首都。人口约二百万。"), saw("巴黎是法国的首都，人口约二百万！"), stall_limit=1
    )
    assert [bool(objection) for objection in chinese] == [False, True]


def test_a_thought_repeated_nearly_verbatim() -> None:
    long = f"{THOUGHT}, because the table there is complete and the web page I read gave only an old number"
    objections = watch(
        saw(PARIS, thought=long),
        saw(ROME, thought="Now something else: the river and its seven old bridges"),
        saw("A wholly different page about bridges.", thought=f"{long}!"),
    )
    assert objections[:2] == ["", ""]
    assert "repeated thought" in objections[2]


def test_a_thought_about_another_thing_or_of_a_few_words_is_no_repeat() -> None:
    assert watch(
        saw(PARIS, thought="I need to search for the director of the film Jaws"),
        saw(ROME, thought="I need to search for the release year of Alien"),
        saw("A wholly different page about bridges.", thought="search again"),
        saw("One more page, on tunnels this time.", thought="search again"),
    ) == ["", "", "", ""]


def test_all_causes_are_named() -> None:
    again = saw(PARIS, action="s(q=a)", thought=THOUGHT)
    objection = watch(again, again, again)[2]
    assert [part.split(":")[0] for part in objection.split("; ")] == [
        "repeat",
        "no new evidence for 2 rounds",
        "repeated thought",
    ]


ROUNDS = st.lists(
    st.builds(
        RoundEvidence,
        st.lists(st.sampled_from("abcd"), max_size=3).map(tuple),
        st.lists(st.one_of(st.text(), st.sampled_from([PARIS, ROME])), max_size=3).map(tuple),
        st.one_of(st.text(), st.just(THOUGHT)),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(ROUNDS, st.integers(1, 4), st.integers(1, 4))
def test_the_objection_follows_from_counting(rounds: list[RoundEvidence], repeat: int, limit: int) -> None:
    state, made = VerifierState(), []
    for each in rounds:
        saved = VerifierState.from_json(json.loads(json.dumps(state.to_json())))
        assert saved == state
        before = state.stalled_rounds
        state, objection = observe(state, each, repeat_limit=repeat, stall_limit=limit)
        assert (state, objection) == observe(saved, each, repeat_limit=repeat, stall_limit=limit)
        made += each.actions
        assert dict(state.actions) == {action: made.count(action) for action in dict.fromkeys(made)}
        assert ("repeat:" in objection) == any(made.count(action) > repeat for action in each.actions)
        assert state.stalled_rounds in (0, before + 1)
        assert ("no new evidence" in objection) == (state.stalled_rounds >= limit)


def test_the_memory_is_bounded() -> None:
    texts = tuple(f"Line {n} of a very long list of things." for n in range(MAX_SEEN + 50))
    actions = tuple(f"a{n}" for n in range(MAX_ACTIONS + 50))
    state, _ = observe(
        VerifierState(), RoundEvidence(actions, texts, "word " * 10_000, 0), repeat_limit=1, stall_limit=1
    )
    assert len(state.seen) == MAX_SEEN
    assert len(state.actions) == MAX_ACTIONS
    assert len(json.dumps(state.to_json())) < 100_000


@pytest.mark.parametrize("text", ["\u0301" * 250_000, "a b. " * 50_000, "." * 250_000, "字" * 250_000])
def test_much_evidence_takes_linear_time(text: str) -> None:
    # Quadratic work would take minutes.
    assert takes_less(3.0, lambda: watch(saw(text, thought=text, action=normalise_action("s", {"q": text}))))


@pytest.mark.parametrize(
    "broken",
    [
        {"actions": ["a"]},
        {"actions": {"a": "many"}},
        {"stalled_rounds": -1},
        {"stalled_rounds": None},
        {"seen": "abc"},
        {"seen": [1.5]},
        {"thoughts": [[1], 2]},
        {"thoughts": None},
    ],
)
def test_a_broken_saved_state_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="unusable"):
        VerifierState.from_json({**VerifierState().to_json(), **broken})
