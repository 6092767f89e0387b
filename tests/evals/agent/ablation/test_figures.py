"""From cells to rows, on cells whose figures can be worked out by hand."""

import json
from collections.abc import Sequence

import pytest
from support.ablation_cells import cell, many_cells, record

from agentinfer_lg.evals.agent.ablation.figures import (
    AblationRow,
    ablation_rows,
    ablation_totals,
    question_breakdown,
)
from agentinfer_lg.evals.agent.ablation.run import Cell
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS


def rows(cells: Sequence[Cell]) -> dict[tuple[str, int], AblationRow]:
    return {(row.configuration, row.n): row for row in ablation_rows(cells)}


def test_speed_and_throughput_against_the_baseline() -> None:
    cells = [
        cell("baseline", 2, [record("a", 10), record("b", 30)], seconds=32),
        cell("all", 2, [record("a", 5), record("b", 15)], seconds=20),
    ]
    found = rows(cells)
    mine, base = found["all", 2], found["baseline", 2]
    assert (mine.questions, mine.end_to_end_s, base.end_to_end_s) == (2, 10, 20)
    assert (mine.qps, base.qps) == (pytest.approx(2 / 20), pytest.approx(2 / 32))
    assert mine.speedup == pytest.approx(2.0)
    assert mine.speedup_interval is not None
    assert (mine.speedup_interval.low, mine.speedup_interval.high) == (pytest.approx(2), pytest.approx(2))
    assert mine.qps_ratio == pytest.approx(1.6)
    assert (base.speedup, base.qps_ratio) == (pytest.approx(1.0), pytest.approx(1.0))


def test_an_interval_covers_what_single_questions_say() -> None:
    seconds = [(10, 5), (10, 8), (10, 12), (10, 4), (10, 7)]
    cells = [
        cell("baseline", 1, [record(str(i), base) for i, (base, _) in enumerate(seconds)]),
        cell("all", 1, [record(str(i), ours) for i, (_, ours) in enumerate(seconds)]),
    ]
    mine = rows(cells)["all", 1]
    assert mine.speedup == pytest.approx(50 / 36)
    assert mine.speedup_interval is not None
    assert 10 / 12 < mine.speedup_interval.low < 50 / 36 < mine.speedup_interval.high < 10 / 4


def test_only_the_same_questions_are_compared() -> None:
    cells = [
        cell("baseline", 1, [record("a", 10), record("b", 100)], block=0),
        cell("all", 1, [record("a", 5)], block=0),
        cell("all", 1, [record("a", 1)], block=1),  # another question of that name
    ]
    mine = rows(cells)["all", 1]
    assert mine.speedup == pytest.approx(2.0)
    assert mine.end_to_end_s == 3
    assert mine.qps_ratio == pytest.approx((1 / 5) / (2 / 110))  # of the block that both have


def test_benchmarks_may_use_the_same_ids() -> None:
    records = [record("1", 10, benchmark="one"), record("1", 20, benchmark="two")]
    assert rows([cell("baseline", 1, records)])["baseline", 1].questions == 2


def test_accuracy_is_compared_question_by_question_and_failures_count_as_wrong() -> None:
    cells = [
        cell("baseline", 1, [record("a", 10), record("b", 10, correct=False), record("c", 10)]),
        cell("all", 1, [record("a", 10), record("b", 10), record("c", 1, failed=True)]),
    ]
    mine = rows(cells)["all", 1]
    assert (mine.accuracy, mine.f1, mine.failures) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 1)
    assert mine.accuracy_difference is not None
    assert mine.accuracy_difference.value == pytest.approx(0.0)
    assert mine.accuracy_difference.low < 0 < mine.accuracy_difference.high


def test_failing_at_once_is_not_fast() -> None:
    cells = [
        cell("baseline", 1, [record("a", 10), record("b", 10)], seconds=20),
        cell("all", 1, [record("a", 10), record("b", 0.01, failed=True)], seconds=10.01),
    ]
    mine = rows(cells)["all", 1]
    assert (mine.speedup, mine.end_to_end_s) == (pytest.approx(1.0), 10)
    assert mine.qps == pytest.approx(1 / 10.01)
    assert mine.tokens == 1100  # of the answered one


