"""What every scheduler must keep, ours and vLLM's own: driven through vLLM's engine loop, without a model.

The same tests run with the oldest supported vLLM in `tests/serving/compat/test_vllm_versions.py`. vLLM's own scheduler is
the control: where it fails, the test is wrong.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.fake_worker import continuation
from support.sched_drive import STEP_SECONDS, Grammar, SchedulerDrive

from agentinfer_lg.evals.sched.replay.engine_parts import make_scheduler_parts

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

DRAFT_TOKENS = 3
KINDS: dict[str, dict[str, Any] | None] = {
    "vllm": None,
    "default": {},
    "hard retention": {"retention": "hard"},
    "no retention": {"retention": "off"},
    "fcfs": {"order": "fcfs"},
    "no admission": {"admission": False},
    "adaptive": {"tuning": "adaptive"},
    "short steps": {"step_seconds": 1e-6, "least_step_tokens": 16},
}
"""Settings of the schedulers under test; None is vLLM's own."""
HINTS = (
    "session_id",
    "agent_turn",
    "agent_role",
    "agent_tool_seconds",
    "agent_output_tokens",
    "agent_final",
    "agent_supersedes",
    "agent_tenant",
)

every_kind = pytest.mark.parametrize("kind", KINDS)
sync_and_async = pytest.mark.parametrize("overlap", [False, True], ids=["sync", "async"])
with_and_without_drafts = pytest.mark.parametrize("draft_tokens", [0, DRAFT_TOKENS], ids=["plain", "drafts"])


def test_the_vllm_under_test_is_the_one_that_is_meant() -> None:
    import vllm

    assert vllm.__version__ == os.environ.get("AGENTINFER_EXPECTED_VLLM", vllm.__version__)


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> Iterator[None]:
    """Import vLLM once: its dependencies warn of each other, which is not ours to mend. Figures are not published."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_drive("vllm", draft_tokens=DRAFT_TOKENS)
        make_drive("default").scheduler.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "agentinfer_lg.serving.sched.vllm.scheduler.SchedMetrics",
            lambda read: SimpleNamespace(close=lambda: None),
        )
        yield


def make_drive(kind: str, **options: Any) -> SchedulerDrive:
    """Return a drive for the scheduler of that kind; `settings` join those of the kind."""
    values = KINDS[kind]
    extra = options.pop("settings", {})
    if values is None:
        return SchedulerDrive(vllm_scheduler, **options)
    drive = SchedulerDrive(our_scheduler, settings=values | extra, **options)
    if kind == "short steps":
        drive.scheduler._planner.speed.tokens_per_second = (
            1000.0  # steps of these tests are too small to measure it
        )
    return drive


def vllm_scheduler(**parts: Any) -> Any:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    overlap = parts["vllm_config"].scheduler_config.async_scheduling
    return (AsyncScheduler if overlap else Scheduler)(**parts)


def our_scheduler(**parts: Any) -> Any:
    from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

    return make_scheduler(**parts)


def reset_with_running(drive: SchedulerDrive) -> None:
    """Empty the cache although requests run: they start anew."""
    import vllm

    if vllm.__version__.startswith("0.23."):
        drive.settle()  # it miscounts what is stale of the drafts in flight
    assert drive.scheduler.reset_prefix_cache(reset_running_requests=True) is True
    drive.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request of a session."""

    name: str
    prompt: list[int]
    tokens: int
    hints: dict[str, Any]

    @property
    def text(self) -> list[int]:
        return continuation(self.prompt, tokens=self.tokens)


@dataclass(slots=True)
class Session:
    """Requests that follow each other, each some time after the last one ended."""

    turns: deque[Turn]
    gap_seconds: float = 0.1
    ready: float = 0.0
    last: str = ""
    done: list[Turn] = field(default_factory=list)


SYSTEM_PROMPT = range(8)
"""What all sessions begin with: two blocks."""


