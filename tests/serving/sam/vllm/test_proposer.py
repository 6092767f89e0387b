"""AgentSAM in the engine, with vLLM replaced by objects of the same shape: rows, requests, errors, settings, flags."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.engine.command import ServeOptions, build_command
from agentinfer_lg.serving.engine.flags import given_flags
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.vllm.cpu_sampling import repair_cpu_sampling
from agentinfer_lg.serving.sam.vllm.flags import PROPOSER_CLASS, engine_obstacle, sam_flags
from agentinfer_lg.serving.sam.vllm.proposer import AgentSAMProposer
from agentinfer_lg.serving.sam.vllm.series import SamMetrics

LIMIT, VOCABULARY, DRAFT = 64, 1000, 4
NO_HINTS = SessionHints()
STATS = (
    "emitted",
    "drafts",
    "unready",
    "backlog",
    "backlog_tokens",
    "failures",
    "build_seconds",
    "built_tokens",
    "live_sessions",
    "live_tokens",
    "history_tokens",
    "bytes",
)


class RecordingDrafter:
    """Remembers what each request consists of, and drafts the tokens that follow its last one by counting."""

    def __init__(self) -> None:
        self.texts: dict[str, list[int]] = {}
        self.hints: dict[str, SessionHints] = {}
        self.finished: list[str] = []
        self.observed: list[dict[str, float]] = []
        self.step_error: Exception | None = None
        self.start_error: Exception | None = None
        self.draft: list[int] | None = None
        self.steps = 0

    def start(self, request: str, prompt: Any, *, hints: SessionHints = NO_HINTS) -> None:
        if self.start_error:
            raise self.start_error
        assert prompt.dtype == np.int32
        assert request not in self.texts
        self.texts[request] = prompt.tolist()
        self.hints[request] = hints

    def step(
        self,
        requests: Sequence[str],
        verified: Sequence[Sequence[int]],
        *,
        limits: Sequence[int] | None = None,
    ) -> list[list[int]]:
        self.steps += 1
        if self.step_error:
            raise self.step_error
        assert len(requests) == len(verified) == len(limits or ())
        for request, tokens in zip(requests, verified, strict=True):
            self.texts[request] += [int(token) for token in tokens]
        if self.draft is not None:
            return [self.draft for _ in requests]
        return [
            [self.texts[r][-1] + n for n in range(1, k + 1)]
            for r, k in zip(requests, limits or (), strict=True)
        ]

    def observe(self, **facts: float) -> None:
        self.observed.append(facts)

    def finish(self, request: str) -> None:
        self.texts.pop(request, None)
        self.finished.append(request)

    def stats(self) -> SimpleNamespace:
        source = SimpleNamespace(drafted=8, accepted=2)
        numbers = dict.fromkeys(STATS, 6)
        return SimpleNamespace(
            **numbers, drafted=8, accepted=2, sources={"own": source}, marginal_cost={4: 0.25}, passes=3
        )


def configuration(*, rank: int = 0, ranks: int = 1, sam: object = None) -> Any:
    return SimpleNamespace(
        additional_config={"agentinfer": {"sam": sam}} if sam is not None else {},
        speculative_config=SimpleNamespace(num_speculative_tokens=DRAFT),
        model_config=SimpleNamespace(max_model_len=LIMIT, get_vocab_size=lambda: VOCABULARY),
        parallel_config=SimpleNamespace(tensor_parallel_size=ranks, rank=rank),
    )


class FakeEngine:
    """A table of rows like vLLM's, with or without a bound runner."""

    def __init__(self, *, bound: bool = True, rows: int = 8, **config: Any) -> None:
        self.drafter = RecordingDrafter()
        drafter = config.pop("drafter", self.drafter)
        self.proposer = AgentSAMProposer(configuration(**config), drafter=drafter)
        self.tokens = np.zeros((rows, LIMIT), np.int32)
        self.lengths = np.zeros(rows, np.int32)
        self.ids: list[str] = []
        self.texts: dict[str, list[int]] = {}
        self.finished: set[str] = set()
        self.new: list[Any] = []
        self.bound = bound
        self.runner = SimpleNamespace(
            input_batch=self, max_model_len=LIMIT, effective_drafter_max_model_len=LIMIT
        )
        if bound:
            self.proposer.bind_runner(self.runner)

    @property
    def req_ids(self) -> list[str]:
        return self.ids

    def add(
        self, request: str, prompt: list[int] | None, *, xargs: object = None, max_tokens: int = 1000
    ) -> None:
        params = SimpleNamespace(extra_args=xargs, max_tokens=max_tokens)
        self.new.append(SimpleNamespace(req_id=request, prompt_token_ids=prompt, sampling_params=params))
        self.ids.append(request)
        self.texts[request] = list(prompt or [5, 6, 7])

    def remove(self, request: str) -> None:
        """Take a request out, and let the last row move into its place, as vLLM's batch does."""
        place = self.ids.index(request)
        last = self.ids.pop()
        if last != request:
            self.ids[place] = last
        self.finished.add(request)

    def step(self, **sampled: list[int]) -> dict[str, list[int]]:
        """Let each named request get tokens; those not named are at their prompt. Return the drafts by request."""
        for i, request in enumerate(self.ids):
            text = self.texts[request] = [*self.texts[request], *sampled.get(request, [])]
            self.tokens[i] = 0
            self.tokens[i, : len(text)] = text
            self.lengths[i] = len(text)
        if self.bound:
            self.proposer.begin_step(self.scheduled(sampled))
        self.new, self.finished = [], set()
        rows = [sampled.get(request, []) for request in self.ids]
        drafts = self.proposer.propose(rows, self.lengths, self.tokens, slot_mappings=None)
        return dict(zip(self.ids, drafts, strict=True))

    def scheduled(self, sampled: dict[str, list[int]]) -> Any:
        return SimpleNamespace(
            scheduled_new_reqs=list(self.new),
            scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set()),
            finished_req_ids=set(self.finished),
            num_scheduled_tokens={request: max(1, len(sampled.get(request, []))) for request in self.ids},
            scheduled_spec_decode_tokens={r: [0] * (len(t) - 1) for r, t in sampled.items() if len(t) > 1},
        )

    def agree(self) -> None:
        """The drafter has every token of every request that has begun to answer."""
        known = sorted(self.drafter.texts.values())
        assert all(text in known for request, text in self.texts.items() if request in self.ids)


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposers start no threads; metrics have tests of their own."""
    quiet = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr("agentinfer_lg.serving.sam.vllm.proposer.SamMetrics", lambda read: quiet)


BOTH = pytest.mark.parametrize("bound", [True, False], ids=["bound", "by content"])


@BOTH
class TestRows:
    def test_a_prompt_in_progress_gets_nothing(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        engine.add("a", [1, 2, 3])
        engine.add("b", [4, 5, 6])
        assert engine.step(a=[10]) == {"a": [11, 12, 13, 14], "b": []}
        assert engine.step(a=[20], b=[30]) == {"a": [21, 22, 23, 24], "b": [31, 32, 33, 34]}
        engine.agree()

    def test_rows_that_move_keep_their_request(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        for number, name in enumerate("abcd"):
            engine.add(name, [100 + number] * 5)
        engine.step(a=[1], b=[2], c=[3], d=[4])
        started = len(engine.drafter.texts)
        engine.remove("a")
        drafts = engine.step(b=[20, 21], c=[30], d=[40, 41, 42])
        assert drafts == {"b": [22, 23, 24, 25], "c": [31, 32, 33, 34], "d": [43, 44, 45, 46]}
        engine.agree()
        assert len(engine.drafter.texts) == started - bound  # nobody was taken for a new one
        assert engine.proposer.stats()["resyncs"] == 0

    def test_equal_texts_stay_apart(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        engine.add("a", [1, 2, 3])
        engine.add("b", [1, 2, 3])
        engine.step(a=[4], b=[4])
        engine.step(a=[5], b=[6])
        engine.remove("a")
        engine.step(b=[7])
        assert [1, 2, 3, 4, 6, 7] in engine.drafter.texts.values()

    def test_steps_without_us_are_caught_up_with(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        engine.add("a", list(range(1, 12)))
        engine.step(a=[50])
        engine.texts["a"] += [60, 61, 62]  # steps in which vLLM asked nobody
        assert engine.step(a=[70]) == {"a": [71, 72, 73, 74]}
        engine.agree()
        assert engine.proposer.stats()["resyncs"] == 1

    def test_a_preempted_request_goes_on_where_it_was(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        engine.add("a", [1, 2, 3])
        engine.add("b", [4, 5, 6])
        engine.step(a=[10], b=[20])
        engine.ids.remove("b")
        for token in range(11, 16):
            engine.step(a=[token])
        engine.ids.append("b")
        assert engine.step(a=[17])["b"] == []  # its prompt and its answer are computed again
        assert engine.step(a=[18], b=[21])["b"] == [22, 23, 24, 25]
        engine.agree()
        assert engine.proposer.stats()["resyncs"] == 0
        assert engine.drafter.finished == []

    def test_no_draft_reaches_beyond_the_context(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        engine.add("a", [1] * (LIMIT - 4))
        assert engine.step(a=[10]) == {"a": [11, 12]}
        assert engine.step(a=[20]) == {"a": [21]}
        assert engine.step(a=[30]) == {"a": []}
        engine.step(a=[40])  # the row is full

    def test_only_tokens_of_the_model_are_drafted(self, bound: bool) -> None:
        engine = FakeEngine(bound=bound)
        engine.add("a", [1, 2, 3])
        for draft, expected in (([7, VOCABULARY, 8], [7]), ([-1, 2], []), ([1] * 99, [1] * DRAFT)):
            engine.drafter.draft = draft
            assert engine.step(a=[10]) == {"a": expected}

    @settings(deadline=None)
    @given(data=st.data())
    def test_whatever_the_batch_does_the_drafter_has_every_token(
        self, bound: bool, data: st.DataObject
    ) -> None:
        engine = FakeEngine(bound=bound, rows=6)
        number = 0
        for _ in range(data.draw(st.integers(1, 15))):
            action = data.draw(st.sampled_from(["add", "remove", "step", "step", "step"]))
            if action == "add" and len(engine.ids) < 6:
                number += 1
                prompt = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
                engine.add(f"r{number}", [*prompt, 100 + number])
            elif action == "remove" and engine.ids:
                gone = data.draw(st.sampled_from(engine.ids))
                engine.remove(gone)
                engine.new = [new for new in engine.new if new.req_id != gone]
            else:
                room = [r for r in engine.ids if len(engine.texts[r]) < LIMIT - DRAFT - 1]
                tokens = {r: data.draw(st.lists(st.integers(0, 9), max_size=DRAFT + 1)) for r in room}
                drafts = engine.step(**tokens)
                assert all(bool(drafts[r]) == bool(tokens[r]) for r in room)
                known = list(engine.drafter.texts.values())
                assert all(engine.texts[r] in known for r in room if tokens[r])
        assert engine.proposer.stats()["errors"] == 0


class TestRequests:
    def test_start_before_their_prompt_is_computed(self) -> None:
        engine = FakeEngine()
        hints = SessionHints(session_id="s", turn=2, tenant="t")
        engine.add("a", [1, 2, 3], xargs=hints.to_xargs())
        engine.proposer.begin_step(engine.scheduled({}))
        assert engine.drafter.texts == {"a": [1, 2, 3]}
        assert engine.drafter.hints["a"] == hints

    @pytest.mark.parametrize(
        "xargs", [None, "text", 5, ["session_id"], {"session_id": 7}, {"agent_turn": "x"}]
    )
    def test_hints_of_the_wrong_type_are_ignored(self, xargs: object) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3], xargs=xargs)
        assert engine.step(a=[10])["a"]
        assert engine.drafter.hints["a"] == SessionHints()
        assert engine.proposer.stats()["rejected_hints"] == isinstance(xargs, dict)

    def test_are_finished_when_the_engine_says_so(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.step(a=[10])
        engine.remove("a")
        engine.proposer.begin_step(engine.scheduled({}))
        assert engine.drafter.finished == ["a"]
        assert engine.proposer.stats()["requests"] == 0

    def test_without_ids_are_finished_when_they_are_gone_for_long(self) -> None:
        engine = FakeEngine(bound=False)
        engine.add("a", [1, 2, 3])
        engine.add("b", [4, 5, 6])
        engine.step(a=[10], b=[20])
        engine.remove("a")
        for token in range(40):
            engine.step(b=[token])
        assert list(engine.drafter.texts.values()) == [engine.texts["b"]]

    def test_an_id_may_come_again(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.step(a=[10])
        engine.remove("a")
        engine.add("a", [7, 8])
        engine.step(a=[9])
        assert engine.drafter.texts == {"a": [7, 8, 9]}

    def test_one_without_token_ids_gets_no_drafts(self) -> None:
        engine = FakeEngine()
        engine.add("a", None)
        engine.add("b", [1, 2, 3])
        assert engine.step(a=[10], b=[20]) == {"a": [], "b": [21, 22, 23, 24]}
        assert "a" not in engine.drafter.texts

    def test_one_that_began_before_the_binding_is_read_from_the_batch(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.new = []
        assert engine.step(a=[10])["a"] == [11, 12, 13, 14]
        engine.agree()

    def test_no_draft_reaches_beyond_the_last_token_asked_for(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3], max_tokens=4)
        assert engine.step(a=[10])["a"] == [11, 12]  # three are left, and one of them is not drafted
        assert engine.step(a=[20, 21])["a"] == []

    def test_tokens_taken_back_are_no_error(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.step(a=[10, 11, 12])
        engine.texts["a"] = [1, 2, 3, 10]
        assert engine.step(a=[20])["a"]
        engine.agree()


class TestSteps:
    def test_of_decoding_alone_are_timed(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.add("b", [1, 2, 3])
        engine.step(a=[10], b=[20])  # a prompt is among them
        assert engine.drafter.observed == []
        engine.step(a=[10], b=[20, 21, 22])
        (facts,) = engine.drafter.observed
        assert facts.pop("seconds") >= 0
        assert facts == {"requests": 2, "tokens": 4, "drafted": 2, "context": 12}

    def test_near_the_end_of_the_context_are_not_drafted_by_the_runner_itself(self) -> None:
        engine = FakeEngine()
        engine.step()
        assert engine.runner.effective_drafter_max_model_len >= LIMIT + DRAFT
        engine.runner.max_model_len = engine.runner.effective_drafter_max_model_len = (
            32  # found after the start
        )
        engine.add("a", [1] * 29)
        assert engine.step(a=[2])["a"] == [3]
        assert engine.runner.effective_drafter_max_model_len >= 32 + DRAFT

    @pytest.mark.parametrize("call", ["positional", "ascend", "keywords"])
    def test_are_understood_however_they_are_passed(self, call: str) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.step(a=[10])
        engine.tokens[0, 4] = 20
        engine.lengths[0] = 5
        engine.num_tokens_no_spec, engine.token_ids_cpu = engine.lengths, engine.tokens  # type: ignore[attr-defined]
        propose = engine.proposer.propose
        drafts = {
            "positional": lambda: propose([[20]], engine.lengths, engine.tokens, None, 1),
            "ascend": lambda: propose(num_speculative_tokens=4, sampled_token_ids=[[20]]),
            "keywords": lambda: propose(valid_sampled_token_ids=[[20]]),
        }[call]()
        assert drafts == [[21, 22, 23, 24]]


class TestErrors:
    def test_in_a_draft_cost_only_drafts(self, caplog: pytest.LogCaptureFixture) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3], xargs={"session_id": "s"})
        engine.step(a=[10])
        engine.drafter.step_error = RuntimeError("broken")
        with caplog.at_level(logging.ERROR, "agentinfer_lg"):
            assert engine.step(a=[20]) == {"a": []}
            assert engine.step(a=[30]) == {"a": []}
        assert len(caplog.records) == 1
        assert "goes on without its drafts" in caplog.text
        engine.drafter.step_error = None
        assert engine.step(a=[40]) == {"a": [41, 42, 43, 44]}
        engine.agree()
        assert engine.drafter.hints["a"].session_id == "s"
        assert engine.proposer.stats()["errors"] == 2

    def test_that_do_not_end_switch_drafting_off(self, caplog: pytest.LogCaptureFixture) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.drafter.step_error = RuntimeError("broken")
        with caplog.at_level(logging.ERROR, "agentinfer_lg"):
            for _ in range(20):
                assert engine.step(a=[20]) == {"a": []}
        assert engine.drafter.steps < 20
        assert "off until the next start" in caplog.text

    def test_at_the_start_of_a_request_do_not_stop_the_others(self) -> None:
        engine = FakeEngine()
        engine.add("a", [1, 2, 3])
        engine.drafter.start_error = MemoryError()
        assert engine.step(a=[20]) == {"a": []}
        engine.drafter.start_error = None
        assert engine.step(a=[30])["a"]

    def test_in_the_arguments_are_no_exception(self) -> None:
        engine = FakeEngine(bound=False)
        assert engine.proposer.propose([[1], []]) == [[], []]
        assert engine.proposer.propose() == []
        engine.proposer.begin_step(object())

    @pytest.mark.parametrize("failing", ["import_drafter", "make_drafter"])
    def test_when_the_drafter_cannot_be_made_leave_a_server_without_drafts(
        self, failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*arguments: object) -> None:
            msg = "numba is broken"
            raise ImportError(msg)

        monkeypatch.setattr(f"agentinfer_lg.serving.sam.vllm.proposer.{failing}", fail)
        proposer = AgentSAMProposer(configuration())
        wait_until(lambda: bool(proposer.stats()["errors"]))
        assert "could not start" in caplog.text
        assert proposer.propose([[1]], np.zeros(1, np.int32), np.zeros((1, 9), np.int32)) == [[]]
        wait_until(lambda: proposer.stats() == {"ready": 0, "errors": 1})
        proposer.close()


class TestStart:
    def test_requests_are_served_without_drafts_until_the_drafter_is_ready(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, compiled = RecordingDrafter(), threading.Event()

        def make(*arguments: object) -> RecordingDrafter:
            compiled.wait(30)
            return made

        monkeypatch.setattr("agentinfer_lg.serving.sam.vllm.proposer.make_drafter", make)
        monkeypatch.setattr("agentinfer_lg.serving.sam.vllm.proposer.import_drafter", lambda: None)
        engine = FakeEngine(drafter=None)
        engine.add("a", [1, 2, 3], xargs={"session_id": "s"})
        assert engine.step(a=[10]) == {"a": []}
        assert engine.proposer.stats()["ready"] == 0
        compiled.set()
        wait_until(lambda: bool(engine.proposer.stats()["ready"]))
        assert engine.step(a=[20]) == {"a": [21, 22, 23, 24]}
        assert made.texts["a"] == [1, 2, 3, 10, 20]
        assert made.hints["a"].session_id == "s"
        assert engine.proposer.stats()["resyncs"] == 0
        engine.proposer.close()

    def test_figures_are_those_of_the_metrics(self) -> None:
        stats = FakeEngine().proposer.stats()
        assert stats["tokens_per_pass"] == 2
        assert stats["hit_rate"] == 0.25
        assert (stats["accepted_tokens:own"], stats["marginal_cost:4"]) == (2, 0.25)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestProcesses:
    @pytest.mark.parametrize(
        ("rank", "ranks", "drafts"), [(0, 2, True), (1, 2, False), (2, 2, True), (7, 4, False)]
    )
    def test_only_the_one_whose_output_counts_drafts(self, rank: int, ranks: int, drafts: bool) -> None:
        engine = FakeEngine(rank=rank, ranks=ranks)
        engine.add("a", [1, 2, 3])
        assert bool(engine.step(a=[10])["a"]) == drafts
        assert bool(engine.drafter.texts) == drafts

    def test_nothing_heavy_is_imported_before_the_worker_is_made(self) -> None:
        code = (
            "import sys, agentinfer_lg.serving.sam.vllm.extension, agentinfer_lg.serving.sam.vllm.proposer;"
            "print(sorted({m.split('.')[0] for m in sys.modules} & {'numba', 'llvmlite', 'torch', 'langgraph'}))"
        )
        hidden = "import sys; sys.modules['vllm'] = None;"
        done = subprocess.run(
            [sys.executable, "-c", hidden + code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"
        assert "knows requests by their content only" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("prometheus_client") is None, reason="comes with the engine")
class TestMetrics:
    def value(self, name: str, **labels: str) -> float:
        import prometheus_client

        labels = {"engine": "0", **labels}
        return prometheus_client.REGISTRY.get_sample_value(f"agentinfer_sam_{name}", labels) or 0.0

    def test_counters_grow_and_gauges_follow(self) -> None:
        figures = {"emitted_tokens": 5.0, "draft_tokens:own": 4.0, "live_tokens": 9.0, "marginal_cost:8": 0.5}
        metrics = SamMetrics(lambda: figures)
        before = self.value("emitted_tokens_total"), self.value("draft_tokens_total", source="own")
        metrics.publish()
        figures |= {"emitted_tokens": 7.0, "live_tokens": 3.0, "of another version": 1.0}
        metrics.publish()
        metrics.publish()
        assert self.value("emitted_tokens_total") == before[0] + 7
        assert self.value("draft_tokens_total", source="own") == before[1] + 4
        assert (self.value("live_tokens"), self.value("marginal_cost", batch="8")) == (3, 0.5)
        metrics.close()

    def test_are_brought_up_to_date_by_themselves_and_at_the_end(self) -> None:
        figures = {"history_tokens": 1.0}
        metrics = SamMetrics(lambda: figures)
        wait_until(lambda: self.value("history_tokens") == 1)
        figures["history_tokens"] = 2.0
        metrics.close()
        assert self.value("history_tokens") == 2

    def test_an_error_ends_them_and_nothing_else(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail() -> dict[str, float]:
            msg = "broken"
            raise ValueError(msg)

        metrics = SamMetrics(fail)
        wait_until(lambda: "publishes no more figures" in caplog.text)
        metrics.close()

    def test_their_library_may_be_missing(self) -> None:
        code = (
            "import sys; sys.modules['prometheus_client'] = None\n"
            "from agentinfer_lg.serving.sam.vllm.series import SamMetrics\n"
            "m = SamMetrics(lambda: {'drafts': 1}); m.publish(); m.close()"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestBinding:
    @pytest.fixture
    def runner_class(self, monkeypatch: pytest.MonkeyPatch) -> type:
        class GPUModelRunner:
            def __init__(self, proposer: object) -> None:
                self.drafter = proposer
                self.input_batch = self.requests = None
                self.executed: list[object] = []
                self.sampler = object()

            def _sample(self, logits: object, spec_decode_metadata: object) -> object:
                return spec_decode_metadata

            def execute_model(self, scheduler_output: object, more: int = 0) -> int:
                self.executed.append(scheduler_output)
                return more

        module = types.ModuleType("vllm.v1.worker.gpu_model_runner")
        module.GPUModelRunner = GPUModelRunner  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vllm.v1.worker.gpu_model_runner", module)
        monkeypatch.delitem(sys.modules, "agentinfer_lg.serving.sam.vllm.extension", raising=False)
        import agentinfer_lg.serving.sam.vllm.extension  # noqa: F401

        return GPUModelRunner

    class Proposer:
        def __init__(self) -> None:
            self.runner: object = None
            self.steps: list[object] = []

        def bind_runner(self, runner: object) -> None:
            self.runner = runner

        def begin_step(self, scheduler_output: object) -> None:
            self.steps.append(scheduler_output)

        def stats(self) -> dict[str, float]:
            return {"steps": len(self.steps)}

    def test_a_runner_reports_each_step_before_it(self, runner_class: type) -> None:
        proposer = self.Proposer()
        runner = runner_class(proposer)
        assert proposer.runner is runner
        assert runner.execute_model("first", more=5) == 5
        assert proposer.steps == runner.executed == ["first"]

    def test_the_runner_of_another_device_may_replace_its_proposer(self, runner_class: type) -> None:
        class NPUModelRunner(runner_class):  # type: ignore[misc, valid-type]
            def __init__(self, first: object, second: object) -> None:
                super().__init__(first)
                self.drafter = second

        first, second = self.Proposer(), self.Proposer()
        NPUModelRunner(first, second).execute_model("step")
        assert (first.steps, second.steps) == ([], ["step"])
        assert second.runner is not None

    def test_a_step_without_drafts_is_sampled_plainly(self, runner_class: type) -> None:
        runner = runner_class(self.Proposer())
        drafted, empty = (SimpleNamespace(num_draft_tokens=numbers) for numbers in ([0, 2], [0, 0]))
        assert runner._sample("logits", drafted) is drafted
        assert runner._sample("logits", empty) is None
        assert runner._sample("logits", None) is None
        assert runner._sample("logits", "another version") == "another version"

    def test_another_proposer_is_left_alone(self, runner_class: type) -> None:
        runner = runner_class(object())
        assert runner.execute_model("step") == 0
        assert "execute_model" not in vars(runner)

    def test_a_runner_without_the_wanted_parts_is_named(
        self, runner_class: type, caplog: pytest.LogCaptureFixture
    ) -> None:
        del runner_class.execute_model  # type: ignore[attr-defined]
        proposer = self.Proposer()
        runner_class(proposer)
        assert proposer.runner is None
        assert "model runner has no execute_model" in caplog.text

    def test_the_worker_tells_its_counters(self, runner_class: type) -> None:
        from agentinfer_lg.serving.sam.vllm.extension import AgentInferWorkerExtension

        class Worker(AgentInferWorkerExtension):
            model_runner = runner_class(TestBinding.Proposer())

        assert Worker().agentinfer_stats() == {"steps": 0}
        assert AgentInferWorkerExtension().agentinfer_stats() == {}


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
class TestCpuSampling:
    @pytest.fixture
    def sampler(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        import torch

        sampler = types.ModuleType("vllm.v1.sample.rejection_sampler")

        def expand(x: Any, ends: Any, number: int, replace_from: int = 0, replace_to: int = 0) -> Any:
            return torch.full((number,), 7.0)

        def constrain(logits: Any, ends: Any) -> Any:
            return logits.max()

        constrain.__module__ = sampler.__name__
        sampler.expand_batch_to_tokens, sampler.apply_sampling_constraints = expand, constrain  # type: ignore[attr-defined]
        platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
        monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
        monkeypatch.setitem(sys.modules, "vllm.v1.sample.rejection_sampler", sampler)
        return sampler

    @pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
    def test_each_drafted_token_gets_the_value_of_its_request(self, sampler: Any, dtype: str) -> None:
        import torch

        repair_cpu_sampling()
        values = torch.tensor([2, -1, 5, 3], dtype=getattr(torch, dtype))
        ends = torch.tensor([2, 3, 3, 6], dtype=torch.int32)
        found = sampler.expand_batch_to_tokens(values, ends, 6, replace_from=-1, replace_to=1)
        assert (found.dtype, found.tolist()) == (values.dtype, [2, 2, 1, 3, 3, 3])
        assert values.tolist() == [2, -1, 5, 3]

    def test_nothing_to_verify_needs_no_constraints(self, sampler: Any) -> None:
        import torch

        repair_cpu_sampling()
        repair_cpu_sampling()
        empty = torch.empty((0, 5))
        assert sampler.apply_sampling_constraints(empty, None) is empty
        assert sampler.apply_sampling_constraints(torch.tensor([[1.0, 4.0]]), None) == 4

    def test_a_right_function_stays(self, sampler: Any) -> None:
        import torch

        def expand(x: Any, ends: Any, number: int, replace_from: int = 0, replace_to: int = 0) -> Any:
            return x.repeat_interleave(torch.diff(ends, prepend=torch.zeros(1, dtype=ends.dtype)))

        sampler.expand_batch_to_tokens = expand
        repair_cpu_sampling()
        assert sampler.expand_batch_to_tokens is expand

    def test_another_device_is_left_alone(self, sampler: Any) -> None:
        sys.modules["vllm.platforms"].current_platform.is_cpu = lambda: False  # type: ignore[attr-defined]
        before = dict(vars(sampler))
        repair_cpu_sampling()
        assert vars(sampler) == before


class TestSettings:
    def test_come_from_the_additional_config(self) -> None:
        config = SamConfig.parse({"mode": "paper", "top_k": 3, "memory": "off"})
        assert (config.mode, config.top_k, config.memory) == ("paper", 3, "off")
        assert SamConfig.parse(config.to_values()) == config
        assert SamConfig.parse(None).to_values() == {}

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"topk": 3}, "has no setting topk; there are .*top_k"),
            ({"mode": "fast"}, "mode cannot be 'fast': it is one of calibrated, paper"),
            ({"top_k": True}, "top_k cannot be True: it is a whole number"),
            ({"own": 1}, "own cannot be 1: it is true or false"),
            ({"memory": 5}, "memory cannot be 5"),
            ({"max_draft": 0}, "drafts 1 to 64 tokens"),
            ({"marginal_cost": -3}, "0 or more"),
            ({"top_k": 9}, "at most 8 similar sessions"),
            ({"memory_days": 0}, "memory_days must be above 0"),
            ([], "must be a JSON object, got list"),
        ],
    )
    def test_that_are_wrong_stop_the_start_with_a_sentence(self, values: object, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            AgentSAMProposer(configuration(sam=values), drafter=RecordingDrafter())


class TestFlags:
    def flags(
        self, *extra: str, config: SamConfig | None = None, **environ: str
    ) -> tuple[dict[str, str], str]:
        outcome = sam_flags(config or SamConfig(), given=given_flags(extra), environ=environ)
        return dict(outcome.flags), outcome.off or outcome.note

    def test_turn_it_on_by_default(self) -> None:
        flags, note = self.flags("--max-num-seqs", "3")
        assert json.loads(flags["speculative-config"]) == {
            "method": "custom_class",
            "model": PROPOSER_CLASS,
            "num_speculative_tokens": 16,
        }
        assert flags["worker-extension-cls"].endswith(".AgentInferWorkerExtension")
        assert note == ""

    @pytest.mark.parametrize(
        ("extra", "reason"),
        [
            (("--speculative-config", "{}"), "--speculative-config chooses another speculation"),
            (("--speculative_config={}",), "chooses another speculation"),
            (("--speculative-config.method", "ngram"), "chooses another speculation"),
            (("-sc", "{}"), "-sc chooses another speculation"),
            (("--spec-model", "m"), "--spec-model chooses another speculation"),
            (("--async-scheduling",), "cannot draft so with --async-scheduling"),
            (("--async-scheduling", "--port", "1"), "cannot draft so with --async-scheduling"),
            (("-pp", "2"), "across pipeline stages"),
            (("--pipeline-parallel-size=2",), "across pipeline stages"),
            (("--runner", "pooling"), "only text generation"),
            (("--enable-lora",), "does not tell adapters apart"),
            (("--logits-processors", "m:c"), "custom logits processors"),
        ],
    )
    def test_are_left_out_where_the_user_wants_something_else(
        self, extra: tuple[str, ...], reason: str
    ) -> None:
        flags, note = self.flags(*extra)
        assert flags == {}
        assert reason in note

    @pytest.mark.parametrize(
        "extra", [("--no-async-scheduling",), ("-pp", "1"), ("--runner", "generate"), ("--port", "-1")]
    )
    def test_stay_where_nothing_is_in_the_way(self, extra: tuple[str, ...]) -> None:
        assert self.flags(*extra)[1] == ""

    def test_a_config_file_counts(self, tmp_path: Path) -> None:
        file = tmp_path / "serve.yaml"
        file.write_text("port: 1234\nspeculative_config:\n  method: ngram\n")
        assert "chooses another speculation" in self.flags("--config", str(file))[1]
        file.write_text("compilation-config:\n  speculative-config: 1\n")
        assert self.flags("--config", str(file))[1] == ""
        assert self.flags("--config", str(tmp_path / "none.yaml"))[1] == ""

    def test_a_model_runner_that_takes_no_proposer_is_named(self) -> None:
        assert "VLLM_USE_V2_MODEL_RUNNER" in self.flags(VLLM_USE_V2_MODEL_RUNNER="1")[1]

    def test_another_extension_stays(self) -> None:
        flags, note = self.flags("--worker-extension-cls", "m.C")
        assert "worker-extension-cls" not in flags
        assert "sees no session hints" in note

    def test_switched_off_is_plain_vllm(self) -> None:
        command = build_command(
            ServeOptions(model="m", sam=None, sched=None), device="cpu", machine=Machine(python="python")
        )[0]
        assert not [part for part in command if "agentinfer" in part]

    def test_the_installed_engine_can(self) -> None:
        pytest.importorskip("numba")
        assert engine_obstacle() == ""
