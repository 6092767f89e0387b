"""Tasks of the granularity benchmark: certain answers, in results that are distilled."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ToolMessage

from agentinfer_lg.compression.lacking import lacking
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.compression.granularity.airline import airline_sessions
from agentinfer_lg.evals.compression.granularity.session import (
    DetailSession,
    Probe,
    contains,
    is_right,
    last_covered,
)
from agentinfer_lg.evals.compression.granularity.tasks import REPORTED, TUNING, generated_session


def old_texts(session: DetailSession) -> dict[int, str]:
    return {original.number: f"{original.title}\n{original.text}" for original in session.originals}


def recent_text(session: DetailSession) -> str:
    ids = [message.id for message in session.messages]
    later = session.messages[ids.index(session.upto) + 1 :]
    return "\n".join(str(message.content) for message in later)


@given(st.integers(min_value=0, max_value=10_000))
def test_a_generated_answer_is_in_one_old_result_and_nowhere_else(seed: int) -> None:
    session = generated_session(seed)
    texts = old_texts(session)
    assert len(session.probes) == 6
    assert len(texts) == 15
    for probe in session.probes:
        holders = [number for number, text in texts.items() if contains(text, probe.answer)]
        assert holders == [probe.number]
        assert not contains(recent_text(session), probe.answer)
        assert is_right(texts[probe.number], Probe(**{**_fields(probe), "rivals": ()}))
        assert probe.answer not in probe.rivals
        steps = [str(m.content) for m in session.messages if isinstance(m, AIMessage)]
        assert not contains("\n".join([session.task, *session.queries, *steps]), probe.answer)


def _fields(probe: Probe) -> dict[str, object]:
    return {name: getattr(probe, name) for name in Probe.__dataclass_fields__}


def test_a_seed_gives_the_same_session_and_others_differ() -> None:
    assert generated_session(4) == generated_session(4)
    assert generated_session(4).messages != generated_session(7).messages
    assert {generated_session(seed).language for seed in range(3)} == {"en", "zh"}


def test_seeds_to_tune_on_are_not_reported() -> None:
    assert not set(TUNING) & set(REPORTED)


def test_questions_are_about_results_that_do_not_stay_whole() -> None:
    session = generated_session(1, keep_rounds=4)
    assert len(session.originals) == 9
    assert max(probe.number for probe in session.probes) <= 9
    assert last_covered(session.messages, keep_rounds=7) == ""


@pytest.mark.parametrize("seed", range(12))
def test_words_alone_find_the_result_that_a_question_needs(seed: int) -> None:
    session = generated_session(seed)
    for probe in session.probes:
        found = lacking(session.originals, "", [probe.question])
        assert found is not None
        assert found[0].number == probe.number
        assert lacking(session.originals, found[0].text, [probe.question]) is None


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The order number is GX‑118‑B.", True),
        ("gx-118-b", True),
        ("GX-118-BA", False),
        ("AGX-118-B", False),
        ("GX-118", False),
        ("GX-118-B or GX-181-B", False),
        ("", False),
    ],
)
def test_an_identifier_counts_only_as_a_whole_and_alone(answer: str, right: bool) -> None:
    probe = Probe(kind="identifier", question="?", answer="GX-118-B", number=1, rivals=("GX-181-B",))
    assert is_right(answer, probe) is right


@pytest.mark.parametrize(
    ("text", "detail", "found"),
    [
        ("It costs $12480.", "$12,480", True),
        ("It costs $12,480.50", "$12,480", False),
        ("It costs $112,480", "12,480", False),
        ("价格是31852元。", "31852元", True),
        ("价格是３１８５２元。", "31852元", True),
        ("version v1.2.3.", "v1.2.3", True),
        ("version v1.2.34", "v1.2.3", False),
        ("version v1.2.3.4", "v1.2.3", False),
    ],
)
def test_numbers_are_compared_exactly(text: str, detail: str, found: bool) -> None:
    assert contains(text, detail) is found


def recorded(tmp_path: Path, *turns: dict[str, object]) -> Path:
    (tmp_path / "tau-bench").mkdir()
    entry = {"task_id": 3, "trial": 0, "traj": [{"role": "system", "content": "policy"}, *turns]}
    (tmp_path / "tau-bench" / "gpt-4o-airline.json").write_text(json.dumps([entry]))
    return tmp_path


def call(name: str, **arguments: object) -> dict[str, object]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "function": function}]}


def user(*, methods: int = 1) -> dict[str, object]:
    cards = {
        f"gift_card_10{n}": {"source": "gift_card", "amount": 22, "id": f"gift_card_10{n}"}
        for n in range(methods)
    }
    return {"role": "tool", "content": json.dumps({"payment_methods": cards})}


def says(role: str, text: str) -> dict[str, object]:
    return {"role": role, "content": text}


CALL = call("book_reservation", payment_id="gift_card_100")
BETWEEN = (
    says("assistant", "Shall I?"),
    says("user", "Yes."),
    says("assistant", "Sure?"),
    says("user", "Yes!"),
)


def test_an_argument_that_only_an_old_result_holds_is_asked_for(tmp_path: Path) -> None:
    folder = recorded(
        tmp_path, says("user", "Hi"), call("get_user_details", user_id="u_1"), user(), *BETWEEN, CALL
    )
    (session,) = [s for part in ("tune", "report") for s in airline_sessions(folder, part=part)]  # type: ignore[arg-type]
    (probe,) = session.probes
    assert probe.answer == "gift_card_100"
    assert probe.question == "What is the id of the customer's gift card with the amount 22?"
    assert probe.answer in old_texts(session)[probe.number]
    assert isinstance(session.messages[-1], type(session.messages[1])), "the call itself is not told"


@pytest.mark.parametrize(
    "turns",
    [
        (user(), says("assistant", "You have gift_card_100."), *BETWEEN),
        (user(methods=2), *BETWEEN),
        (*BETWEEN, user()),
    ],
    ids=["the agent wrote it down", "two fit the question", "its result stays whole"],
)
def test_what_is_not_certain_or_not_distilled_is_not_asked(
    tmp_path: Path, turns: tuple[dict[str, object], ...]
) -> None:
    folder = recorded(tmp_path, says("user", "Hi"), call("get_user_details", user_id="u_1"), *turns, CALL)
    assert [s for part in ("tune", "report") for s in airline_sessions(folder, part=part)] == []  # type: ignore[arg-type]


def test_recordings_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserInputError, match="gpt-4o-airline"):
        airline_sessions(tmp_path)
    monkeypatch.delenv("AGENTINFER_DATA", raising=False)
    with pytest.raises(UserInputError, match="--data"):
        airline_sessions()


def test_the_recorded_conversations() -> None:
    if not os.environ.get("AGENTINFER_DATA"):
        pytest.skip("set AGENTINFER_DATA to the folder of the data sets (docs/data.md)")
    sessions = airline_sessions(part="report")
    assert len(sessions) >= 10
    for session in sessions:
        texts = old_texts(session)
        said = "\n".join(str(m.content) for m in session.messages if not isinstance(m, ToolMessage))
        for probe in session.probes:
            assert contains(texts[probe.number], probe.answer)
            assert not contains(said, probe.answer)
            assert not contains(recent_text(session), probe.answer)