def make_session(
    name: str, *, seed: int, turns: int, start: int, growth: int, tokens: int, gap_seconds: float = 0.1
) -> Session:
    """Return a session whose prompts extend each other.

    Args:
        name: Its id.
        seed: Decides about its tokens.
        turns: Number of requests.
        start: Tokens of the first prompt that are its own.
        growth: Tokens that come in between two requests, as from a tool.
        tokens: Tokens that each request generates.
        gap_seconds: Time between the end of a request and the next.
    """
    rng = random.Random(seed)
    prompt = [*SYSTEM_PROMPT, *(rng.randrange(1000) for _ in range(start))]
    made: deque[Turn] = deque()
    for number in range(turns):
        hints = {
            "session_id": name,
            "agent_turn": number,
            "agent_role": rng.choice(["think", "plan", "distill"]),
            "agent_tool_seconds": gap_seconds,
            "agent_final": int(number == turns - 1),
        }
        turn = Turn(name=f"{name}/{number}", prompt=list(prompt), tokens=tokens, hints=hints)
        made.append(turn)
        prompt += turn.text + [rng.randrange(1000) for _ in range(growth)]
    return Session(made, gap_seconds=gap_seconds)


def crowd(*, seed: int, sessions: int = 8) -> list[Session]:
    """Return sessions that together want about three times the cache of a drive."""
    rng = random.Random(seed)
    return [
        make_session(
            f"s{number}",
            seed=seed * 100 + number,
            turns=rng.randint(2, 4),
            start=rng.randint(1, 32),
            growth=rng.randint(1, 8),
            tokens=rng.randint(2, 10),
            gap_seconds=rng.choice([0.0, 0.1, 1.0]),
        )
        for number in range(sessions)
    ]


