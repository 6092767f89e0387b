from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.engine_parts import make_request, make_scheduler_parts
from agentinfer_lg.evals.sched.replay.hardware import Hardware
from agentinfer_lg.evals.sched.replay.schedulers import SCHEDULERS, find_scheduler
from agentinfer_lg.evals.sched.replay.simulation import SimulationResult, simulate
from agentinfer_lg.evals.sched.replay.workload import Call, Workload, WorkloadSession
from agentinfer_lg.hints import SessionHints

SIZE = 16
MACHINE = Hardware(
    name="small",
    weight_bytes=1e9,
    kv_bytes=1e4,
    token_flops=2e9,
    attention_flops=1e5,
    flops_per_second=1e12,
    bytes_per_second=1e11,
    overhead_seconds=0.01,
    kv_tokens=1600,
    step_tokens=512,
    max_seqs=16,
)
RIVALS = tuple(name for name in SCHEDULERS if not name.startswith("agentsched"))


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing torch and vLLM warns of what they deprecate
        pytest.importorskip("vllm.v1.core.sched.scheduler")
        make_scheduler_parts(blocks=100, block_size=SIZE, max_model_len=1600, step_tokens=512, max_seqs=1)


class _Drive:
    """A scheduler, driven by hand: every step takes a second."""

    def __init__(self, name: str, *, blocks: int = 100, max_seqs: int = 16, **options: Any) -> None:
        self.now = 0.0
        entry = find_scheduler(name)
        parts = make_scheduler_parts(
            blocks=blocks, block_size=SIZE, max_model_len=1600, step_tokens=512, max_seqs=max_seqs
        )
        self.scheduler = (
            entry(lambda: self.now, parts, **options) if options else entry(lambda: self.now, parts)
        )
        self._requests: dict[str, Any] = {}
        self.admitted: list[str] = []

    def add(self, name: str, tokens: int, *, content: int = 0, output: int = 2, **hints: Any) -> None:
        """Add a request; those with the same content extend each other."""
        hashes = [
            (content << 20 | number).to_bytes(8, "little") for number in range((tokens + output) // SIZE)
        ]
        request = make_request(
            name,
            prompt_tokens=[0] * tokens,
            output_tokens=output,
            arrival=self.now,
            xargs=SessionHints(**hints).to_xargs(),
            hasher=lambda request: hashes[len(request.block_hashes) : request.num_tokens // SIZE],
        )
        self._requests[name] = request
        self.scheduler.add_request(request)

    def step(self) -> list[str]:
        """Take a step; return what was admitted."""
        from vllm.v1.outputs import ModelRunnerOutput

        output = self.scheduler.schedule()
        names = list(output.num_scheduled_tokens)
        self.now += 1.0
        ready = [
            [0] if self._requests[name].num_computed_tokens >= self._requests[name].num_tokens else []
            for name in names
        ]
        runner = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: at for at, name in enumerate(names)},
            sampled_token_ids=ready,
        )
        self.scheduler.update_from_output(output, runner)
        new = [request.req_id for request in output.scheduled_new_reqs]
        self.admitted.extend(new)
        return new

    def finish(self, name: str) -> None:
        """Step until a request has ended."""
        for _ in range(400):
            if self._requests[name].is_finished():
                return
            self.step()
        pytest.fail(f"{name} does not end")


