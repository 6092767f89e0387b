"""The whole run on fake servers: what is asked, what is kept, how it goes on after it was killed."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_engines import FakeEngines, small_ablation, small_corpus
from support.run_cli import ROOT

from agentinfer_lg.context import Context
from agentinfer_lg.errors import ConfigurationError, EngineError, UserInputError
from agentinfer_lg.evals.agent.ablation.command import _table
from agentinfer_lg.evals.agent.ablation.figures import ablation_rows
from agentinfer_lg.evals.agent.ablation.run import Ablation, Cell, read_cells
from agentinfer_lg.evals.agent.configurations import find_configuration
from agentinfer_lg.evals.agent.engines import EnginePair, TierEngine

CELLS = {f"0-{name}-{n}.json" for name in ("one-shot", "baseline") for n in (1, 2)}


def files(ablation: Ablation) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (ablation.folder / "cells").iterdir()}


def counter(asked: Counter[str]) -> FakeEngines:
    return FakeEngines(on_chat=lambda configuration, prompt: asked.update([configuration]))


def table(cells: Sequence[Cell]) -> list[str]:
    return _table(ablation_rows(cells))


def changed(ablation: Ablation, **options: Any) -> Ablation:
    return replace(ablation, options=replace(ablation.options, **options))


class TestRun:
    def test_each_configuration_gets_servers_and_the_same_questions(self, tmp_path: Path) -> None:
        engines, steps, done = FakeEngines(), list[str](), list[str]()
        ablation = small_ablation(tmp_path, engines, configurations=("one-shot", "baseline", "+collab"))
        ablation.run(on_step=steps.append, on_done=lambda answered: done.append(answered.task.question.id))
        assert [(name, list(servers)) for name, servers in engines.started] == [
            ("one-shot", ["large"]),
            ("baseline", ["large"]),
            ("+collab", ["small", "large"]),
        ]
        cells = read_cells(ablation.folder)
        asked = {(each.configuration, each.n): [q["id"] for q in each.questions] for each in cells}
        for name in ("one-shot", "baseline", "+collab"):
            assert asked[name, 1] == ["made-up-0", "made-up-1"]
            assert asked[name, 2] == ["made-up-2", "made-up-3"]
        assert sorted(done) == sorted(name for ids in asked.values() for name in ids)
        assert steps[:3] == [
            "one-shot: loading the engines",
            "block 1 of 1, one-shot, 1 at once",
            "block 1 of 1, one-shot, 2 at once",
        ]
        assert len(steps) == 9

    def test_a_cell_holds_what_was_answered_and_what_servers_counted(self, tmp_path: Path) -> None:
        engines = FakeEngines()
        small_ablation(tmp_path, engines, configurations=("baseline",)).run()
        cells = read_cells(tmp_path / "run")
        for each in cells:
            assert all(not question["failure"] for question in each.questions)
            assert all(0 < question["seconds"] <= each.seconds + 0.001 for question in each.questions)
            calls = sum(len(question["result"]["trace"]["calls"]) for question in each.questions)
            assert each.servers["large"]["generated_tokens"] == 10 * calls  # the warm-up is not among them
        (_, servers) = engines.started[0]
        assert "made-up4" in servers["large"].chats[0].text  # a question of no cell warms up

    def test_blocks_begin_with_another_configuration_and_have_other_questions(self, tmp_path: Path) -> None:
        engines = FakeEngines()
        small_ablation(tmp_path, engines, blocks=2).run()
        assert [name for name, _ in engines.started] == ["one-shot", "baseline", "baseline", "one-shot"]
        ids = {
            (each.block, each.n, tuple(question["id"] for question in each.questions))
            for each in read_cells(tmp_path / "run")
        }
        assert len(ids) == 4
        assert len({name for _, _, names in ids for name in names}) == 8

    def test_knobs_of_a_configuration_win_and_the_others_stay(self, tmp_path: Path) -> None:
        engines = FakeEngines()
        context = Context(report="brief", max_turns=2, policy="always-small", search_filter="lexical")
        ablation = small_ablation(tmp_path, engines, configurations=("baseline",), context=context)
        ablation.run()
        results = [question["result"] for each in read_cells(ablation.folder) for question in each.questions]
        for result in results:
            assert {tier for tiers in result["tier_per_turn"].values() for tier in tiers} == {"large"}
            assert result["filters"] == result["swaps"] == []
            assert result["turns"] <= 2

    def test_a_dead_server_ends_the_run_without_a_cell(self, tmp_path: Path) -> None:
        def dead() -> None:
            msg = "the engine ended with code 1"
            raise EngineError(msg)

        ablation = small_ablation(tmp_path, FakeEngines(check=dead))
        with pytest.raises(EngineError, match="code 1"):
            ablation.run()
        assert files(ablation) == {}

    def test_too_few_questions_are_told_before_a_server_starts(self, tmp_path: Path) -> None:
        engines = FakeEngines()
        with pytest.raises(
            UserInputError, match="5 questions are needed, and there are 4: lower --concurrency"
        ):
            small_ablation(tmp_path, engines, questions=4).run()
        assert engines.started == []

    def test_no_run_no_cells(self, tmp_path: Path) -> None:
        with pytest.raises(UserInputError, match="holds no cells"):
            read_cells(tmp_path)


class TestResume:
    @pytest.mark.parametrize("last", ["0-one-shot-1.json", "0-baseline-1.json"])
    def test_a_killed_run_goes_on_with_the_cell_that_was_cut_off(self, tmp_path: Path, last: str) -> None:
        child = subprocess.Popen(
            [sys.executable, "-m", "support.fake_engines", str(tmp_path), last], cwd=ROOT / "tests"
        )
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "cells" / last).exists():
            assert child.poll() is None, "the run has ended"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL

        asked = Counter[str]()
        ablation = small_ablation(tmp_path, counter(asked))
        before = files(ablation)
        assert {name for name in before if name.endswith(".json")} < CELLS
        cells = read_cells(ablation.folder)
        shown = table(cells)
        ablation.run()
        assert {name for name in files(ablation) if name.endswith(".json")} == CELLS
        assert before.items() <= files(ablation).items()
        kept = {(each.configuration, each.n) for each in cells}
        assert (
            table([each for each in read_cells(ablation.folder) if (each.configuration, each.n) in kept])
            == shown
        )

        if last.startswith("0-baseline"):
            # The question that warms up, and those of the cell that is missing.
            (cut_off,) = [
                each
                for each in read_cells(ablation.folder)
                if each.n == 2 and each.configuration == "baseline"
            ]
            calls = sum(len(question["result"]["trace"]["calls"]) for question in cut_off.questions)
            assert asked["one-shot"] == 0
            assert calls < asked["baseline"] <= calls + 3
        else:
            assert asked["one-shot"] == 3
            assert asked["baseline"] > 3

    def test_a_finished_run_starts_no_server(self, tmp_path: Path) -> None:
        small_ablation(tmp_path, FakeEngines(), configurations=("one-shot",)).run()
        engines = FakeEngines()
        ablation = small_ablation(tmp_path, engines, configurations=("one-shot",))
        assert ablation.missing == []
        ablation.run()
        assert engines.started == []

    def test_blocks_and_configurations_may_be_added(self, tmp_path: Path) -> None:
        small_ablation(tmp_path, FakeEngines(), configurations=("one-shot",), questions=5).run()
        asked = Counter[str]()
        # There are as many questions as are needed, as the command has it.
        more = small_ablation(tmp_path, counter(asked), blocks=2, questions=9)
        more.run()
        assert asked["one-shot"] == 5  # of the second block, and the one that warms up
        assert len(read_cells(more.folder)) == 8
        assert [each.block for each in read_cells(more.folder)] == [0] * 4 + [1] * 4

    def test_half_a_cell_is_none(self, tmp_path: Path) -> None:
        ablation = small_ablation(tmp_path, FakeEngines(), configurations=("one-shot",))
        ablation.prepare()
        (ablation.folder / "cells" / "0-one-shot-1.part").write_text('{"block": 0, ')
        assert len(ablation.missing) == 2
        ablation.run()
        assert files(ablation).keys() == {"0-one-shot-1.json", "0-one-shot-2.json"}

    @pytest.mark.parametrize(
        ("key", "options"),
        [
            ("concurrency", {"concurrency": (1, 2, 4)}),
            ("min_questions", {"min_questions": 3}),
            ("questions_per_place", {"questions_per_place": 2}),
            ("tool_seconds", {"tool_seconds": 1.0}),
            ("context", {"context": Context(max_turns=9)}),
            (
                "engines",
                {"engines": EnginePair(small=TierEngine(model="a"), large=TierEngine(model="b"))},
            ),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path: Path, key: str, options: dict[str, Any]) -> None:
        engines = FakeEngines()
        ablation = small_ablation(tmp_path, engines)
        ablation.prepare()
        ablation.prepare()
        other = changed(ablation, **options)
        sentence = (
            rf"holds a run with other settings \((questions, )?{key}\)\. Choose another --out, or delete it"
        )
        with pytest.raises(ConfigurationError, match=sentence):
            other.run()
        assert engines.started == []

    def test_other_questions_of_the_same_number_are_refused(self, tmp_path: Path) -> None:
        ablation = small_ablation(tmp_path, FakeEngines())
        ablation.prepare()
        corpus = small_corpus(tmp_path / "other", questions=40)
        shifted = replace(corpus, questions=[*corpus.questions[1:], corpus.questions[0]])
        with pytest.raises(ConfigurationError, match=r"\(questions\)"):
            replace(ablation, corpora=[shifted]).prepare()
        with pytest.raises(ConfigurationError, match=r"\(benchmarks, questions\)"):
            replace(ablation, corpora=[small_corpus(tmp_path, questions=40, name="another")]).prepare()

    def test_more_of_what_a_run_may_have_is_accepted(self, tmp_path: Path) -> None:
        ablation = small_ablation(tmp_path, FakeEngines())
        ablation.prepare()
        written = json.loads((ablation.folder / "settings.json").read_text())
        more = changed(ablation, blocks=3, configurations=(find_configuration("all"),))
        more.prepare()
        assert json.loads((ablation.folder / "settings.json").read_text()) == written
        assert len(more.missing) == 6