def play(
    drive: SchedulerDrive,
    sessions: Sequence[Session],
    *,
    until: Callable[[], bool] = lambda: False,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Drive sessions to their end, or until `until` says so."""
    while not until():
        for session in sessions:
            _advance(drive, session)
        if not any(session.last for session in sessions) and not any(s.turns for s in sessions):
            drive.drain()
            return
        if not drive.step():
            drive.now += STEP_SECONDS
        after_step()


def _advance(drive: SchedulerDrive, session: Session) -> None:
    if session.last and session.last not in drive.live:
        session.last = ""
        session.ready = drive.now + session.gap_seconds
    if session.turns and not session.last and drive.now >= session.ready:
        turn = session.turns.popleft()
        drive.add(turn.name, turn.prompt, tokens=turn.tokens, hints=turn.hints)
        session.done.append(turn)
        session.last = turn.name


def assert_texts(drive: SchedulerDrive, sessions: Sequence[Session]) -> None:
    """Every request generated what the model says, or the beginning of it if it was aborted."""
    for turn in (turn for session in sessions for turn in session.done):
        text = drive.texts[turn.name]
        if turn.name in drive.reasons:
            assert text == turn.text, turn.name
        else:
            assert text == turn.text[: len(text)], turn.name


def assert_nothing_held(drive: SchedulerDrive) -> None:
    """When all has ended only pins hold blocks, and they yield to a reset."""
    assert not drive.live
    assert drive.free_blocks() == drive.blocks - drive.figures().get("pinned_blocks", 0)
    assert drive.scheduler.reset_prefix_cache() is True
    assert drive.free_blocks() == drive.blocks


@every_kind
@sync_and_async
@with_and_without_drafts
class TestRequests:
    """Under load, with a cache that is too small: prefixes are shared, and requests are preempted."""

    def test_every_request_completes_with_the_expected_tokens(
        self, kind: str, overlap: bool, draft_tokens: int
    ) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        sessions = crowd(seed=1)
        play(drive, sessions)
        assert_texts(drive, sessions)
        assert set(drive.reasons) == set(drive.texts)
        assert set(drive.reasons.values()) == {"length"}
        assert drive.hit_tokens > 0
        assert drive.worker.chunked > 0
        assert bool(drive.worker.accepted and drive.worker.rejected) == bool(draft_tokens)
        assert_nothing_held(drive)

    def test_preempted_requests_complete(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens, blocks=33)
        sessions = [
            make_session(f"s{n}", seed=n, turns=1, start=12 + n, growth=0, tokens=40) for n in range(8)
        ]
        play(drive, sessions)
        assert_texts(drive, sessions)
        assert set(drive.reasons) == set(drive.texts)
        assert drive.preemptions > 0
        assert_nothing_held(drive)

    def test_a_request_ends_at_the_longest_context(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens, max_model_len=64)
        drive.add("long", range(50), tokens=500)
        drive.add("short", range(9), tokens=5)
        drive.drain()
        assert drive.texts["long"] == continuation(range(50), tokens=14)
        assert drive.texts["short"] == continuation(range(9), tokens=5)
        assert_nothing_held(drive)

    def test_what_is_kept_gives_way_to_a_request_that_needs_all(
        self, kind: str, overlap: bool, draft_tokens: int
    ) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens, blocks=33)
        for number in range(4):
            hints = {"session_id": str(number), "agent_tool_seconds": 1.0}
            drive.add(str(number), range(number, number + 30), tokens=3, hints=hints)
            drive.drain()
        drive.add("large", range(500, 620), tokens=8)
        drive.add("small", range(700, 710), tokens=8)
        drive.drain(steps=40)
        assert drive.texts["large"] == continuation(range(500, 620), tokens=8)
        assert drive.texts["small"] == continuation(range(700, 710), tokens=8)
        assert_nothing_held(drive)

    def test_aborts_at_any_time(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        states: set[str] = set()
        for seed in range(3):
            rng = random.Random(seed)
            drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
            sessions = crowd(seed=seed)
            play(drive, sessions, after_step=partial(self.abort_some, drive, rng, states))
            assert_texts(drive, sessions)
            assert_nothing_held(drive)
        assert {"WAITING", "RUNNING"} <= states

    @staticmethod
    def abort_some(drive: SchedulerDrive, rng: random.Random, states: set[str]) -> None:
        if not drive.live or rng.random() > 0.2:
            return
        waiting = drive.live - {request.request_id for request in drive.scheduler.running}
        name = rng.choice(sorted(waiting or drive.live))
        states.add(drive.scheduler.requests[name].status.name)
        if rng.random() < 0.5:
            drive.step(abort=name)
        else:
            drive.abort(name)
            drive.abort([name, "unknown"])  # once more, and one that never was

    def test_abort_of_everything(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        sessions = crowd(seed=4)
        play(drive, sessions, until=lambda: drive.steps == 5)
        assert drive.scheduler.waiting
        assert drive.scheduler.running
        drive.abort(None)
        drive.drain()
        assert_texts(drive, sessions)
        assert_nothing_held(drive)
        drive.add("next", range(30), tokens=5)
        drive.drain()
        assert drive.texts["next"] == continuation(range(30), tokens=5)

    def test_paused_requests_are_kept(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        from vllm.v1.core.sched.interface import PauseState

        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        sessions = crowd(seed=5)
        play(drive, sessions, until=lambda: drive.steps == 10)
        for state in (PauseState.PAUSED_NEW, PauseState.PAUSED_ALL):
            drive.scheduler.set_pause_state(state)
            scheduled = [drive.step() for _ in range(100)]
            assert scheduled[-1] == 0
            drive.scheduler.set_pause_state(PauseState.UNPAUSED)
        play(drive, sessions)
        assert_texts(drive, sessions)
        assert set(drive.reasons) == set(drive.texts)

    def test_a_grammar_that_is_being_compiled_stands_in_nobodys_way(
        self, kind: str, overlap: bool, draft_tokens: int
    ) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        grammar = Grammar()
        drive.add("json", range(20), tokens=8, grammar=grammar)
        sessions = crowd(seed=7)
        play(drive, sessions, until=lambda: drive.live == {"json"} and not any(s.turns for s in sessions))
        assert_texts(drive, sessions)
        assert drive.texts["json"] == []
        grammar.compiled = True
        drive.drain()
        assert drive.texts["json"] == continuation(range(20), tokens=8)
        assert_nothing_held(drive)


@sync_and_async
class TestShortSteps:
    """A prompt is computed in pieces beside others, so that their texts go on meanwhile."""

    PROMPT = range(100, 210)

    def tokens_meanwhile(self, kind: str, *, overlap: bool) -> int:
        """Return the tokens that a request gets from the arrival of a long prompt until its first token."""
        drive = make_drive(kind, overlap=overlap, step_tokens=128)
        drive.add("short", range(5), tokens=100)
        while not drive.texts["short"]:
            drive.step()
        before = len(drive.texts["short"])
        drive.add("long", self.PROMPT, tokens=2)
        while not drive.texts["long"]:
            drive.step()
        meanwhile = len(drive.texts["short"]) - before
        drive.drain()
        assert drive.texts["long"] == continuation(self.PROMPT, tokens=2)
        assert drive.texts["short"] == continuation(range(5), tokens=100)
        assert drive.scheduler.max_num_scheduled_tokens == 128
        assert bool(drive.figures().get("limited_steps", 0)) == (kind == "short steps")
        return meanwhile

    def test_a_text_goes_on_beside_a_long_prompt(self, overlap: bool) -> None:
        pieces = len(self.PROMPT) // 16
        assert self.tokens_meanwhile("short steps", overlap=overlap) >= pieces
        assert self.tokens_meanwhile("default", overlap=overlap) < pieces / 2

    def test_a_prompt_alone_is_computed_at_once(self, overlap: bool) -> None:
        drive = make_drive("short steps", overlap=overlap, step_tokens=128)
        drive.add("alone", self.PROMPT, tokens=2)
        assert drive.step() == len(self.PROMPT)

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    @pytest.mark.parametrize("seeded", ["short", "long"])
    def test_a_cpu_computes_a_prompt_with_a_seed_at_once(
        self, overlap: bool, device: str, seeded: str
    ) -> None:
        drive = make_drive("short steps", overlap=overlap, step_tokens=128)
        drive.scheduler.vllm_config.device_config.device_type = device
        drive.add("short", range(5), tokens=100, seed=1 if seeded == "short" else None)
        while not drive.texts["short"]:
            drive.step()
        drive.add("long", self.PROMPT, tokens=2, seed=1 if seeded == "long" else None)
        whole = drive.step() >= len(self.PROMPT)
        assert whole == (device == "cpu" and seeded == "long"), "what only decodes may have a seed"
        drive.drain()
        assert drive.texts["long"] == continuation(self.PROMPT, tokens=2)

    def test_a_step_without_prompts_is_not_limited(self, overlap: bool) -> None:
        drive = make_drive("short steps", overlap=overlap, step_tokens=128)
        for name in ("one", "other"):
            drive.add(name, range(5), tokens=30)
        while not all(drive.texts.values()):
            drive.step()
        before = drive.figures()["limited_steps"]
        drive.drain()
        assert drive.figures()["limited_steps"] == before


@every_kind
@sync_and_async
@with_and_without_drafts
class TestCacheReset:
    """It does what vLLM's own does, whatever is retained."""

    def test_of_an_idle_engine(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        session = make_session("s", seed=1, turns=3, start=30, growth=5, tokens=5)
        play(drive, [session], until=lambda: len(drive.reasons) == 2)
        drive.drain()
        before = drive.hit_tokens
        assert before > 0
        assert drive.scheduler.reset_prefix_cache() is True
        assert drive.free_blocks() == drive.blocks
        play(drive, [session])
        assert drive.hit_tokens == before  # the third request found nothing
        assert_texts(drive, [session])
        assert_nothing_held(drive)

    def test_is_refused_while_requests_run(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        sessions = crowd(seed=2)
        play(drive, sessions, until=lambda: drive.steps == 20)
        assert drive.scheduler.running
        assert drive.scheduler.reset_prefix_cache() is False
        drive.check()
        play(drive, sessions)
        assert_texts(drive, sessions)
        assert_nothing_held(drive)

    def test_while_requests_wait(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        sessions = crowd(seed=2)
        for session in sessions:
            _advance(drive, session)
        assert drive.scheduler.reset_prefix_cache() is True
        play(drive, sessions)
        assert_texts(drive, sessions)
        assert_nothing_held(drive)

    def test_with_running_requests(self, kind: str, overlap: bool, draft_tokens: int) -> None:
        drive = make_drive(kind, overlap=overlap, draft_tokens=draft_tokens)
        sessions = crowd(seed=3)
        resets = 0

        def reset() -> None:
            nonlocal resets
            if drive.steps % 12 in (0, 1) and drive.scheduler.running:
                resets += 1
                reset_with_running(drive)
                assert drive.free_blocks() == drive.blocks

        play(drive, sessions, after_step=reset)
        assert resets > 3
        assert_texts(drive, sessions)
        assert set(drive.reasons) == set(drive.texts)
        assert_nothing_held(drive)


@every_kind
@sync_and_async
@pytest.mark.parametrize("blocks", [33, 60], ids=["tight", "ample"])
def test_a_prompt_may_come_in_pieces(kind: str, overlap: bool, blocks: int) -> None:
    drive = make_drive(kind, overlap=overlap, blocks=blocks, max_seqs=8)
    drive.add("pieces", range(20), tokens=4, resumable=True)
    sessions = crowd(seed=8)
    play(drive, sessions, until=lambda: len(drive.texts["pieces"]) == 4)
    first = continuation(range(20), tokens=4)
    assert drive.texts["pieces"] == first
    drive.add("pieces", range(50, 60), tokens=3, resumable=True)
    prompt = list(drive.scheduler.requests["pieces"].prompt_token_ids)  # without tokens never computed
    play(drive, sessions, until=lambda: len(drive.texts["pieces"]) == 5)
    reset_with_running(drive)  # it is preempted
    play(drive, sessions, until=lambda: len(drive.texts["pieces"]) == 7)
    assert drive.texts["pieces"] == first + continuation(prompt, tokens=3)
    play(drive, sessions, until=lambda: drive.live == {"pieces"} and not any(s.turns for s in sessions))
    drive.abort("pieces")
    drive.drain()
    assert_texts(drive, sessions)
    assert_nothing_held(drive)


SOME_HINTS = st.dictionaries(
    st.sampled_from(HINTS),
    st.one_of(st.integers(-1, 5), st.floats(), st.text(max_size=3), st.none(), st.lists(st.integers(0, 9))),
    max_size=3,
)


class Traffic(RuleBasedStateMachine):
    """Clients do anything at any time; in the end every request has its text, and every block is free."""

    kind = "vllm"
    overlap = False
    draft_tokens = 0

    @initialize(
        blocks=st.integers(33, 50), max_seqs=st.integers(1, 6), step_tokens=st.sampled_from([8, 24, 64])
    )
    def start(self, blocks: int, max_seqs: int, step_tokens: int) -> None:
        self.drive = make_drive(
            self.kind,
            overlap=self.overlap,
            draft_tokens=self.draft_tokens,
            blocks=blocks,
            max_seqs=max_seqs,
            step_tokens=step_tokens,
        )
        self.contexts: dict[int, list[int]] = {}
        self.texts: dict[str, list[int]] = {}

    @rule(
        sessions=st.lists(st.integers(0, 5), min_size=1, max_size=6),
        more=st.integers(1, 30),
        tokens=st.integers(1, 40),
        hints=SOME_HINTS,
    )
    def add(self, sessions: list[int], more: int, tokens: int, hints: dict[str, Any]) -> None:
        for session in sessions:
            name = str(len(self.texts))
            context = self.contexts.get(session, list(range(session, session + 20)))[:50]
            prompt = context + [len(self.texts)] * more
            self.texts[name] = continuation(prompt, tokens=tokens)
            self.contexts[session] = prompt + self.texts[name]
            self.drive.add(name, prompt, tokens=tokens, hints={"session_id": str(session)} | hints)

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.drive.step()

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        self.drive.now += seconds

    @precondition(lambda self: self.drive.live)
    @rule(data=st.data(), running=st.booleans())
    def abort(self, data: st.DataObject, running: bool) -> None:
        names = data.draw(st.sets(st.sampled_from(sorted(self.drive.live)), min_size=1))
        if running:
            self.drive.step(abort=names)
        else:
            self.drive.abort([*names, "unknown"])

    @rule()
    def reset(self) -> None:
        running = bool(self.drive.scheduler.running)
        assert self.drive.scheduler.reset_prefix_cache() is not running
        self.drive.check()

    @rule()
    def reset_with_running(self) -> None:
        reset_with_running(self.drive)

    def teardown(self) -> None:
        if not hasattr(self, "drive"):
            return
        self.drive.drain()
        for name, text in self.texts.items():
            got = self.drive.texts[name]
            assert got == (text if name in self.drive.reasons else text[: len(got)])
        assert_nothing_held(self.drive)


@every_kind
@sync_and_async
@with_and_without_drafts
def test_any_traffic_keeps_the_contract(kind: str, overlap: bool, draft_tokens: int) -> None:
    machine = type("Traffic", (Traffic,), {"kind": kind, "overlap": overlap, "draft_tokens": draft_tokens})
    few = settings(max_examples=10, stateful_step_count=20, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(machine, settings=few)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Siege:
    """A stream of requests that never ends, made so that some order always prefers them to the one that waits."""

    attack: Callable[[int], list[int]]
    """Prompt of the n-th request of the stream."""
    tokens: int
    victim: list[int]
    unfair: Callable[[Any], float]
    """Key of the order under which the victim starves."""
    number: int = 8
    """Requests of the stream that are there at any time."""
    burst: bool = False
    """Whether the stream comes in bursts: the next ones come when the last ones are done."""

    def longest_wait(self, kind: str) -> float:
        """Return how many seconds a request may wait: those that run may end first, and in vLLM's order all others."""
        steps = 2 * (len(self.attack(0)) // STEP_TOKENS + 1 + self.tokens)  # once more after a preemption
        if kind == "vllm":
            return (self.number + 1) * steps * STEP_SECONDS
        return MAX_WAIT_SECONDS + 1.5 * steps * STEP_SECONDS  # several may have waited long enough at once


STEP_TOKENS = 32
SIEGES = {
    "short ones against a long one": Siege(
        attack=lambda n: [n % 1000, n // 1000, 5],
        tokens=2,
        victim=list(range(100)),
        unfair=lambda request: request.num_prompt_tokens,
    ),
    "long ones against a short one": Siege(
        attack=lambda n: [n % 1000, n // 1000, *range(80)],
        tokens=8,
        victim=[1, 2, 3],
        unfair=lambda request: -request.num_prompt_tokens,
    ),
    "cached ones against a new one": Siege(
        attack=lambda n: [*range(60), n % 1000, n // 1000],
        tokens=3,
        victim=list(range(500, 530)),
        unfair=lambda request: request.prompt_token_ids[0],
    ),
    "bursts of short ones against a long one": Siege(
        attack=lambda n: [n % 1000, n // 1000, 5],
        tokens=2,
        victim=list(range(90)),
        unfair=lambda request: request.num_prompt_tokens,
        number=24,
        burst=True,
    ),
}
MAX_WAIT_SECONDS = 1.0


def besiege(drive: SchedulerDrive, siege: Siege, *, hints: bool, steps: int = 600) -> None:
    """Add the victim after the stream has filled the engine, and stop when the victim is done."""
    made = 0
    while drive.steps < steps and "victim" not in drive.reasons:
        stream = drive.live - {"victim"}
        if not siege.burst or len(stream) <= siege.number // 3:
            for _ in range(siege.number - len(stream)):
                marks = (
                    {"session_id": f"a{made}", "agent_final": 0, "agent_tool_seconds": 0.1} if hints else {}
                )
                drive.add(f"a{made}", siege.attack(made), tokens=siege.tokens, hints=marks)
                made += 1
        if drive.steps == 20 and "victim" not in drive.texts:
            drive.add("victim", siege.victim, tokens=6, hints={"session_id": "victim"} if hints else {})
        drive.step()


@pytest.mark.parametrize("siege", SIEGES.values(), ids=list(SIEGES))
@sync_and_async
class TestFairness:
    @every_kind
    @pytest.mark.parametrize("hints", [False, True], ids=["anonymous", "sessions"])
    def test_nobody_starves(self, kind: str, overlap: bool, siege: Siege, hints: bool) -> None:
        drive = make_drive(
            kind, overlap=overlap, step_tokens=STEP_TOKENS, settings={"max_wait_seconds": MAX_WAIT_SECONDS}
        )
        besiege(drive, siege, hints=hints)
        assert max(drive.waited.values()) <= siege.longest_wait(kind)
        assert drive.texts["victim"] == continuation(siege.victim, tokens=6)

    def test_the_victim_would_starve_in_an_order_without_limit(self, overlap: bool, siege: Siege) -> None:
        """The streams are as adversarial as they should be."""

        class Unfair(SchedulerDrive):
            def step(self, **options: Any) -> int:
                queue = self.scheduler.waiting
                ordered = sorted(queue, key=siege.unfair)
                queue.clear()
                queue.extend(ordered)
                return super().step(**options)

        drive = Unfair(vllm_scheduler, overlap=overlap, step_tokens=STEP_TOKENS)
        besiege(drive, siege, hints=False)
        assert "victim" not in drive.waited


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HUGE = "s" * 10_000_000
BAD_HINTS: dict[str, list[Any]] = {
    "session_id": [5, 0.5, True, None, ["a"], {"a": 1}, b"a", HUGE, nested(100_000)],
    "agent_turn": [-1, 1.0, "1", None, math.nan, [1], 2**63 - 1, HUGE],
    "agent_role": ["boss", "", 3, None, ["plan"], math.nan, HUGE, nested(100_000)],
    "agent_tool_seconds": [-1, "1", None, math.nan, math.inf, -math.inf, [0.1], 2**63 - 1, HUGE],
    "agent_output_tokens": [-1, 1.5, "1", None, math.nan, math.inf, [1], 2**63 - 1, nested(100_000)],
    "agent_final": [2, -1, "yes", None, math.nan, [1], 2**63 - 1, HUGE],
    "agent_supersedes": [2, -1, "yes", None, math.nan, [0], nested(100_000)],
    "agent_tenant": [5, None, ["a"], b"a", HUGE],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD_HINTS.items() for value in values],
    ids=[f"{name}-{index}" for name, values in BAD_HINTS.items() for index in range(len(values))],
)
def test_a_bad_hint_is_ignored_and_counted(name: str, value: Any) -> None:
    drive = make_drive("default")
    send_bad_hint(drive, name, value, times=3)
    for number in range(3):
        assert drive.texts[str(number)] == continuation(range(number, 30), tokens=5)
    assert drive.figures()["rejected_hints"] == 3
    assert_nothing_held(drive)


@pytest.mark.parametrize("name", BAD_HINTS)
def test_a_bad_hint_is_logged_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    drive = make_drive("default")
    with caplog.at_level(logging.INFO, logger="agentinfer_lg"):
        for value in BAD_HINTS[name]:
            send_bad_hint(drive, name, value, times=2)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("agentinfer_lg")]
    (told,) = [line for line in lines if name in line]
    assert len(told) < 500


def send_bad_hint(drive: SchedulerDrive, name: str, value: Any, *, times: int) -> None:
    good = {"session_id": "s", "agent_turn": 1, "agent_role": "think", "agent_final": 0}
    for number in range(times):
        drive.add(str(number), range(number, 30), tokens=5, hints=good | {name: value, "other": value})
        drive.step()
    drive.drain()


def test_good_hints_are_not_counted() -> None:
    drive = make_drive("default")
    sessions = crowd(seed=6)
    play(drive, sessions)
    assert drive.figures()["rejected_hints"] == 0


@sync_and_async
@pytest.mark.parametrize(("ahead", "kind"), [(False, "default"), (True, "default"), (False, "no retention")])
def test_blocks_of_a_context_that_was_superseded_are_given_up_and_counted(
    ahead: bool, kind: str, overlap: bool
) -> None:
    drive = make_drive(kind, overlap=overlap)
    common, old, new = list(range(8)), list(range(100, 116)), list(range(200, 208))
    session = {"session_id": "s", "agent_turn": 0}
    drive.add("old", [*common, *old], tokens=2, hints=session)
    drive.drain()
    if ahead:
        drive.add("ahead", [*common, *new], tokens=1, hints={**session, "agent_role": "prewarm"})
        drive.drain()
    assert drive.figures()["superseded_blocks"] == 0
    drive.add("new", [*common, *new], tokens=2, hints={**session, "agent_supersedes": 1})
    drive.drain()
    # of the 24 tokens of the old prompt, 8 are the beginning of the new one too
    assert drive.figures()["superseded_blocks"] == (0 if kind == "no retention" else 4)
    drive.add("next", [*common, *new, 300], tokens=2, hints={**session, "agent_turn": 1})
    drive.drain()
    assert drive.figures()["superseded_blocks"] == (0 if kind == "no retention" else 4)


@pytest.mark.parametrize(
    "broken", ["_planner.arrive", "_planner.left", "_cache.context_of", "_planner.speed.step_began"]
)
def test_vllm_goes_on_where_the_scheduler_fails(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    drive = make_drive("default")
    drive.may_fail = True
    part, _, method = broken.rpartition(".")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken on purpose")

    setattr(attrgetter(part)(drive.scheduler), method, fail)
    sessions = crowd(seed=1)
    play(drive, sessions)
    assert_texts(drive, sessions)
    assert set(drive.reasons) == set(drive.texts)
    assert drive.figures()["errors"] > 1
    told = [record for record in caplog.records if record.exc_text]
    assert len(told) == 1
    assert_nothing_held(drive)


@pytest.mark.parametrize("overlap", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("broken", ["import", "constructor"])
def test_vllm_schedules_alone_where_ours_cannot_be_made(
    broken: str, overlap: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "agentinfer_lg.serving.sched.vllm.scheduler"
    if broken == "import":
        monkeypatch.setitem(sys.modules, name, None)
    else:
        monkeypatch.setattr(f"{name}.BlockCache", lambda manager, block_size: manager.of_another_version)
    size = {"blocks": 40, "block_size": 4, "max_model_len": 128, "step_tokens": 32, "max_seqs": 4}
    parts = make_scheduler_parts(**size, asynchronous=overlap)
    assert type(our_scheduler(**parts)) is type(vllm_scheduler(**parts))
    (told,) = [record for record in caplog.records if "AgentSched cannot start" in record.message]
    assert told.exc_text


@pytest.mark.parametrize("xargs", [None, {}, {"other": [1]}])
def test_requests_without_hints_are_served(xargs: dict[str, Any] | None) -> None:
    drive = make_drive("default")
    drive.add("a", range(30), tokens=5, hints=xargs)
    drive.drain()
    assert drive.texts["a"] == continuation(range(30), tokens=5)
    assert drive.figures()["rejected_hints"] == 0


class TestTheTestItself:
    """Faults of a scheduler are found out."""

    def test_a_block_that_another_writes_to_changes_the_text(self) -> None:
        drive = make_drive("vllm")
        drive.add("a", range(40), tokens=10)
        drive.add("b", range(100, 140), tokens=10)
        for _ in range(4):
            drive.step()
        block = drive.scheduler.kv_cache_manager.get_block_ids("a")[0][1]
        drive.worker.write(block, 7)
        drive.drain()
        assert drive.texts["a"] != continuation(range(40), tokens=10)
        assert drive.texts["b"] == continuation(range(100, 140), tokens=10)

    def test_a_block_that_is_kept_for_nobody_is_missed(self) -> None:
        drive = make_drive("vllm")
        drive.add("a", range(40), tokens=10)
        drive.step()
        drive.scheduler.kv_cache_manager.block_pool.get_new_blocks(1)
        drive.drain()
        with pytest.raises(AssertionError):
            assert_nothing_held(drive)

    def test_a_request_that_is_dropped_is_missed(self) -> None:
        drive = make_drive("vllm", max_seqs=1)
        drive.add("a", range(40), tokens=10)
        drive.add("b", range(40), tokens=10)
        drive.step()
        drive.scheduler.waiting.pop_request()
        with pytest.raises(AssertionError):
            drive.step()