def _session(number: int, *, calls: int, grows: int, one_shots: int = 0) -> WorkloadSession:
    made = []
    ids = np.arange(200, dtype=np.int64) + (number << 32)
    for index in range(calls):
        tokens = 40 + grows * index
        last = index == calls - 1
        shots = tuple(
            Call(
                prompt_tokens=60,
                output_tokens=3,
                block_ids=np.arange(3, dtype=np.int64) + ((number * 100 + index * 10 + shot + 1) << 40),
                role="qa",
                last=True,
            )
            for shot in range(0 if last else one_shots)
        )
        made.append(
            Call(
                prompt_tokens=tokens,
                output_tokens=5,
                block_ids=ids[: (tokens + 5) // SIZE],
                gap_seconds=0.5 if index else 0.0,
                known_tokens=(tokens - grows) // SIZE * SIZE if index else 0,
                last=last,
                one_shots=shots,
            )
        )
    return WorkloadSession(name=f"session-{number}", calls=tuple(made))


def _replay(name: str, *, sessions: int = 8, settings: dict[str, Any] | None = None) -> SimulationResult:
    workload = Workload(
        name="small",
        block_size=SIZE,
        sessions=tuple(_session(number, calls=6, grows=90, one_shots=1) for number in range(sessions)),
        start_seconds=tuple(0.1 * place for place in range(5)),
    )
    return simulate(workload, find_scheduler(name), MACHINE, max_model_len=1600, settings=settings)


@pytest.mark.parametrize("name", RIVALS)
def test_every_scheduler_serves_everything(name: str) -> None:
    result = _replay(name)

    assert len(result.sessions) == 8
    assert len(result.calls) == 8 * (6 + 5)
    assert all(call.finished > call.admitted >= call.arrival for call in result.calls)


@pytest.mark.parametrize("name", RIVALS)
def test_nothing_stays_pinned_or_remembered(name: str) -> None:
    entry = find_scheduler(name)
    made: list[Any] = []

    def make(clock: Any, parts: Any) -> Any:
        made.append(entry(clock, parts))
        return made[0]

    workload = Workload(
        name="small",
        block_size=SIZE,
        sessions=(_session(1, calls=4, grows=60, one_shots=2),),
        start_seconds=(0.0,),
    )
    simulate(workload, make, MACHINE, max_model_len=1600)

    scheduler = made[0]
    assert scheduler.free_blocks * SIZE == scheduler.total_tokens
    left = [
        key
        for key, value in vars(scheduler).items()
        if key.startswith("_") and isinstance(value, dict) and value
    ]
    assert left in ([], ["_programs"]) or not any(key in left for key in ("_hints", "_arrivals", "_hits"))


def test_fcfs_is_what_vllm_does() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    workload = Workload(
        name="small",
        block_size=SIZE,
        sessions=tuple(_session(number, calls=5, grows=90) for number in range(6)),
        start_seconds=(0.0, 0.1, 0.2, 0.3),
    )
    ours = simulate(workload, find_scheduler("fcfs"), MACHINE, max_model_len=1600)
    theirs = simulate(workload, lambda clock, parts: Scheduler(**parts), MACHINE, max_model_len=1600)

    assert [(call.session, call.index, call.admitted, call.finished) for call in ours.calls] == [
        (call.session, call.index, call.admitted, call.finished) for call in theirs.calls
    ]


def test_unknown_name() -> None:
    with pytest.raises(UserInputError, match="there is no scheduler 'best'"):
        find_scheduler("best")


def test_looking_at_the_list_does_not_import_vllm() -> None:
    code = "import sys; import agentinfer_lg.evals.sched.replay.schedulers; sys.exit('vllm' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), min_size=1, max_size=8), st.integers(1, 20))
def test_hit_estimate_is_what_vllm_finds(before: Sequence[tuple[int, int]], wanted: int) -> None:
    drive = _SHARED.setdefault("drive", _Drive("lpm", blocks=40))
    number = _SHARED["number"] = _SHARED.get("number", 0) + 1
    for at, (content, blocks) in enumerate(before):
        drive.add(f"{number}-{at}", blocks * SIZE + 3, content=content)
        drive.finish(f"{number}-{at}")
    for content in range(4):
        name = f"{number}-probe-{content}"
        drive.add(name, wanted * SIZE, content=content)
        request = drive._requests[name]
        found = drive.scheduler.kv_cache_manager.coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_tokens - 1
        )[1]
        assert drive.scheduler.hit_tokens(request) == found
        assert drive.scheduler.hit_tokens(request) == found
        drive.finish(name)


_SHARED: dict[str, Any] = {}


