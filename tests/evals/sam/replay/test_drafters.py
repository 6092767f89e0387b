"""How the replay drives our drafter: a recording stand-in has its interface."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session, Turn
from agentinfer_lg.evals.sam.replay.batches import measure
from agentinfer_lg.evals.sam.replay.drafters import TUNED, arctic_grid, make_drafter, missing_package
from agentinfer_lg.evals.sam.replay.figures import Score, replay
from agentinfer_lg.evals.sam.replay.run import best_by_cost
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.types import IntArray


class Recorder:
    made: ClassVar[list[Recorder]] = []

    def __init__(self, options: Any, *, background: bool = True, **others: Any) -> None:
        assert not background
        self.options, self.others = options, others
        self.started: list[tuple[str, list[int], SessionHints]] = []
        self.steps: list[tuple[str, list[int], int]] = []
        self.finished: list[str] = []
        self.ended: list[str] = []
        self.batches: list[int] = []
        Recorder.made.append(self)

    def start(self, request: str, prompt: IntArray, *, hints: SessionHints) -> None:
        self.started.append((request, prompt.tolist(), hints))

    def step(
        self,
        requests: Sequence[str],
        verified: Sequence[Sequence[int]],
        *,
        limits: Sequence[int] | None = None,
    ) -> list[list[int]]:
        limits = limits or [9] * len(requests)
        self.steps += zip(requests, map(list, verified), limits, strict=True)
        self.batches.append(len(requests))
        return [[7] * limit for limit in limits]

    def finish(self, request: str) -> None:
        self.finished.append(request)

    def drain(self) -> None:
        pass

    def end_idle(self, *, seconds: float = 0.0) -> None:
        self.ended.append(self.finished[-1])

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(
            bytes=640, live_tokens=4, history_tokens=6, build_seconds=1e-3, built_tokens=500
        )


class Options(dict[str, Any]):
    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.top_k = values.get("top_k", 0)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in (("drafter", Recorder), ("options", Options)):
        module = ModuleType(f"agentinfer_lg.serving.sam.draft.{name}")
        setattr(module, "Drafter" if stand_in is Recorder else "DrafterOptions", stand_in)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    Recorder.made.clear()


def turn(prompt: list[int], output: list[int]) -> Turn:
    return Turn(np.asarray(prompt, dtype=np.int32), np.asarray(output, dtype=np.int32))


SESSIONS = [
    Session("a", "a", (turn([1, 2], [3, 7, 4]), turn([5], [6, 8]))),
    Session("b", "b", (turn([1], [2]),)),
]


def run(name: str) -> tuple[Recorder, Score]:
    drafter = make_drafter(name, k=2, marginal_cost=0.2)
    score = replay(SESSIONS, drafter, k=2, half="all")
    return Recorder.made[-1], score


OPTIONS = {"max_draft": 2, "marginal_cost": 0.2}


def test_requests_of_a_session_share_its_id_until_it_ends() -> None:
    recorder, score = run("ours")
    assert recorder.options == OPTIONS
    prompts = [prompt for _, prompt, _ in recorder.started]
    assert prompts == [[1, 2], [1, 2, 3, 7, 4, 5], [1]]
    hints = [hints for _, _, hints in recorder.started]
    assert [each.session_id for each in hints] == ["session-1", "session-1", "session-2"]
    assert [(each.turn, each.final) for each in hints] == [(0, False), (1, False), (0, False)]
    assert recorder.finished == [request for request, _, _ in recorder.started]
    assert recorder.ended == recorder.finished[1:]
    row = score.row()
    assert (row["bytes_per_token"], row["build_us_per_token"]) == (64, pytest.approx(2))


def test_every_emitted_token_reaches_the_drafter_once() -> None:
    recorder, score = run("ours")
    steps = [(tokens, limit) for _, tokens, limit in recorder.steps]
    assert steps == [([3], 2), ([7, 4], 0), ([6], 2), ([8], 0), ([2], 0)]
    assert (score.total("steps"), score.total("accepted"), score.total("drafted")) == (2, 1, 4)


def test_request_sam_knows_nothing_of_earlier_turns() -> None:
    recorder, _ = run("request-sam")
    assert recorder.options["history"] is False
    assert len({hints.session_id for _, _, hints in recorder.started}) == 3
    assert all(hints.final for _, _, hints in recorder.started)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("paper", {"mode": "paper", "top_k": 4}),
        ("ours-own", {"history": False}),
        ("ours-history-only", {"own": False}),
        ("ours-topk", {"top_k": 4}),
    ],
)
def test_variants_switch_one_thing(name: str, chosen: dict[str, object]) -> None:
    recorder, score = run(name)
    assert recorder.options == OPTIONS | chosen
    assert score.costs.held_tokens == 10 + (8 if "top_k" in chosen else 0)  # 8: the session that is over


def test_a_batch_steps_through_the_recorded_outputs() -> None:
    row = measure(SESSIONS, "ours", k=9, batch=2)
    recorder = Recorder.made[-1]
    assert recorder.batches == [
        2,
        1,
    ]  # "b" and the first turn of "a" end with the first step, which alone is full
    assert row["steps"] == 1
    by_session = [(request.split("/")[0], tokens) for request, tokens, _ in recorder.steps]
    assert by_session == [("session-0", [3, 7, 4]), ("session-1", [2]), ("session-0", [6, 8])]
    assert [prompt for _, prompt, _ in recorder.started] == [[1, 2], [1], [1, 2, 3, 7, 4, 5]]
    assert len(recorder.ended) == 2
    assert sorted(recorder.finished) == sorted(request for request, _, _ in recorder.started)


@pytest.mark.parametrize(("name", "batch", "sentence"), [("ours", 3, "1 to 2"), ("ngram", 1, "not ngram")])
def test_batches_that_cannot_be_measured_are_refused(name: str, batch: int, sentence: str) -> None:
    with pytest.raises(UserInputError, match=sentence):
        measure(SESSIONS, name, k=4, batch=batch)


def test_the_rival_can_be_had_at_any_setting() -> None:
    assert len(set(arctic_grid())) == 8 * 2 * 6
    assert set(TUNED.values()) <= set(arctic_grid())
    with pytest.raises(UserInputError, match="FACTOR/DEPTH/LEAST"):
        missing_package("arctic@fast")


def test_the_best_setting_is_chosen_for_each_cost() -> None:
    rows = [
        {"drafter": name, "set": each, **{f"speedup_at_{c}": value for c in ("0_01", "0_03", "0_1", "0_3")}}
        for each, values in (("a", (2.0, 1.0)), ("b", (1.0, 1.5)))
        for name, value in zip(("x", "y"), values, strict=True)
    ]
    rows[1]["speedup_at_0_3"] = 3.0
    assert best_by_cost(rows) == {0.01: "x", 0.03: "x", 0.1: "x", 0.3: "y"}
