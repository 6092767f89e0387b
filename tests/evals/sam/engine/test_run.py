"""Servers that fail, sleep and are interrupted; no engine is started."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.text import one_spaced
from typer.testing import CliRunner

from agentinfer_lg.cli import bench
from agentinfer_lg.errors import EngineError, UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session, Turn
from agentinfer_lg.evals.sam.engine import run as engine_module
from agentinfer_lg.evals.sam.engine.figures import Counters, Run, TimedRequest
from agentinfer_lg.evals.sam.engine.plan import Piece, Spec
from agentinfer_lg.evals.sam.engine.run import EngineBenchmark, EngineOptions, Engines
from agentinfer_lg.serving.engine.command import ServeOptions

SESSION = Session("s", "g", (Turn(np.array([1], np.int32), np.array([2], np.int32)),))
PIECES = [
    Piece(number=0, batch=1, sessions=(SESSION,), measured=False),
    Piece(number=1, batch=1, sessions=(SESSION,)),
    Piece(number=2, batch=2, sessions=(SESSION, SESSION)),
]


class FakeServer:
    """A server without a process."""

    running: ClassVar[set[str]] = set()
    started_with: ClassVar[dict[str, str]] = {}
    failing: ClassVar[str] = ""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.base_url, self.model, self.pid, self.log_path = "http://engine/v1", "m", None, None
        self.name = _variant(options)

    def start(self) -> None:
        FakeServer.started_with[self.name] = os.environ.get("NUMBA_THREADING_LAYER", "")
        FakeServer.running.add(self.name)

    def wait_ready(self, timeout: float, on_progress: object = None) -> float:
        if self.name == FakeServer.failing:
            msg = "no memory left"
            raise EngineError(msg)
        return 0.0

    def stop(self) -> None:
        FakeServer.running.discard(self.name)


def _variant(options: ServeOptions) -> str:
    if options.sam is not None:
        return "ours"
    given = list(options.extra_args)
    if "--speculative-config" not in given:
        return "none"
    return str(json.loads(given[given.index("--speculative-config") + 1])["method"])


@pytest.fixture(autouse=True)
def _fake_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_THREADING_LAYER", raising=False)
    monkeypatch.setattr(engine_module, "Server", FakeServer)
    monkeypatch.setattr(engine_module, "_run", _fake_run)
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: object())
    FakeServer.running, FakeServer.started_with, FakeServer.failing = set(), {}, ""


async def _fake_run(client: object, spec: Spec, piece: Piece) -> Run:
    if spec == "suffix" and piece.number == 2:
        msg = "the engine broke off an answer"
        raise EngineError(msg)
    request = TimedRequest(
        session="s",
        turn=0,
        prompt_tokens=1,
        cached_tokens=0,
        output=(2,),
        first=1.0,
        last=1.0,
        first_tokens=1,
        chunks=1,
    )
    return Run(
        spec=spec,
        piece=piece.number,
        batch=piece.batch,
        seconds=1.0,
        requests=(request,),
        counters=Counters(drafted=1),
    )


def benchmark(*specs: Spec) -> EngineBenchmark:
    return EngineBenchmark(specs=specs, options=EngineOptions(model="folder"))


class TestBenchmark:
    def test_every_piece_runs_on_every_variant_in_turns(self) -> None:
        bench = benchmark("none", "ngram")
        bench.run(PIECES)
        assert [(run.piece, run.spec) for run in bench.runs] == [
            (1, "ngram"),
            (1, "none"),
            (2, "none"),
            (2, "ngram"),
        ]
        assert not FakeServer.running

    def test_a_server_that_does_not_start_is_left_out(self) -> None:
        FakeServer.failing = "ngram"
        bench = benchmark("none", "ngram", "ours")
        bench.run(PIECES)
        assert bench.left_out == {"ngram": "no memory left"}
        assert {run.spec for run in bench.runs} == {"none", "ours"}

    def test_a_server_that_fails_later_keeps_what_it_did(self) -> None:
        bench = benchmark("none", "suffix")
        bench.run(PIECES)
        assert list(bench.left_out) == ["suffix"]
        assert {(run.piece, run.spec) for run in bench.runs} == {(1, "none"), (1, "suffix"), (2, "none")}

    def test_a_drafter_that_drafts_nothing_is_no_measurement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def silent(client: object, spec: Spec, piece: Piece) -> Run:
            return replace(await _fake_run(client, spec, piece), counters=Counters())

        monkeypatch.setattr(engine_module, "_run", silent)
        bench = benchmark("none", "ours")
        bench.run(PIECES)
        assert bench.left_out["ours"].startswith("it drafted nothing in 1 requests")
        assert {run.spec for run in bench.runs} == {"none"}

    def test_suffix_decoding_needs_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)
        bench = benchmark("none", "suffix")
        bench.run(PIECES)
        assert "arctic-inference" in bench.left_out["suffix"]
        assert "suffix" not in FakeServer.started_with

    def test_an_interrupt_stops_all_servers_and_keeps_the_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def interrupted(client: object, spec: Spec, piece: Piece) -> Run:
            if piece.number == 2:
                raise KeyboardInterrupt
            return await _fake_run(client, spec, piece)

        monkeypatch.setattr(engine_module, "_run", interrupted)
        bench = benchmark("none", "ngram")
        with pytest.raises(KeyboardInterrupt):
            bench.run(PIECES)
        assert len(bench.runs) == 2
        assert not FakeServer.running

    def test_numba_leaves_the_threads_of_the_engine_alone(self) -> None:
        benchmark("none", "ngram").run(PIECES)
        assert FakeServer.started_with == {"none": "workqueue", "ngram": "workqueue"}
        assert "NUMBA_THREADING_LAYER" not in os.environ

    def test_ours_begins_without_a_memory_of_earlier_benchmarks(self) -> None:
        options = engine_module._serve_options("ours", EngineOptions(model="folder"))
        assert options.sam is not None
        assert options.sam.memory == "off"
        assert engine_module._serve_options("none", EngineOptions(model="folder")).sam is None


class TestAwake:
    def test_servers_sleep_unless_they_are_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[tuple[int, signal.Signals]] = []
        monkeypatch.setattr(engine_module.os, "killpg", lambda group, number: sent.append((group, number)))
        with Engines(lambda name: ServeOptions(model=name)) as engines:
            engines.start("none")
            engines._servers["none"].pid = 42  # type: ignore[misc]
            with engines.awake("none"):
                assert sent == [(42, signal.SIGCONT)]
            assert sent[-1] == (42, signal.SIGSTOP)
        assert sent[-1] == (42, signal.SIGCONT)  # or it would not hear that it should end


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--spec", "none,magic"], "--spec takes some of none, ngram, suffix, ours"),
            (["--batch", "1,0"], "--batch takes different whole numbers"),
            (["--batch", "x"], "--batch takes different whole numbers"),
        ],
    )
    def test_wrong_flags(self, tmp_path: Path, arguments: list[str], complaint: str) -> None:
        result = CliRunner().invoke(bench.app, ["engine", "--model", str(tmp_path), *arguments])
        assert isinstance(result.exception, UserInputError)
        assert complaint in str(result.exception)

    def test_figures_are_shown_and_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeServer.failing = "ngram"
        _small_set(monkeypatch)
        file = tmp_path / "figures.json"
        arguments = [
            "--model",
            str(tmp_path),
            "--spec",
            "none,ngram,ours",
            "--batch",
            "1",
            "--json",
            str(file),
        ]
        result = CliRunner().invoke(bench.app, ["engine", *arguments, "--turns", "1", "--warm", "1"])
        assert result.exit_code == 4, result.output
        assert "| 1 | ours |" in one_spaced(result.stdout)
        assert "ngram is left out: no memory left" in result.stderr
        told: dict[str, Any] = json.loads(file.read_text())
        assert {(row["spec"], row["batch"]) for row in told["rows"]} == {("none", 1), ("ours", 1)}
        assert {(each["spec"], each["output_tokens"]) for each in told["requests"]} == {
            ("none", 1),
            ("ours", 1),
        }
        assert told["left_out"] == {"ngram": "no memory left"}
        assert str(tmp_path) not in json.dumps(told["settings"])

    def test_an_interrupt_still_shows_figures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def interrupted(client: object, spec: Spec, piece: Piece) -> Run:
            if piece.number == 3:
                raise KeyboardInterrupt
            return await _fake_run(client, spec, piece)

        monkeypatch.setattr(engine_module, "_run", interrupted)
        _small_set(monkeypatch)
        arguments = [
            "--model",
            str(tmp_path),
            "--spec",
            "none",
            "--batch",
            "1",
            "--turns",
            "1",
            "--warm",
            "1",
        ]
        result = CliRunner().invoke(bench.app, ["engine", *arguments])
        assert result.exit_code == 130
        assert "| 1 | none | 2 (2) |" in one_spaced(result.stdout)
        assert not FakeServer.running


def _small_set(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [Session(f"s{n}", f"g{n}", SESSION.turns) for n in range(40)]
    monkeypatch.setattr(
        "agentinfer_lg.evals.datasets.trajectories.load_sessions", lambda name, *, data, tokenizer: sessions
    )