def _order(drive: _Drive, names: Sequence[str]) -> list[str]:
    for name in names:
        drive.finish(name)
    return [name for name in drive.admitted if name in names]


def test_sjf_takes_the_shortest_prompt() -> None:
    drive = _Drive("sjf-prompt", max_seqs=1)
    for content, (name, tokens) in enumerate((("long", 300), ("short", 50), ("middle", 150))):
        drive.add(name, tokens, content=content)

    assert _order(drive, ["long", "short", "middle"]) == ["short", "middle", "long"]


def test_sjf_by_uncached_tokens_takes_what_is_nearly_done() -> None:
    drive = _Drive("sjf-uncached", max_seqs=1)
    drive.add("first", 300, content=7)
    drive.finish("first")
    drive.add("short", 100, content=1)
    drive.add("cached", 310, content=7)

    assert _order(drive, ["short", "cached"]) == ["cached", "short"]


def test_sjf_does_not_pass_over_a_request_for_ever() -> None:
    from agentinfer_lg.evals.sched.replay.schedulers.sjf import ShortestJobFirst

    for limit, expected in ((0, 9), (3, 3)):
        drive = _Drive("sjf-prompt", max_seqs=1)
        parts = make_scheduler_parts(
            blocks=100, block_size=SIZE, max_model_len=1600, step_tokens=512, max_seqs=1
        )
        drive.scheduler = ShortestJobFirst(lambda drive=drive: drive.now, parts, max_skip_steps=limit)
        drive.add("long", 400, content=99)
        for number in range(9):
            drive.add(f"short-{number}", 40, content=number)
        drive.finish("long")
        assert len(drive.admitted) - 1 == expected


def test_lpm_takes_the_longest_match_and_keeps_one_of_those_that_begin_alike() -> None:
    drive = _Drive("lpm", max_seqs=1)
    drive.add("before", 200, content=5)
    drive.finish("before")
    drive.add("alike-1", 100, content=1)
    drive.add("alike-2", 120, content=1)
    drive.add("cold", 100, content=2)
    drive.add("hot", 300, content=5)

    assert _order(drive, ["alike-1", "alike-2", "cold", "hot"]) == ["hot", "alike-1", "alike-2", "cold"]


def test_lpm_is_first_come_first_served_when_many_wait() -> None:
    drive = _Drive("lpm", max_seqs=1)
    drive.add("before", 200, content=5)
    drive.finish("before")
    for number in range(129):
        drive.add(f"cold-{number}", 20, content=number + 10)
    drive.add("hot", 200, content=5)

    assert drive.step() == ["cold-0"]


@pytest.mark.parametrize(("name", "first"), [("lpm", False), ("lpm-aging", True)])
def test_aging_lets_a_cold_request_pass_hot_ones(name: str, first: bool) -> None:
    drive = _Drive(name, max_seqs=1)
    drive.add("hot", 200, content=5)
    drive.finish("hot")
    drive.add("cold", 100, content=1)
    for number in range(4):
        drive.add(f"hot-{number}", 200, content=5)
        drive.finish(f"hot-{number}")
        if "cold" in drive.admitted:
            break

    assert ("cold" in drive.admitted) == first


def test_plas_puts_programs_with_much_service_behind() -> None:
    drive = _Drive("plas", max_seqs=1)
    drive.add("a-0", 50, content=1, output=40, session_id="a")
    drive.finish("a-0")
    drive.add("a-1", 60, content=1, session_id="a")
    drive.add("a-shot", 60, content=2, session_id="a#0.0", role="qa", final=True)
    drive.add("b-0", 400, content=3, session_id="b")

    assert _order(drive, ["a-1", "a-shot", "b-0"]) == ["b-0", "a-1", "a-shot"]


def test_plas_demotes_a_call_that_has_used_up_its_turn() -> None:
    drive = _Drive("plas")
    drive.add("long", 50, output=60, session_id="a")
    drive.finish("long")

    assert drive.scheduler.agentinfer_stats()["demotions"] == 3  # after 8, 16 and 32 seconds


