"""The study: conditions on the same questions, kept in a folder, and what comes out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.fake_openai import FakeOpenAI
from typer.testing import CliRunner

from agentinfer_lg.cli import app
from agentinfer_lg.context import Context
from agentinfer_lg.errors import ConfigurationError, EngineError, UserInputError
from agentinfer_lg.evals.agent.closed_loop import Answered, Corpus
from agentinfer_lg.evals.agent.configurations import Configuration
from agentinfer_lg.evals.agent.engines import AgentEngines, EnginePair, TierEngine
from agentinfer_lg.evals.agent.self_evaluation import run as self_evaluation
from agentinfer_lg.evals.agent.self_evaluation.figures import self_evaluation_rows
from agentinfer_lg.evals.agent.self_evaluation.run import (
    Condition,
    SelfEvaluation,
    SelfEvaluationCell,
    SelfEvaluationOptions,
    read_cells,
)
from agentinfer_lg.evals.datasets.closed_world.world import generate_world, write_world

PAIR = EnginePair(small=TierEngine(model="one"), large=TierEngine(model="other"))


@dataclass(slots=True)
class Engines:
    """Starts one server for both tiers, which may die."""

    server: FakeOpenAI
    loaded: list[str] = field(default_factory=list)
    """Configurations for which it was started."""

    @contextmanager
    def __call__(self, pair: EnginePair, configuration: Configuration) -> Iterator[AgentEngines]:
        """Start it."""
        self.loaded.append(configuration.name)
        yield AgentEngines(urls={"small": self.server.url, "large": self.server.url}, check=self.check)

    def check(self) -> None:
        """Tell whether it has died."""
        if self.server.dead:
            msg = "the engine has died"
            raise EngineError(msg)


@pytest.fixture
def engines() -> Iterator[Engines]:
    with FakeOpenAI(models=("small", "large")) as server:
        yield Engines(server)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    docs = tmp_path_factory.mktemp("world")
    world = generate_world(seed=1, questions=4, languages=("en",), hops=(2,))
    write_world(world, docs)
    return Corpus(name="closed-world", questions=world.questions, docs=docs)


def options(**changes: Any) -> SelfEvaluationOptions:
    context = Context(max_seekers=1, max_turns=3, report="brief", progress_checks="all")
    made = {
        "questions": 3,
        "parallel": 2,
        "rates": (0.0, 1.0),
        "tool_seconds": 0.0,
        "context": context,
        **changes,
    }
    return SelfEvaluationOptions(engines=PAIR, **made)


def study(corpus: Corpus, folder: Path, engines: Engines, **changes: Any) -> SelfEvaluation:
    return SelfEvaluation(corpora=[corpus], options=options(**changes), folder=folder, start_engines=engines)


class Killed(Exception):  # noqa: N818  # stands for a signal
    """The process ended."""


def test_a_run_that_was_killed_goes_on_with_what_is_missing(
    corpus: Corpus, tmp_path: Path, engines: Engines
) -> None:
    done: list[str] = []

    def kill(answered: Answered) -> None:
        done.append(answered.task.question.id)
        if len(done) == 3:
            raise Killed

    with pytest.raises(Killed):
        study(corpus, tmp_path, engines, rates=(0.0,)).run(on_done=kill)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    assert len(kept) >= 3
    again: list[str] = []
    study(corpus, tmp_path, engines, rates=(0.0,)).run(
        on_done=lambda answered: again.append(answered.task.question.id)
    )
    assert len(again) == 6 - len(kept)
    files = {file.name: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    assert len(files) == 6
    assert kept.items() <= files.items()
    assert engines.loaded == ["all", "all"], "all conditions on the same servers"
    asked = len(engines.server.requests)
    study(corpus, tmp_path, engines, rates=(0.0,)).run()
    assert engines.loaded == ["all", "all"], "nothing is missing, so nothing is loaded"
    assert len(engines.server.requests) == asked


def test_the_order_of_the_conditions_rotates_from_group_to_group(
    corpus: Corpus, tmp_path: Path, engines: Engines
) -> None:
    order = [(condition.name, len(tasks)) for condition, tasks in study(corpus, tmp_path, engines).missing]
    assert order == [
        ("0-verifier", 2), ("0-alone", 2), ("1-verifier", 2), ("1-alone", 2),
        ("0-alone", 1), ("1-verifier", 1), ("1-alone", 1), ("0-verifier", 1),
    ]  # fmt: skip


def test_rates_may_be_added_and_nothing_else_changed(
    corpus: Corpus, tmp_path: Path, engines: Engines
) -> None:
    study(corpus, tmp_path, engines, questions=1, rates=(0.0,)).run()
    assert len(study(corpus, tmp_path, engines, questions=1, rates=(0.0, None)).missing) == 2
    for changes in ({"questions": 2}, {"seed": 5}, {"parallel": 3}):
        with pytest.raises(ConfigurationError, match="other settings"):
            study(corpus, tmp_path, engines, **{"questions": 1, **changes}).run()
    with pytest.raises(UserInputError, match="--questions"):
        study(corpus, tmp_path, engines, questions=4).run()


def test_checks_are_forced_and_every_condition_has_a_tenant(
    corpus: Corpus, tmp_path: Path, engines: Engines
) -> None:
    study(corpus, tmp_path, engines, questions=1, rates=(0.0, 1.0, None)).run()
    cells = read_cells(tmp_path)
    assert len(cells) == 6
    assert all(cell.question["result"] and cell.checks for cell in cells)
    for cell in cells:
        wrong = {check["oracle"] != (check["told"] == "TRUE") for check in cell.checks}
        assert cell.rate is None or wrong == {cell.rate == 1.0}
        told = [check["told"] for check in cell.checks]
        read = [check["verdict"] for check in cell.question["result"]["progress_checks"]["checks"]]
        assert read[: len(told)] == told
    tenants = {chat.body["vllm_xargs"].get("agent_tenant") for chat in engines.server.chats}
    assert tenants == {cell.condition.name for cell in cells}


def test_a_server_that_dies_leaves_no_answers_of_its_last_questions(
    corpus: Corpus, tmp_path: Path, engines: Engines
) -> None:
    def killing(step: str) -> None:
        if step.startswith("0-alone"):
            engines.server.kill()

    with pytest.raises(EngineError, match="died"):
        study(corpus, tmp_path, engines).run(on_step=killing)
    assert {cell.condition.name for cell in read_cells(tmp_path)} == {"0-verifier"}


def test_settings_without_checks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_seekers"):
        options(context=Context())
    with pytest.raises(ConfigurationError, match="max_large_steps"):
        options(context=Context(max_seekers=1, max_large_steps=0))


def check(
    oracle: bool, said: str, told: str, *, tier: str = "small", flipped: bool = False
) -> dict[str, Any]:
    return {"turn": 0, "tier": tier, "oracle": oracle, "said": said, "told": told, "flipped": flipped}


def cell(
    rate: float | None, verifier: bool, number: int, *, correct: bool, tokens: int, **more: Any
) -> SelfEvaluationCell:
    call = {"agent": "a", "role": "think", "turn": 0, "tier": "small", "started": 0.0, "seconds": 1.0}
    usage = {"prompt_tokens": tokens - 10, "cached_tokens": tokens // 2, "output_tokens": 10}
    result: Mapping[str, Any] = {
        "trace": {"calls": [call | usage], "tools": [], "rounds": []},
        "sources": [],
        "findings": [],
        "seconds": {"total": 1.0},
        "tier_per_turn": {"a": ["small", "small", "small", "large"]},
        "escalations": [{}],
        "ran_out": [],
    }
    question = {
        "benchmark": "b", "id": str(number), "evidence": ["x"], "correct": correct, "f1": float(correct), "seconds": 1.0,
        "result": result,
    }  # fmt: skip
    return SelfEvaluationCell(rate=rate, verifier=verifier, question={**question, **more}, checks=[])


def test_rows_compare_with_perfect_checks() -> None:
    cells = [cell(0.0, True, number, correct=True, tokens=100) for number in range(4)]
    cells += [cell(0.3, False, number, correct=number > 1, tokens=150) for number in range(4)]
    reference, other = self_evaluation_rows(cells)
    assert (reference.rate, reference.verifier, reference.questions) == (0.0, True, 4)
    assert reference.accuracy_difference is not None
    assert reference.accuracy_difference.value == 0
    assert (other.accuracy, other.f1, other.turns, other.large_share, other.escalations) == (
        0.5,
        0.5,
        4,
        0.25,
        1,
    )
    assert (other.tokens, other.computed_tokens) == (150, 75)
    assert other.accuracy_difference is not None
    assert other.accuracy_difference.value == -0.5
    assert other.accuracy_difference.low < -0.5 < other.accuracy_difference.high
    assert other.tokens_ratio is not None
    assert (other.tokens_ratio.value, other.tokens_ratio.low, other.tokens_ratio.high) == (1.5, 1.5, 1.5)


def test_without_a_reference_nothing_is_compared() -> None:
    (row,) = self_evaluation_rows([cell(None, True, 0, correct=True, tokens=100)])
    assert (row.accuracy_difference, row.tokens_ratio, row.observed_error) == (None, None, None)


def test_a_question_that_failed_is_wrong_and_has_no_tokens() -> None:
    cells = [cell(0.0, True, number, correct=True, tokens=100) for number in range(2)]
    failed = cell(0.1, True, 0, correct=False, tokens=0, result=None, failure="no")
    row = self_evaluation_rows([*cells, failed, cell(0.1, True, 1, correct=True, tokens=300)])[1]
    assert (row.failures, row.accuracy) == (1, 0.5)
    assert row.tokens_ratio is not None
    assert row.tokens_ratio.value == 3


def test_errors_of_the_checks_are_told_apart() -> None:
    checks = [
        check(True, "TRUE", "TRUE"),
        check(True, "FALSE", "FALSE"),
        check(True, "UNREADABLE", "UNREADABLE"),
        check(False, "TRUE", "TRUE"),
        check(False, "FALSE", "FALSE"),
        check(False, "UNREADABLE", "UNREADABLE", tier="large"),
        check(False, "TRUE", "TRUE", flipped=True),
        check(False, "TRUE", "FALSE"),
    ]
    (row,) = self_evaluation_rows([replace(cell(None, True, 0, correct=True, tokens=9), checks=checks)])
    assert (row.checks, row.flips, row.own_unreadable) == (8, 1, 2)
    assert row.observed_error == 3 / 8
    assert row.own_false_positives == 3 / 5
    assert row.own_false_negatives == 1 / 3


def test_rows_are_in_the_order_of_the_rates() -> None:
    cells = [
        cell(rate, verifier, 0, correct=True, tokens=99)
        for rate in (None, 0.2, 0.0)
        for verifier in (False, True)
    ]
    rows = self_evaluation_rows(cells)
    assert [(row.verifier, row.rate) for row in rows] == [
        (verifier, rate) for verifier in (True, False) for rate in (0.0, 0.2, None)
    ]


def test_names_of_conditions_are_names_of_files() -> None:
    names = {Condition(rate=rate, verifier=on).name for rate in (None, 0.0, 0.05) for on in (True, False)}
    assert names == {
        "own-verifier", "own-alone", "0-verifier", "0-alone", "0.05-verifier", "0.05-alone",
    }  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in `tmp_path / "run"` with small settings; the last of each flag counts."""
    monkeypatch.setattr(self_evaluation, "SelfEvaluation", partial(SelfEvaluation, start_engines=engines))

    def call(*more: str) -> Result:
        arguments = [
            "bench", "self-evaluation", "--small-model", "one", "--large-model", "other", "--questions", "1",
            "--rates", "0,own", "--hops", "2", "--languages", "en", "--set", "max_turns=2", "--tool-seconds", "0",
            "--out", str(tmp_path / "run"), *more,
        ]  # fmt: skip
        return CliRunner().invoke(app, arguments)

    return call


