"""What is read off a recorded session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentinfer_lg.evals.compression.long_session.figures import Recording, Timed, measure, prompts_to_count
from agentinfer_lg.evals.compression.long_session.scripted_search import Exchange


def say(*texts: str) -> tuple[dict[str, Any], ...]:
    return tuple({"role": "user", "content": text} for text in texts)


def call(role: str, turn: int, sent: float, done: float, prompt: int, cached: int, **more: Any) -> Exchange:
    values: dict[str, Any] = {"output_tokens": 10, "messages": (), "supersedes": False, **more}
    return Exchange(
        role=role, turn=turn, sent=sent, done=done, prompt_tokens=prompt, cached_tokens=cached, **values
    )


# Three rounds: at the end of the first a distillation is started, which runs through the second boundary; before the
# fourth Think the swap.
THINKS = (
    call("think", 0, 0.0, 2.0, 100, 0, messages=say("task")),
    call("think", 1, 10.0, 14.0, 200, 96, messages=say("task", "step 0", "results 0")),
    call(
        "think", 2, 20.0, 24.0, 300, 192, messages=say("task", "step 0", "results 0", "step 1", "results 1")
    ),
    call(
        "think",
        3,
        31.0,
        32.0,
        160,
        128,
        supersedes=True,
        messages=say("task", "step 0", "stub", "step 1", "notes", "step 2", "results 2"),
    ),
)
OTHERS = (
    call("progress", 2, 25.0, 26.0, 320, 288),
    call("distill", 1, 10.1, 15.0, 90, 0),
    call("distill", 1, 15.1, 23.0, 80, 0),
    call("prewarm", 1, 23.1, 23.5, 120, 32, output_tokens=1),
    call("prewarm", 3, 30.2, 30.9, 160, 96, output_tokens=1),
)
EVENTS = (
    Timed(9.8, {"event": "progress", "turn": 0}),
    Timed(9.9, {"event": "distill_start", "turn": 1, "ticket": "t"}),
    Timed(19.9, {"event": "progress", "turn": 1}),
    Timed(30.0, {"event": "progress", "turn": 2}),
    Timed(30.1, {"event": "distill_end", "turn": 3, "ticket": "t"}),
    Timed(30.95, {"event": "swap", "ok": True, "turn": 3, "ticket": "t", "lag": 2}),
    Timed(40.0, {"event": "progress", "turn": 3}),
)
RECORDING = Recording(
    block_size=32,
    exchanges=tuple(sorted((*THINKS, *OTHERS), key=lambda each: each.sent)),
    events=EVENTS,
    series=(
        Timed(30.0, {"superseded_blocks": 2.0}),
        Timed(40.0, {"superseded_blocks": 2.0}),
        Timed(42.0, {"superseded_blocks": 11.0}),
    ),
    prompts=(tuple(range(400)), (*range(40), *range(1000, 1120))),
)


def test_rounds() -> None:
    figures = measure(RECORDING)
    assert [each.turn for each in figures.rounds] == [0, 1, 2, 3]
    assert [each.seconds for each in figures.rounds] == [10.0, 10.0, 11.0, 9.0]
    assert [each.boundary_seconds for each in figures.rounds] == pytest.approx([0.0, 0.2, 0.1, 1.0])
    assert [each.distilling for each in figures.rounds] == [False, True, True, False]
    assert [each.swapped for each in figures.rounds] == [False, False, False, True]
    assert [each.extends for each in figures.rounds] == [True, True, True, False]
    assert figures.rounds[1].hit_share == 0.48
    assert figures.longest_context == 300
    assert figures.seconds == 40.0
    assert figures.mean_think_seconds(distilling=True) == 4.0
    assert figures.mean_think_seconds(distilling=False) == 2.0


def test_a_distillation_that_nobody_waited_for() -> None:
    (found,) = measure(RECORDING).distillations
    assert (found.ticket, found.turn, found.calls, found.prompt_tokens) == ("t", 1, 2, 170)
    assert found.seconds == pytest.approx(12.9)
    assert (found.boundaries, found.left) == (2, 2)
    assert found.waited_seconds == pytest.approx(0.1)


def test_a_round_that_waited_is_seen() -> None:
    late = tuple(
        replace(each, sent=23.2) if each.role == "think" and each.turn == 2 else each for each in THINKS
    )
    (found,) = measure(replace(RECORDING, exchanges=(*late, *OTHERS))).distillations
    assert (found.boundaries, found.left) == (2, 1)
    assert found.waited_seconds == pytest.approx(3.1)


def test_a_swap() -> None:
    (swap,) = measure(RECORDING).swaps
    assert (swap.turn, swap.lag) == (3, 2)
    assert (swap.tokens_before, swap.tokens_after, swap.ratio) == (400, 160, 0.4)
    assert (swap.hit_share, swap.warm_share, swap.common_share) == (0.8, 0.4, 0.25)
    assert (swap.bulk_tokens, swap.rest_tokens) == (88, 64)
    assert swap.rest_seconds == pytest.approx(0.7)
    assert swap.boundary_seconds == pytest.approx(1.0)
    # 329 tokens of the old context were computed: ten blocks, one of them common
    assert (swap.superseded_blocks, swap.expected_blocks) == (9, 9)


def test_what_the_turn_would_have_seen_without_the_swap() -> None:
    without, seen = prompts_to_count(RECORDING.exchanges)
    assert without == (*THINKS[2].messages, *say("step 2", "results 2"))
    assert seen == THINKS[3].messages


def test_roles_and_sums() -> None:
    figures = measure(RECORDING)
    assert figures.roles["prewarm"]["calls"] == 2
    assert figures.prompt_tokens == 760 + 320 + 170 + 280
    assert figures.prefilled_tokens == 1530 - (416 + 288 + 128)
    assert figures.events[0]["at"] == 9.8


def test_of_nothing() -> None:
    figures = measure(Recording(block_size=32, exchanges=(), events=(), series=(), prompts=()))
    assert (figures.rounds, figures.swaps, figures.longest_context, figures.seconds) == ((), (), 0, 0)
    assert figures.mean_think_seconds(distilling=True) is None