def test_plas_promotes_what_has_waited_eight_times_as_long_as_it_ran() -> None:
    drive = _Drive("plas", max_seqs=1)
    drive.add("a-0", 50, content=1, output=18, session_id="a")
    drive.finish("a-0")
    drive.add("a-1", 60, content=1, session_id="a")
    for number in range(60):
        drive.add(f"new-{number}", 40, content=number + 10, output=6, session_id=f"n{number}")
        drive.finish(f"new-{max(0, number - 1)}")
        if "a-1" in drive.admitted:
            break

    assert drive.scheduler.agentinfer_stats()["promotions"] == 1
    assert 8 * 18 <= drive.now - 18 <= 8 * 18 + 20


@pytest.mark.parametrize(("name", "kept"), [("fcfs", False), ("continuum-code", True)])
def test_continuum_keeps_a_context_for_two_seconds(name: str, kept: bool) -> None:
    drive = _Drive(name, blocks=60)
    drive.add("a-0", 400, content=1, session_id="a")
    drive.finish("a-0")
    drive.add("b-0", 500, content=2, output=1, session_id="b")
    drive.add("c-0", 300, content=3, output=1, session_id="c")
    drive.step()
    drive.step()
    drive.add("a-1", 420, content=1, session_id="a")
    hits = drive.scheduler.hit_tokens(drive._requests["a-1"])

    assert (hits == 400) == kept
    for request in ("b-0", "c-0", "a-1"):
        drive.finish(request)


def test_continuum_lets_go_of_a_context_whose_time_is_over() -> None:
    drive = _Drive("continuum-code")
    drive.add("a-0", 400, content=1, session_id="a")
    drive.finish("a-0")
    assert drive.scheduler.agentinfer_stats()["pinned_blocks"] == 25
    for _ in range(3):
        drive.step()

    assert drive.scheduler.agentinfer_stats()["pinned_blocks"] == 0
    assert drive.scheduler.free_blocks == 100


def test_continuum_pins_neither_last_calls_nor_one_shots() -> None:
    drive = _Drive("continuum-code")
    drive.add("shot", 200, content=1, session_id="a#0.0", role="qa", final=True)
    drive.add("end", 200, content=2, session_id="b", final=True)
    drive.finish("shot")
    drive.finish("end")

    assert drive.scheduler.agentinfer_stats()["pins"] == 0


def test_continuum_drops_a_pin_when_nothing_else_can_run() -> None:
    drive = _Drive("continuum-code", blocks=40)
    drive.add("a-0", 500, content=1, session_id="a")
    drive.finish("a-0")
    drive.add("b-0", 400, content=2, session_id="b")
    drive.step()
    drive.step()

    assert drive.admitted == ["a-0", "b-0"]
    assert drive.scheduler.agentinfer_stats()["dropped_pins"] == 1


def test_continuum_serves_the_oldest_program_first_and_those_with_a_pin_before_it() -> None:
    drive = _Drive("continuum-code", max_seqs=1)
    drive.add("old-0", 50, content=1, session_id="old")
    drive.finish("old-0")
    for _ in range(3):
        drive.step()
    drive.add("pinned-0", 50, content=2, session_id="pinned")
    drive.finish("pinned-0")
    drive.add("new-0", 50, content=3, session_id="new")
    drive.add("old-1", 60, content=1, session_id="old")
    drive.add("pinned-1", 60, content=2, session_id="pinned")

    assert _order(drive, ["new-0", "old-1", "pinned-1"]) == ["pinned-1", "old-1", "new-0"]


def test_published_ttl_gives_up_on_slow_tools() -> None:
    from agentinfer_lg.evals.sched.replay.schedulers.continuum import FixedTtl

    ttl = FixedTtl()
    assert ttl.seconds(1.0) == 2.0
    ttl.returned(1.0)
    assert ttl.seconds(1.0) == 2.0
    ttl.returned(5.0)
    assert ttl.seconds(1.0) == 0.0


