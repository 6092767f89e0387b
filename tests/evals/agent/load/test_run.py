"""The whole agent under load, on servers that only seem to be some."""

import json
from pathlib import Path

import pytest
from support.load_servers import LoadServers, load_run, page

from agentinfer_lg.errors import ConfigurationError, EngineError, UserInputError
from agentinfer_lg.evals.agent.closed_loop import Answered
from agentinfer_lg.evals.agent.configurations import CONFIGURATIONS
from agentinfer_lg.evals.agent.load.figures import load_rows, load_series
from agentinfer_lg.evals.agent.load.run import LoadCell, load_tasks, read_load_cells


class StopError(Exception):
    """Stands for whatever ends a run early."""


def stop_after(count: int) -> tuple[list[Answered], object]:
    seen: list[Answered] = []

    def on_done(answered: Answered) -> None:
        seen.append(answered)
        if len(seen) == count:
            raise StopError

    return seen, on_done


def test_every_configuration_answers_the_same_questions_and_is_watched(tmp_path: Path) -> None:
    servers = LoadServers(patience=3)
    load_run(tmp_path, servers).run(on_step=servers.on_step)
    assert servers.started == ["all", "+compress"]
    assert servers.steps == [
        "all: loading the engines",
        "all, 1 at once",
        "all, 2 at once",
        "+compress: loading the engines",
        "+compress, 1 at once",
        "+compress, 2 at once",
    ]
    cells = read_load_cells(tmp_path / "run")
    assert [(cell.n, cell.configuration) for cell in cells] == [
        (1, "+compress"),
        (1, "all"),
        (2, "+compress"),
        (2, "all"),
    ]
    asked = [[record["id"] for record in cell.questions] for cell in cells]
    assert asked[0] == asked[1]
    assert asked[2] == asked[3]
    assert not {*asked[0]} & {*asked[2]}
    for cell in cells:
        assert cell.samples[0].finished == 0
        assert cell.samples[-1].finished == cell.n
        assert {tier for sample in cell.samples for tier in sample.servers} == {"small", "large"}
    row = {(row.n, row.configuration): row for row in load_rows(cells)}[2, "all"]
    assert (row.questions, row.failures, row.gaps) == (2, 0, 0)
    assert row.hit_rate == pytest.approx(0.4)
    assert row.waiting == pytest.approx(2)
    assert {price.tier for price in row.prices} == {"small", "large"}
    assert not load_rows(cells)[0].prices


def test_a_cell_that_was_cut_off_is_run_again_and_no_other(tmp_path: Path) -> None:
    _, on_done = stop_after(2)
    with pytest.raises(StopError):
        load_run(tmp_path, LoadServers()).run(on_done=on_done)
    assert [cell.n for cell in read_load_cells(tmp_path / "run")] == [1]
    first = (tmp_path / "run" / "cells" / "all-1.json").read_bytes()

    servers = LoadServers()
    again = load_run(tmp_path, servers)
    assert again.missing == {"all": [2], "+compress": [1, 2]}
    again.run(on_step=servers.on_step)
    assert "all, 1 at once" not in servers.steps
    assert (tmp_path / "run" / "cells" / "all-1.json").read_bytes() == first
    assert again.missing == {}
    again.run()
    assert servers.started == ["all", "+compress"]


def test_a_page_that_vanishes_midway_is_a_gap(tmp_path: Path) -> None:
    def vanishing(look: int) -> str:
        return page(running=1, cache_queries=10 * look, cache_hits=5 * look) if not 3 <= look <= 4 else ""

    servers = LoadServers(patience=6, page_of=vanishing)
    load_run(tmp_path, servers, configurations=[CONFIGURATIONS["baseline"]], concurrency=[2]).run(
        on_step=servers.on_step
    )
    (cell,) = read_load_cells(tmp_path / "run")
    series = load_series(cell, window_seconds=60)
    assert [value is None for value in series.running[:6]] == [False, False, True, True, False, False]
    assert series.hit_rate[2] is None
    assert series.hit_rate[5] == pytest.approx(0.5)
    assert load_rows([cell])[0].gaps == 2


def test_servers_without_such_a_page_are_measured_from_outside(tmp_path: Path) -> None:
    servers = LoadServers(page_of=lambda look: "nothing of vLLM's")
    load_run(tmp_path, servers, configurations=[CONFIGURATIONS["baseline"]], concurrency=[1]).run(
        on_step=servers.on_step
    )
    (row,) = load_rows(read_load_cells(tmp_path / "run"))
    assert row.qps > 0
    assert row.hit_rate is None
    assert row.waiting is None
    assert row.prices == ()


def test_a_server_that_died_leaves_no_cell(tmp_path: Path) -> None:
    def dead() -> None:
        raise EngineError("no memory left")

    with pytest.raises(EngineError):
        load_run(tmp_path, LoadServers(check=dead)).run()
    with pytest.raises(UserInputError, match="agentinfer bench load --out"):
        read_load_cells(tmp_path / "run")


def test_other_settings_are_refused_and_other_configurations_are_not(tmp_path: Path) -> None:
    load_run(tmp_path, LoadServers()).prepare()
    load_run(tmp_path, LoadServers(), configurations=[CONFIGURATIONS["baseline"]]).prepare()
    with pytest.raises(ConfigurationError, match="concurrency"):
        load_run(tmp_path, LoadServers(), concurrency=(1, 3)).prepare()
    with pytest.raises(ConfigurationError, match="sample_seconds"):
        load_run(tmp_path, LoadServers(), sample_seconds=9.0).prepare()


def test_too_few_questions_are_told_before_anything_runs(tmp_path: Path) -> None:
    servers = LoadServers()
    with pytest.raises(
        UserInputError, match=r"13 questions are needed, and there are 8: lower --concurrency"
    ):
        load_run(tmp_path, servers, concurrency=(4, 8)).run()
    assert servers.started == []


def test_questions_of_each_n_are_other_ones(tmp_path: Path) -> None:
    run = load_run(tmp_path, LoadServers(), concurrency=(2, 1, 4))
    ids = [task.question.id for n in (2, 1, 4) for task in load_tasks(run.corpora, run.options, n)]
    assert len(ids) == 7
    assert ids == [question.id for question in run.corpora[0].questions[:7]]


def test_a_cell_survives_its_file(tmp_path: Path) -> None:
    servers = LoadServers(patience=2)
    load_run(tmp_path, servers, configurations=[CONFIGURATIONS["all"]], concurrency=[1]).run(
        on_step=servers.on_step
    )
    (cell,) = read_load_cells(tmp_path / "run")
    assert LoadCell.from_json(json.loads(json.dumps(cell.to_json(), allow_nan=False))) == cell
