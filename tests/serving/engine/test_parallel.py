"""The real engine in several processes: the same greedy answers with both parts on, and sessions that stay on their rank.

The reference is plain vLLM, without any part of ours. The model runs in float32, since in bfloat16 two tokens that are
nearly equally likely may change places when more tokens are computed together.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.engine_fixture import START_TIMEOUT
from support.waiting import wait_until

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.affinity import affinity_headers, session_rank
from agentinfer_lg.llm.probe import probe_endpoint
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.settings import EndpointSettings

CONTEXT, SEATS, BLOCK = 256, 8, 32
BLOCKS, CROWDED = 14, 150
"""KV cache of each engine, of which 13 blocks are for requests. Three that have written so much want 15."""
SESSIONS, TURNS = 6, 3
TOOL = "Observation: flight HAT{number} from JFK to SEA departs 06:00, price 152 USD, seats 12.\n"

Engine = int
"""Label of the series that vLLM and our parts publish: the data-parallel rank."""


@dataclass(frozen=True)
class Client:
    """A running server, asked as the agent would."""

    server: Server
    ranks: int

    @property
    def root(self) -> str:
        return self.server.base_url.removesuffix("/v1")

    def complete(self, session: str, prompt: str | list[str], *, tokens: int, turn: int = 0) -> Any:
        hints = SessionHints(session_id=session, turn=turn, final=turn == TURNS - 1)
        body = {
            "model": "m",
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "vllm_xargs": hints.to_xargs(),
        }
        headers = affinity_headers(session, ranks=self.ranks)
        # Each request has a connection of its own, or all of them would go to one API server.
        answer = httpx.post(
            f"{self.root}/v1/completions", json=body, headers=headers, timeout=600, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metrics(self) -> dict[tuple[str, Engine], float]:
        """Each series of each engine, added over its other labels."""
        found: Counter[tuple[str, Engine]] = Counter()
        text = httpx.get(f"{self.root}/metrics", timeout=60, trust_env=False).text
        for name, engine, value in re.findall(
            r'^([a-z_:]+)\{(?:[^}]*,)?engine="(\d+)"[^}]*\} (\S+)$', text, re.MULTILINE
        ):
            found[name, int(engine)] += float(value)
        return dict(found)


@contextmanager
def serving(
    model: Path, log: Path, *, ranks: int, parts: bool, flags: tuple[str, ...] = ()
) -> Iterator[Client]:
    options = ServeOptions(
        model=str(model),
        served_model_name="m",
        port=0,
        kv_cache_gib=1,
        max_model_len=CONTEXT,
        max_num_seqs=SEATS,
        sam=SamConfig(memory=str(log.parent / "memory"), marginal_cost=0.01) if parts else None,
        sched=SchedConfig() if parts else None,
        extra_args=("--dtype", "float32", "--num-gpu-blocks-override", str(BLOCKS), *flags),
    )
    with Server(options, log=log) as server:
        server.wait_ready(timeout=START_TIMEOUT - 60)
        client = Client(server, ranks)
        if parts:
            wait_until(lambda: ready_engines(client) == set(range(ranks)))
        yield client


def ready_engines(client: Client) -> set[Engine]:
    series = client.metrics().items()
    return {engine for (name, engine), value in series if name == "agentinfer_sam_ready" and value == 1}


def turns(client: Client, session: str) -> list[Any]:
    """A session whose prompts extend each other; what it is told does not depend on what the model wrote."""
    prompt, answers = f"You book flights. This is {session}. Answer with one action.\n", []
    for turn in range(TURNS):
        prompt += TOOL.format(number=turn) + "Thought:"
        answers.append(client.complete(session, prompt, tokens=32, turn=turn))
    return answers


def crowd(client: Client, session: str) -> Any:
    """Requests of which some are preempted, however fast each of them is.

    Those of one prompt write the same, so they grow together, and three of them are larger than the cache. Each begins
    small, and nothing is kept for others, so that all of them are let in at once.
    """
    httpx.post(f"{client.root}/reset_prefix_cache", timeout=60, trust_env=False).raise_for_status()
    prompts = ["one two three four, one two three four, one", "The flight leaves at six. The flight"] * 3
    return client.complete(session, prompts, tokens=CROWDED)


def session_of(rank: int, ranks: int) -> str:
    return next(name for name in map(str, range(99)) if session_rank(name, ranks) == rank)


def outcome(answer: Mapping[str, Any]) -> list[tuple[list[int], str]]:
    return [(choice["token_ids"], choice["finish_reason"]) for choice in answer["choices"]]


@dataclass(frozen=True)
class Asked:
    """What one server answered, and what it published after the turns and at the end."""

    turns: dict[str, list[Any]]
    crowds: list[Any]
    """The same one for each engine."""
    after_turns: dict[tuple[str, Engine], float]
    metrics: dict[tuple[str, Engine], float]

    def outcomes(self) -> dict[str, list[Any]]:
        return {name: [*map(outcome, answers)] for name, answers in self.turns.items()}


def asked(client: Client) -> Asked:
    names = [f"session {number}" for number in range(SESSIONS)]
    with ThreadPoolExecutor(SESSIONS) as pool:
        told = dict(zip(names, pool.map(lambda name: turns(client, name), names), strict=True))
    after = client.metrics()
    crowds = [crowd(client, session_of(rank, client.ranks)) for rank in range(client.ranks)]
    time.sleep(1.5)  # the figures of our parts are published twice a second
    return Asked(told, crowds, after, client.metrics())


@pytest.fixture(scope="module", autouse=True)
def dev_mode() -> Iterator[None]:
    """Let the tests empty the prefix cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        yield