def test_the_command_prints_a_table_and_writes_rows(tmp_path: Path, command: Callable[..., Result]) -> None:
    result = command("--json", str(tmp_path / "rows.json"))
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 6
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["0", "own", "0", "own"]
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["rows"] == [
        row.to_json() | as_lists(row) for row in self_evaluation_rows(read_cells(tmp_path / "run"))
    ]
    assert written["settings"]["questions"] == 1


def test_a_run_of_other_settings_stays_as_it_is(tmp_path: Path, command: Callable[..., Result]) -> None:
    assert command("--rates", "0").exit_code == 0
    before = (tmp_path / "run" / "rows.json").read_text()
    refused = command("--rates", "0", "--max-model-len", "2048")
    assert isinstance(refused.exception, ConfigurationError)
    assert "| error rate" not in refused.output
    assert (tmp_path / "run" / "rows.json").read_text() == before


def as_lists(row: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(row)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("rates", ["", "x", "1.5", "-0.1", "0,0", "nan", "own,own"])
def test_rates_are_numbers_from_0_to_1(rates: str, tmp_path: Path) -> None:
    arguments = ["--small-model", "a", "--large-model", "b", "--rates", rates, "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["bench", "self-evaluation", *arguments])
    assert result.exit_code != 0
    assert isinstance(result.exception, UserInputError) or "--rates" in result.output


def test_the_chart_has_both_lines(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from agentinfer_lg.evals.agent.self_evaluation.plots import draw_self_evaluation

    cells = [
        replace(
            cell(rate, verifier, 0, correct=True, tokens=100),
            checks=[check(True, "TRUE", "TRUE")],
        )
        for rate in (0.0, 0.3, None)
        for verifier in (True, False)
    ]
    (file,) = draw_self_evaluation(self_evaluation_rows(cells), tmp_path / "plots")
    assert file.read_text(encoding="utf-8").startswith("<?xml")
    (again,) = draw_self_evaluation(self_evaluation_rows(cells[:1]), tmp_path / "one")
    assert again.stat().st_size > 0