def test_where_all_fails_there_is_a_row_without_times() -> None:
    cells = [
        cell("baseline", 1, [record("a", 10)]),
        cell("all", 1, [record("a", 1, failed=True)]),
    ]
    mine = rows(cells)["all", 1]
    assert (mine.end_to_end_s, mine.speedup, mine.qps, mine.qps_ratio) == (None, None, 0, 0)
    assert (mine.accuracy, mine.tokens) == (0, 0)


def test_without_a_baseline_nothing_is_compared() -> None:
    cells = [cell("all", 4, [record("a", 10)]), cell("baseline", 1, [record("a", 10)])]
    mine = rows(cells)["all", 4].to_json()
    compared = ("speedup", "speedup_interval", "qps_ratio", "accuracy_difference", "ineffective_ratio")
    assert [mine[key] for key in compared] == [None] * 5


def test_tokens_per_question() -> None:
    cells = [
        cell("baseline", 1, [record("a", 10, useful=False), record("b", 10)]),
        cell("all", 1, [record("a", 10, prompt=500, useful=False), record("b", 10, cached=600)]),
    ]
    found = rows(cells)
    mine, base = found["all", 1], found["baseline", 1]
    assert (base.tokens, base.computed_tokens, base.ineffective_tokens) == (1100, 1100, 550)
    assert (mine.tokens, mine.computed_tokens, mine.ineffective_tokens) == (850, 550, 300)
    assert mine.ineffective_ratio is not None
    assert mine.ineffective_ratio.value == pytest.approx(600 / 1100)


def test_servers_and_blocks_are_added_up() -> None:
    large = {"generated_tokens": 90.0, "accepted_tokens": 30.0, "queue_seconds": 3.0, "preemptions": 1.0}
    small = {"generated_tokens": 30.0, "accepted_tokens": 10.0, "cache_queries": 200.0, "cache_hits": 50.0}
    cells = [
        cell("all", 1, [record("a", 10)], block=0, servers={"small": small, "large": large}),
        cell("all", 1, [record("b", 20)], block=1, servers={"large": large}),
    ]
    mine = rows(cells)["all", 1]
    assert mine.ote == pytest.approx(210 / 140)
    assert (mine.cache_hit_rate, mine.preemptions, mine.queue_s) == (0.25, 2, 3)
    assert mine.questions == 2


def test_rows_are_in_order_and_json() -> None:
    found = ablation_rows(list(reversed(many_cells((8, 1)))))
    assert [(row.n, row.configuration) for row in found] == [
        (n, name) for n in (1, 8) for name in CONFIGURATIONS
    ]
    keys = {
        "configuration",
        "n",
        "qps",
        "end_to_end_s",
        "accuracy",
        "tokens",
        "ineffective_tokens",
        "speedup",
    }
    for row in json.loads(json.dumps([row.to_json() for row in found], allow_nan=False)):
        assert keys <= row.keys()
        assert set(row["speedup_interval"]) == {"value", "low", "high"}


def test_totals_join_all_n_and_compare_each_question_with_itself() -> None:
    cells = [
        cell("all", 4, [record("a", 5), record("b", 5, correct=False)]),
        cell("all", 1, [record("a", 5)]),
        cell("baseline", 1, [record("a", 10, correct=False)]),
        cell("baseline", 4, [record("a", 10), record("b", 20, correct=False)]),
    ]
    base, mine = ablation_totals(cells)
    assert (base.configuration, mine.configuration) == ("baseline", "all")
    assert (base.questions, mine.questions) == (3, 3)
    assert (base.accuracy, mine.accuracy) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert mine.accuracy_difference is not None
    assert mine.accuracy_difference.value == pytest.approx(1 / 3)
    assert mine.speedup_interval is not None
    assert mine.speedup_interval.value == pytest.approx(40 / 15)
    assert json.loads(json.dumps(mine.to_json()))["questions"] == 3
    assert ablation_totals([]) == []


def test_of_a_failure_only_its_seconds_are_known() -> None:
    parts = question_breakdown(record("a", 7, failed=True))
    assert (parts.seconds, parts.tokens, parts.phases.foreground) == (7, 0, 0)
