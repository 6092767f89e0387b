"""Distil: whatever a model or an endpoint does, notes come back, in time, and nothing in them is invented."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from agentinfer_lg.compression.distill import Distilled, distill
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.calling import Called
from agentinfer_lg.llm.chat import ContextOverflowError, Guide, OutOfTimeError, Reply
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.prompts import PROMPTS
from agentinfer_lg.state import CallRecord

_RECORD = CallRecord(
    agent="seeker-1",
    turn=0,
    role="distill",
    tier="small",
    model="m",
    prompt_tokens=1,
    cached_tokens=0,
    output_tokens=1,
    seconds=0.0,
    reprefill_tokens=0,
)
_LIGHTS = [
    Original(
        number,
        f"Light {number}",
        f"Light {number} was lit in {1800 + number} by Ada Winter. " + "It is white. " * 80,
    )
    for number in range(1, 13)
]
_QUERIES = ["When was Light 3 lit?", "Light 3"]


class _Caller:
    """Answers as it is told and keeps the prompts."""

    def __init__(self, answer: Callable[[str], str | Exception | None]) -> None:
        self._answer = answer
        self.prompts: list[str] = []

    async def call(
        self, tier: str, messages: Sequence[BaseMessage], *, guide: Guide | None = None, **_: Any
    ) -> Called:
        prompt = str(messages[0].content)
        self.prompts.append(prompt)
        answer = self._answer(prompt)
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert guide is not None
        assert re.compile(guide.regex or "(")
        return Called(Reply(text=str(answer)), _RECORD)


def _good(prompt: str) -> str:
    lights = dict.fromkeys(re.findall(r"^\[(\d+)\] Light", prompt, re.MULTILINE))
    return (
        "".join(f"[{n}] Light {n} was lit in {1800 + int(n)}.\n" for n in lights)
        + "open: who was Ada Winter\n"
    )


async def _distill(caller: _Caller, originals: Sequence[Original], **options: Any) -> Distilled:
    options = {"window": None, "seconds": 30.0, "detail_tokens": 100} | options
    return await distill(caller, PROMPTS["en"], originals, _QUERIES, tier="small", **options)  # type: ignore[arg-type]


async def test_notes_of_every_chunk() -> None:
    caller = _Caller(_good)
    done = await _distill(caller, _LIGHTS, window=2048)
    assert [(fact.number, fact.text) for fact in done.notes.facts] == [
        (n, f"Light {n} was lit in {1800 + n}.") for n in range(1, 13)
    ]
    assert done.notes.numbers == tuple(range(1, 13))
    assert done.failure == ""
    assert done.removed == 0
    assert done.notes.leads
    assert len(done.calls) == len(caller.prompts) > 1
    assert all(estimate_tokens(prompt) < 2048 * 0.75 for prompt in caller.prompts)
    assert "".join(caller.prompts).count("was lit in") == 12, "each result is read once"


async def test_a_few_calls_go_on_at_once_and_notes_stay_in_order() -> None:
    class Slow(_Caller):
        running = most = 0

        async def call(self, *arguments: Any, **options: Any) -> Called:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.1 / (1 + len(self.prompts)))  # the later ones are done first
            self.running -= 1
            return await super().call(*arguments, **options)

    caller = Slow(_good)
    done = await _distill(caller, _LIGHTS, window=900)
    assert len(caller.prompts) > 4
    assert caller.most == 4
    assert [fact.number for fact in done.notes.facts] == list(range(1, 13))


async def test_what_the_model_invents_is_removed() -> None:
    done = await _distill(
        _Caller(lambda prompt: _good(prompt) + "[1] Light 1 was lit in 1999.\n[2] Bert lit Light 2.\n"),
        _LIGHTS[:2],
    )
    assert [fact.text for fact in done.notes.facts] == [
        "Light 1 was lit in 1801.",
        "Light 2 was lit in 1802.",
    ]
    assert done.removed == 2
    assert done.failure == ""


@pytest.mark.parametrize(
    "answer",
    ["", "\x00\ud800", "I cannot do that.", "[99] no such result at all\n", "[1] Light 1 was lit in 1999 by Bert.\n",
     "[1] " + "x" * 100_000, EndpointError("The small model is gone."), OutOfTimeError("Too slow.")],
)  # fmt: skip
async def test_sentences_stand_in(answer: str | Exception) -> None:
    done = await _distill(_Caller(lambda _: answer), _LIGHTS[:3])
    assert done.failure
    assert any("Light 3 was lit in 1803" in fact.text for fact in done.notes.facts)
    texts = {original.number: original.text for original in _LIGHTS}
    assert all(fact.text in texts[fact.number] for fact in done.notes.facts)
    assert done.notes.numbers == (1, 2, 3)
    cost = sum(estimate_tokens(fact.text) + 4 for fact in done.notes.facts)
    assert cost <= 0.2 * sum(estimate_tokens(original.text) for original in _LIGHTS[:3])


async def test_a_model_that_hangs_is_left() -> None:
    calls = 0

    def answer(prompt: str) -> str | None:
        nonlocal calls
        calls += 1
        return _good(prompt) if calls == 1 else None

    started = time.monotonic()
    done = await _distill(_Caller(answer), _LIGHTS, window=2048, seconds=0.2)
    assert time.monotonic() - started < 5
    assert "did not distill within" in done.failure
    assert len(done.calls) == 1
    assert done.notes.facts[0].text == "Light 1 was lit in 1801.", "what was done in time is kept"
    assert done.notes.facts[-1].number > 6, "sentences of the rest stand in"
    assert done.notes.numbers == tuple(range(1, 13))


async def test_what_does_not_fit_is_halved() -> None:
    def answer(prompt: str) -> str | Exception:
        return ContextOverflowError("It does not fit.") if estimate_tokens(prompt) > 1000 else _good(prompt)

    done = await _distill(_Caller(answer), _LIGHTS)
    assert done.failure == ""
    assert {fact.number for fact in done.notes.facts} == set(range(1, 13))


@pytest.mark.parametrize(
    "originals",
    [
        _LIGHTS,
        [Original(1, "giant", "word" * 30_000)],
        [Original(1, "giant", "1234567890" * 5_000)],
        [Original(1, "giant", "灯塔" * 10_000)],
        [Original(1, "tiny", "a")],
    ],
    ids=["lights", "no border", "digits", "chinese", "tiny"],
)
async def test_what_never_fits_ends(originals: list[Original]) -> None:
    caller = _Caller(lambda _: ContextOverflowError("It does not fit."))
    done = await _distill(caller, originals)
    assert done.failure == "It does not fit."
    assert done.calls == []
    assert done.notes.numbers == tuple(original.number for original in originals)
    size = sum(estimate_tokens(original.text) for original in originals)
    assert len(caller.prompts) <= 1 + size / 25
    assert sum(estimate_tokens(fact.text) for fact in done.notes.facts) <= max(60, 0.5 * size)
    assert done.notes.facts


@pytest.mark.parametrize(
    "text", ["word" * 30_000, "1234567890" * 5_000, "灯塔" * 10_000, "\n" * 50_000 + "x"]
)
async def test_chunks_keep_within_the_window(text: str) -> None:
    caller = _Caller(lambda _: "")
    await _distill(caller, [Original(1, "giant", text)], window=2000)
    assert all(estimate_tokens(prompt) <= 1000 + 150 for prompt in caller.prompts)


async def test_nothing_to_distill() -> None:
    caller = _Caller(_good)
    done = await _distill(caller, [])
    assert caller.prompts == []
    assert done.notes.facts == done.notes.details == done.notes.numbers == ()
    assert done.to_json()["failure"] == ""


async def test_without_notes() -> None:
    caller = _Caller(_good)
    done = await _distill(caller, _LIGHTS[:2], summary=False)
    assert caller.prompts == []
    assert done.notes.facts == ()
    assert done.notes.numbers == (1, 2)
    assert done.failure == ""


async def test_cancelled_it_is_cancelled() -> None:
    task = asyncio.create_task(_distill(_Caller(lambda _: None), _LIGHTS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