@given(st.lists(st.floats(0.01, 60.0), min_size=5, max_size=30), st.floats(0.1, 100.0))
def test_ttl_of_the_paper_has_the_highest_net_benefit(gaps: list[float], compute: float) -> None:
    from agentinfer_lg.evals.sched.replay.schedulers.continuum import CdfTtl

    ttl = CdfTtl(least_samples=5)
    for gap in gaps:
        ttl.returned(gap)
    chosen = ttl.seconds(compute)

    def value(seconds: float) -> float:
        return sum(gap <= seconds for gap in gaps) / len(gaps) * compute - seconds

    assert value(chosen) >= max(value(seconds) for seconds in (0.0, *gaps)) - 0.002
    assert value(chosen) >= value(chosen + 1.0)


def test_ttl_of_the_paper_before_it_knows_anything() -> None:
    from agentinfer_lg.evals.sched.replay.schedulers.continuum import CdfTtl

    ttl = CdfTtl()
    assert ttl.seconds(0.5) == 0.0
    assert ttl.seconds(np.e) == pytest.approx(1.0)
    ttl.waited(10.0)
    assert ttl.seconds(0.0) == pytest.approx(np.log(10.0))
    for calls in (2, 2, 30, 30):
        ttl.ended(calls)
    assert ttl.seconds(0.0) < np.log(
        10.0
    )  # calls left depend little on calls done: a place in the queue is worth less


def test_thunderagent_holds_a_new_program_back_until_it_fits() -> None:
    drive = _Drive("thunderagent", blocks=60)
    drive.add("a-0", 500, content=1, session_id="a")
    drive.finish("a-0")
    drive.add("b-0", 500, content=2, session_id="b")
    for _ in range(20):
        drive.step()
    assert drive.admitted == ["a-0"]
    assert drive.scheduler.agentinfer_stats()["paused"] == 1

    drive.add("a-1", 520, content=1, session_id="a", final=True)
    drive.finish("a-1")
    drive.finish("b-0")
    assert drive.admitted == ["a-0", "a-1", "b-0"]


def test_thunderagent_counts_one_shots_to_their_program() -> None:
    drive = _Drive("thunderagent", blocks=60)
    drive.add("a-0", 300, content=1, session_id="a")
    drive.finish("a-0")
    drive.add("a-shot", 300, content=2, session_id="a#0.0", role="qa", final=True)
    drive.add("b-0", 300, content=3, session_id="b")
    drive.finish("a-shot")
    drive.finish("b-0")  # the one-shot's blocks are free again, and its end is not the program's

    assert drive.admitted == ["a-0", "a-shot", "b-0"]
    assert drive.scheduler.agentinfer_stats()["paused"] == 0


def test_thunderagent_pauses_the_smallest_program_between_its_calls() -> None:
    drive = _Drive("thunderagent", blocks=60)
    for number, name in enumerate(("a", "b")):
        drive.add(f"{name}-0", 300 + 50 * number, content=number, session_id=name)
        drive.finish(f"{name}-0")
    drive.add("b-1", 700, content=1, output=30, session_id="b")
    for _ in range(12):
        drive.step()
    drive.add("a-1", 320, content=0, session_id="a")
    drive.step()
    assert "a-1" not in drive.admitted

    drive.finish("b-1")
    drive.add("b-2", 740, content=1, session_id="b", final=True)
    drive.finish("b-2")
    drive.finish("a-1")
    assert drive.admitted[-2:] == ["b-2", "a-1"]


def test_thunderagent_lets_a_request_through_after_half_an_hour() -> None:
    drive = _Drive("thunderagent", blocks=60)
    drive.add("a-0", 600, content=1, session_id="a")
    drive.finish("a-0")
    drive.add("b-0", 600, content=2, session_id="b")
    drive.step()
    drive.now += 1700.0
    drive.step()
    assert drive.admitted == ["a-0"]
    drive.now += 100.0
    drive.finish("b-0")
