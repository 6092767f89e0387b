"""The distillate: what is kept, what is taken out, and that it stays small however often it is joined."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cpu_time import takes_less

from agentinfer_lg.compression.distillate import (
    Distillate,
    Fact,
    distillate_regex,
    extracted,
    read_notes,
    verified,
    with_details,
)
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import PROMPTS, Prompts

_EN = PROMPTS["en"]
_facts = st.lists(st.builds(Fact, st.integers(0, 99), st.text(max_size=60)), max_size=6).map(tuple)
_strings = st.lists(st.text(max_size=40), max_size=4).map(tuple)
_distillates = st.builds(
    Distillate,
    facts=_facts,
    details=_facts,
    leads=_strings,
    dead_ends=_strings,
    numbers=st.lists(st.integers(0, 99), max_size=6).map(tuple),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@settings(deadline=None)
@given(_distillates)
def test_round_trip_over_json(notes: Distillate) -> None:
    assert Distillate.from_json(json.loads(json.dumps(notes.to_json()))) == notes


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["facts", "details", "leads", "dead_ends", "numbers"]), _json),
)
def test_what_is_corrupt_is_left_out(data: dict[str, object]) -> None:
    notes = Distillate.from_json(data)
    assert Distillate.from_json(notes.to_json()) == notes
    assert notes.text(_EN, recall=True)


def test_corrupt_parts_do_not_take_good_ones_along() -> None:
    data = {
        "facts": [[1, "good"], [True, "x"], ["2", "x"], [3], 4, [5, None]],
        "numbers": [1, True, "2", 3.0],
    }
    assert Distillate.from_json(data) == Distillate(facts=(Fact(1, "good"),), numbers=(1,))


@settings(deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["[1]", "open:", "dead end: ", "\n", "\r", "\x85", "x", "- "])).map("".join)
)
def test_any_text_is_read(text: str) -> None:
    notes = read_notes(text, [1, 2])
    assert all(fact.number in (1, 2) and fact.text for fact in notes.facts)
    for said in [*(fact.text for fact in notes.facts), *notes.leads, *notes.dead_ends]:
        assert len(said) <= 300
        assert said.splitlines() == [said]
        said.encode()


@settings(deadline=None)
@given(st.data(), st.sets(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 5))
def test_the_form_is_read(data: st.DataObject, numbers: set[int], lines: int) -> None:
    pattern = distillate_regex(sorted(numbers), lines=lines)
    words = st.lists(st.text("abc12.", min_size=2, max_size=6), min_size=1, max_size=20).map(" ".join)
    facts = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(numbers)), words), min_size=1, max_size=lines)
    )
    leads, ends = data.draw(st.lists(words, max_size=2)), data.draw(st.lists(words, max_size=2))
    text = "".join(f"[{number}] {said}\n" for number, said in facts)
    text += "".join(f"open: {said}\n" for said in leads) + "".join(f"dead end: {said}\n" for said in ends)
    assert re.fullmatch(pattern, text)
    notes = read_notes(text, numbers)
    assert notes.facts == tuple(dict.fromkeys(Fact(number, " ".join(said.split())) for number, said in facts))
    assert notes.leads == tuple(dict.fromkeys(" ".join(said.split()) for said in leads))
    assert notes.dead_ends == tuple(dict.fromkeys(" ".join(said.split()) for said in ends))


@pytest.mark.parametrize(
    "text", ["[3] Not of these.\n", "[1] \n", "[1] two  spaces\n", "[1] a fact that is long\nand more\n", ""]
)
def test_the_form_excludes(text: str) -> None:
    assert not re.fullmatch(distillate_regex([1, 2], lines=3), text)


def test_other_forms_are_read_too() -> None:
    text = "Here are the facts:\n- [1] one thing\n* [2]  two   things\n• [7] no such one\n线索：三件事\nDEAD END: four\n2. five"
    assert read_notes(text, [1, 2]) == Distillate(
        facts=(Fact(1, "one thing"), Fact(2, "two things")), leads=("三件事",), dead_ends=("four",)
    )


@pytest.mark.parametrize("unit", ["[1]", "- ", "*", "open:", "dead end: ", "[1] a\n", "•\t", " "])
def test_hostile_notes_take_no_time(unit: str) -> None:
    text = unit * (30_000 // len(unit))
    assert takes_less(1.5, lambda: read_notes(text, [1]))


_ORIGINALS = [
    Original(1, "North Light", "North Light was lit in 1803 by Ada Winter."),
    Original(2, "South Light", "South Light was lit in 1812 by Bert Summer."),
]


def test_verified_keeps_moves_and_removes() -> None:
    notes = Distillate(
        facts=(
            Fact(1, "North Light was lit in 1803."),
            Fact(1, "South Light was lit by Bert Summer."),
            Fact(2, "South Light was lit in 1821."),
            Fact(7, "North Light was lit by Ada Winter."),
        ),
        leads=("who was Ada Winter", "who was Clara Spring"),
        dead_ends=("nothing on who lit North Light later",),
    )
    kept, removed = verified(notes, _ORIGINALS)
    assert kept.facts == (
        Fact(1, "North Light was lit in 1803."),
        Fact(2, "South Light was lit by Bert Summer."),
        Fact(1, "North Light was lit by Ada Winter."),
    )
    assert kept.leads == ("who was Ada Winter",)
    assert removed == 2 + (1 - len(kept.dead_ends))


def test_all_pieces_of_a_result_count() -> None:
    pieces = [
        Original(1, "North Light", "It was lit in 1803."),
        Original(1, "North Light", "Its keeper was Ada."),
    ]
    notes = Distillate(facts=(Fact(1, "North Light was lit in 1803"), Fact(1, "Its keeper was Ada")))
    assert verified(notes, pieces) == (notes, 0)


@settings(deadline=None)
@given(_distillates)
def test_verified_counts_lines(notes: Distillate) -> None:
    kept, removed = verified(notes, _ORIGINALS)
    assert removed >= 0
    before = len(notes.facts) + len(notes.leads) + len(notes.dead_ends)
    assert len(kept.facts) + len(kept.leads) + len(kept.dead_ends) <= before - removed
    assert all(fact.number in (1, 2) for fact in kept.facts)
    assert verified(kept, _ORIGINALS) == (kept, 0)


def test_extracted_sentences_are_borne_out() -> None:
    notes = extracted(_ORIGINALS, ["Who lit North Light?"], tokens=20)
    assert notes.facts == (Fact(1, _ORIGINALS[0].text),)
    assert verified(notes, _ORIGINALS) == (notes, 0)


def test_details_are_what_the_facts_leave_out() -> None:
    notes = Distillate(facts=(Fact(1, "North Light was lit in 1803."),))
    done = with_details(notes, _ORIGINALS, tokens=100)
    assert done.numbers == (1, 2)
    assert done.details == (
        Fact(1, "North Light: Ada Winter"),
        Fact(2, "South Light: 1812; Bert Summer"),
    )
    text = done.text(_EN, recall=True)
    assert text.startswith("Notes on results [1]-[2]:")
    assert _EN.recall_hint in text
    assert text.endswith(f"{_EN.recallable}\n[1] North Light: Ada Winter\n[2] South Light: 1812; Bert Summer")
    assert done.text(_EN, recall=False) == "Notes on results [1]-[2]:\n[1] North Light was lit in 1803."
    assert with_details(notes, [], tokens=100).numbers == ()


@pytest.mark.parametrize("prompts", PROMPTS.values())
@settings(deadline=None)
@given(notes=_distillates)
def test_the_text_names_every_fact_and_number(prompts: Prompts, notes: Distillate) -> None:
    text = notes.text(prompts, recall=True)
    assert all(f"[{fact.number}] {fact.text}" in text for fact in (*notes.facts, *notes.details))
    assert all(said in text for said in (*notes.leads, *notes.dead_ends))
    heading = text.partition("\n")[0]
    named: set[int] = set()
    for first, last in re.findall(r"\[(\d+)\](?:-\[(\d+)\])?", heading):
        named |= set(range(int(first), int(last or first) + 1))
    assert named >= set(notes.numbers)
    assert not named or {min(named), max(named)} <= set(notes.numbers)


def _cost(facts: tuple[Fact, ...]) -> int:
    return sum(estimate_tokens(fact.text) + 4 for fact in facts)


@settings(deadline=None)
@given(_distillates, _distillates, st.integers(0, 200))
def test_joined_within_budget_and_word_for_word(earlier: Distillate, newer: Distillate, tokens: int) -> None:
    joined = newer.after(earlier, queries=["a question"], tokens=tokens)
    known = tuple(dict.fromkeys([*earlier.facts, *newer.facts]))
    assert set(joined.facts) <= set(known)
    assert [fact for fact in known if fact in joined.facts] == list(joined.facts)
    assert _cost(joined.facts) + _cost(joined.details) <= tokens
    assert set(joined.numbers) == {*earlier.numbers, *newer.numbers}
    if _cost(known) <= tokens:
        assert joined.facts == known


def test_what_matches_least_goes_first() -> None:
    earlier = Distillate(facts=(Fact(1, "The lamp was lit by Ada."), Fact(2, "Rain fell on the pier.")))
    newer = Distillate(facts=(Fact(3, "The lamp has oil from Spain."),))
    joined = newer.after(earlier, queries=["Who lit the lamp?"], tokens=_cost(earlier.facts) + 2)
    assert joined.facts == (Fact(1, "The lamp was lit by Ada."), Fact(3, "The lamp has oil from Spain."))


def test_many_joins_stay_small() -> None:
    notes = Distillate()
    for i in range(50):
        fresh = Distillate(
            facts=tuple(Fact(i, f"Lamp L{i} was seen by keeper {j} on night {i * j}.") for j in range(8)),
            details=(Fact(i, f"LX-{i}; " * 20),),
            leads=(f"who kept lamp {i}",),
            dead_ends=(f"nothing on lamp {i}",),
            numbers=(i,),
        )
        notes = fresh.after(notes, queries=["Who kept lamp L3?"], tokens=300)
        assert _cost(notes.facts) + _cost(notes.details) <= 300
        assert len(notes.leads) <= 6
        assert len(notes.dead_ends) <= 6
    assert notes.numbers == tuple(range(50))
    assert estimate_tokens(notes.text(_EN, recall=True)) < 600
    assert any(fact.text.startswith("Lamp L3 was seen by keeper") for fact in notes.facts)
    assert notes.leads[-1] == "who kept lamp 49"


def test_a_line_that_the_grammar_cut_ends_with_its_last_sentence() -> None:
    sentence = "Ada Winter kept Heron Point Light from 1871."
    line = f"{sentence} {'She was born in the village of Sandhaven ' * 6}"[:240]
    assert read_notes(f"[1] {line}\n", [1]).facts == (Fact(1, sentence),)


def test_only_the_last_line_of_a_reply_that_was_cut_is_shortened() -> None:
    text = "[1] The code of the lamp is HP-118-B\n[2] The keeper was paid 1,24"
    assert read_notes(text, [1, 2], cut=True).facts == (
        Fact(1, "The code of the lamp is HP-118-B"),
        Fact(2, "The keeper was paid"),
    )
    assert read_notes(text, [1, 2]).facts[1] == Fact(2, "The keeper was paid 1,24")


def test_titles_and_copies_of_a_small_model_are_left_out() -> None:
    originals = [
        Original(1, "Heron Point", "Heron Point Light was lit in 1871."),
        Original(2, "Gull", "A bird."),
    ]
    notes = Distillate(
        facts=(
            Fact(1, "Heron Point: Heron Point Light was lit in 1871."),
            Fact(2, "Heron Point: Heron Point Light was lit in 1871."),
            Fact(1, "Heron Point Light was lit"),
            Fact(2, "it is"),
        )
    )
    assert verified(notes, originals)[0].facts == (Fact(1, "Heron Point Light was lit in 1871."),)