@pytest.fixture(scope="module")
def plain(demo_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """The answers of plain vLLM."""
    log = tmp_path_factory.mktemp("plain") / "server.log"
    with serving(demo_model_folder, log, ranks=1, parts=False) as client:
        answers = asked(client)
    assert not [name for name, _ in answers.metrics if name.startswith("agentinfer_")]
    return answers


def check_same(plain: Asked, found: Asked, *, ranks: int) -> None:
    """Every answer is the same token by token, and preemption and drafts were at work in every engine."""
    assert found.outcomes() == plain.outcomes()
    assert [*map(outcome, found.crowds)] == [outcome(plain.crowds[0])] * ranks
    for engine in range(ranks):
        assert found.metrics["vllm:num_preemptions_total", engine] > 0
        assert found.metrics["vllm:spec_decode_num_accepted_tokens_total", engine] > 0
        assert found.metrics["agentinfer_sam_accepted_tokens_total", engine] > 0
        assert found.metrics["agentinfer_sched_preemptions_total", engine] > 0
        for part in ("sam", "sched"):
            assert found.metrics[f"agentinfer_{part}_errors_total", engine] == 0
            assert found.metrics[f"agentinfer_{part}_rejected_hints_total", engine] == 0


def check_ranks(found: Asked, *, ranks: int) -> None:
    """Each engine computed the prompts of its own sessions, and no others."""
    expected = dict.fromkeys(range(ranks), 0)
    for name, answers in found.turns.items():
        expected[session_rank(name, ranks)] += sum(answer["usage"]["prompt_tokens"] for answer in answers)
    assert all(expected.values())
    for engine, tokens in expected.items():
        assert found.after_turns["vllm:prompt_tokens_total", engine] == tokens


def check_cache_is_where_the_session_is(client: Client) -> None:
    """What a session has in its rank's cache, its next request finds there, and only there."""
    for rank in range(client.ranks):
        session = session_of(rank, client.ranks)
        prompt = f"Session {session} counts: " + "one two three four five six seven eight nine ten " * 4
        client.complete(session, prompt, tokens=1)
        before = client.metrics()
        answer = client.complete(session, prompt, tokens=1)
        after = client.metrics()
        hits = {
            engine: after["vllm:prefix_cache_hits_total", engine]
            - before["vllm:prefix_cache_hits_total", engine]
            for engine in range(client.ranks)
        }
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= BLOCK
        assert hits == {**dict.fromkeys(range(client.ranks), 0), rank: cached}


def stored_sessions(folder: Path) -> set[str]:
    """Sessions in the one file that all engines write."""
    (file,) = folder.glob("*.sqlite3")
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        names = [bytes(name).decode() for (name,) in connection.execute("SELECT session FROM sessions")]
    return {name.removeprefix("s:") for name in names if name.startswith("s:")}


async def compare(plain: Asked, model: Path, folder: Path, *, ranks: int, flags: tuple[str, ...]) -> None:
    log = folder / "server.log"
    with serving(model, log, ranks=ranks, parts=True, flags=flags) as client:
        profile = await probe_endpoint(EndpointSettings(base_url=client.server.base_url))
        assert profile.data_parallel_size == ranks
        found = asked(client)
        check_same(plain, found, ranks=ranks)
        check_ranks(found, ranks=ranks)
        check_cache_is_where_the_session_is(client)
        wait_until(lambda: set(found.turns) <= stored_sessions(folder / "memory"))


@pytest.mark.slow  # `test_sam_engine.py` has two as well
async def test_two_api_servers(
    plain: Asked, demo_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(figures))
    await compare(plain, demo_model_folder, tmp_path, ranks=1, flags=("--api-server-count", "2"))
    assert len(served_by(figures)) == 2


def served_by(figures: Path) -> set[str]:
    """Processes that have answered requests."""
    from prometheus_client.mmap_dict import MmapedDict

    return {
        file.name
        for file in figures.glob("counter_*.db")
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(file))
        if "vllm:request_success_total" in key and value > 0
    }


@pytest.mark.slow
async def test_one_process_of_each_kind(plain: Asked, demo_model_folder: Path, tmp_path: Path) -> None:
    await compare(plain, demo_model_folder, tmp_path, ranks=1, flags=())


@pytest.mark.slow
async def test_data_parallel(plain: Asked, demo_model_folder: Path, tmp_path: Path) -> None:
    await compare(plain, demo_model_folder, tmp_path, ranks=2, flags=("--data-parallel-size", "2"))
