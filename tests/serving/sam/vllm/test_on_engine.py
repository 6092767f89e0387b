"""AgentSAM in the real engine: the same answers, figures at /metrics, a memory that survives.

The model runs in float32: in bfloat16 the sum of a row depends on how many rows are computed together, and two tokens
that are nearly equally likely may change places, with or without speculation.
"""

from __future__ import annotations

import math
import os
import random
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from support.waiting import wait_until

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.types import Source

CONTEXT, SEATS = 512, 24
BLOCKS = 28
"""KV cache of 896 tokens in blocks of 32; one is never used."""
CORPUS = Path(__file__).parents[4] / "examples" / "corpus"
SOURCES = get_args(Source)
TOOL = "Observation: flight HAT136 from JFK to SEA departs 2024-05-20T06:00:00, price 152 USD, seats 12.\n"


@dataclass(frozen=True)
class Question:
    """One request, and what it is there for."""

    kind: str
    body: Mapping[str, Any]


@dataclass
class Client:
    """A running server."""

    server: Server
    log: Path
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=600, trust_env=False))

    @property
    def root(self) -> str:
        return self.server.base_url.removesuffix("/v1")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self.http.post(f"{self.root}{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        asked = {"model": self.server.model, "temperature": 0, "return_token_ids": True, **body}
        return self.post("/v1/completions", asked)

    def tokens(self, text: str) -> list[int]:
        return self.post("/tokenize", {"model": self.server.model, "prompt": text})["tokens"]

    def answers(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(SEATS) as pool:
            return list(pool.map(lambda question: self.complete(question.body), questions))

    def metrics(self) -> dict[str, float]:
        """Sum of each series over its labels other than `source` and `batch`."""
        found: Counter[str] = Counter()
        for name, labels, value in re.findall(
            r"^([a-z_:]+)(\{.*\})? (\S+)$", self.http.get(f"{self.root}/metrics").text, re.MULTILINE
        ):
            kept = re.search(r'(?:source|batch)="(\w+)"', labels)
            found[f"{name}:{kept[1]}" if kept else name] += float(value)
        return dict(found)

    def stats(self) -> dict[str, float]:
        """Counters of the proposer, straight from the worker."""
        (found,) = self.post("/collective_rpc", {"method": "agentinfer_stats"})["results"]
        return dict(found)


@contextmanager
def serving(model: Path, log: Path, *, sam: SamConfig | None, api_servers: int = 1) -> Iterator[Client]:
    extra = ("--dtype", "float32", "--num-gpu-blocks-override", str(BLOCKS))
    if api_servers > 1:
        extra += ("--api-server-count", str(api_servers))
    options = ServeOptions(
        model=str(model),
        served_model_name="m",
        port=0,
        kv_cache_gib=1,
        max_model_len=CONTEXT,
        max_num_seqs=SEATS,
        sam=sam,
        extra_args=extra,
    )
    with Server(options, log=log) as server:
        server.wait_ready(timeout=900)
        client = Client(server, log)
        with client.http:
            if sam is not None:
                wait_until(lambda: client.stats()["ready"] == 1)
            yield client


def passages() -> list[str]:
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted(CORPUS.iterdir())
        if path.suffix in (".md", ".txt")
    ]
    return [part for text in texts for part in re.split(r"\n\s*\n", text) if len(part) > 200]


def questions(client: Client, number: int) -> list[Question]:
    """Requests of every kind, the same ones for the same number."""
    dice, texts = random.Random(number), passages()
    long_text = client.tokens("\n".join(texts))
    made: list[Question] = []
    for i in range(number):
        kind = ("session", "list", "structured", "context end", "penalties", "repeated")[i % 6]
        text = dice.choice(texts)[:300]
        hints = SessionHints(session_id=f"s{i % 4}", turn=i // 4).to_xargs()
        body: dict[str, Any] = {"max_tokens": 32, "vllm_xargs": hints}
        if kind == "session":
            turns = [
                f"{TOOL}Thought: {text[:120]}\nAction: search[{text[:20]}]\n" for _ in range(1 + i // 6 % 3)
            ]
            body["prompt"] = "You book flights. Answer with one action.\n" + "".join(turns) + "Thought:"
        elif kind == "list":
            body["prompt"] = "Copy the line three times.\n" + f"{text[:80]}\n" * 3
        elif kind == "structured":
            body |= {"prompt": f"{text}\nAs JSON:", "structured_outputs": dice.choice(CONSTRAINTS)}
        elif kind == "context end":
            length = dice.choice([CONTEXT - 90, CONTEXT - 30, CONTEXT - 17, CONTEXT - 3, CONTEXT - 1])
            start = dice.randrange(max(1, len(long_text) - length))
            body |= {"prompt": (long_text * 2)[start : start + length], "max_tokens": CONTEXT - length}
        elif kind == "penalties":
            body |= {
                "prompt": f"{text}\nIn short:",
                "repetition_penalty": 1.2,
                "presence_penalty": 0.5,
                "min_tokens": 8,
            }
            body |= {"stop": ["\n\n"], "logprobs": 1}
        else:
            body = dict(dice.choice(made).body)
        made.append(Question(kind, body))
    return made


def crowd(client: Client) -> Question:
    """Requests of which some are preempted, however fast each of them is.

    Those of one prompt write the same, so they grow together, and three of them are larger than the cache. Each begins
    small, and nothing is kept for others, so that all of them are let in at once.
    """
    long_text = client.tokens("\n".join(passages()))
    prompts = [long_text[start : start + 40] for start in (0, 60)] * 3
    client.http.post(f"{client.root}/reset_prefix_cache").raise_for_status()
    return Question("crowd", {"prompt": prompts, "max_tokens": 300, "ignore_eos": True})


CONSTRAINTS = (
    {"regex": r'\{"city": "[A-Z][a-z]{2,9}", "year": (19|20)[0-9]{2}\}'},
    {"choice": ["yes", "no", "perhaps"]},
    {
        "json": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 12}, "tags": {"enum": ["a", "b"]}},
            "required": ["name", "tags"],
            "additionalProperties": False,
        }
    },
)

SAMPLED = "red blue red blue red blue red red green red blue red blue red blue red green red blue red"


def samples(client: Client, *, seed: int, number: int) -> Counter[tuple[int, ...]]:
    """Draw continuations of one prompt."""
    found: Counter[tuple[int, ...]] = Counter()
    for part in range(number // 100):
        narrow = part % 2  # every second time among the three likeliest tokens
        body = {"prompt": SAMPLED, "max_tokens": 4, "temperature": 1.0, "n": 100, "seed": seed + 1000 * part}
        answer = client.complete({**body, "ignore_eos": True, **({"top_k": 3} if narrow else {})})
        found.update((narrow, *choice["token_ids"]) for choice in answer["choices"])
    return found


def same_distribution_z(first: Mapping[Any, int], second: Mapping[Any, int]) -> float:
    """Test of homogeneity: a standard normal if both were drawn alike (chi-square, Wilson-Hilferty)."""
    common, rare = [], [0, 0]
    for key in {*first, *second}:
        pair = [first.get(key, 0), second.get(key, 0)]
        if sum(pair) >= 20:
            common.append(pair)
        else:
            rare = [rare[0] + pair[0], rare[1] + pair[1]]
    cells = [pair for pair in [*common, rare] if sum(pair)]
    totals = [sum(pair[k] for pair in cells) for k in (0, 1)]
    share = [total / sum(totals) for total in totals]
    chi2 = sum(
        (pair[k] - sum(pair) * share[k]) ** 2 / (sum(pair) * share[k]) for pair in cells for k in (0, 1)
    )
    freedom = len(cells) - 1
    assert freedom >= 5, "the samples say too little"
    return ((chi2 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


@dataclass(frozen=True)
class Session:
    """What one server answered."""

    answers: list[dict[str, Any]]
    questions: list[Question]
    drawn: Counter[tuple[int, ...]]
    metrics: dict[str, float]
    stats: dict[str, float]


def asked(client: Client, *, number: int, seed: int, draws: int, stats: bool = True) -> Session:
    made = questions(client, number)
    answers = client.answers(made)
    made.append(crowd(client))
    answers += client.answers(made[-1:])
    before = client.metrics()
    drawn = samples(client, seed=seed, number=draws)
    after = client.metrics()
    drafted = {f"sampling:{name}": after[name] - before[name] for name in after if "spec_decode" in name}
    return Session(answers, made, drawn, after | drafted, client.stats() if stats else {})


@pytest.fixture(scope="module")
def rpc() -> Iterator[None]:
    """Let the tests call the worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sam")


@dataclass(frozen=True)
class Comparison:
    """The same questions with and without AgentSAM."""

    plain: Session
    sam: Session
    memory: Path


def compared(model: Path, folder: Path, *, number: int, draws: int) -> Comparison:
    """Ask two servers, one after the other; the second, with two processes for requests, is killed as it stands."""
    with serving(model, folder / "plain.log", sam=None) as client:
        plain = asked(client, number=number, seed=0, draws=draws, stats=False)
    memory = folder / "memory"
    config = SamConfig(memory=str(memory), marginal_cost=0.01)
    with serving(model, folder / "sam.log", sam=config, api_servers=2) as client:
        sam = asked(client, number=number, seed=10**6, draws=draws)
        wait_until(lambda: stored_sessions(memory) > 0)
        kill(client)
    return Comparison(plain, sam, memory)


def stored_sessions(memory: Path) -> int:
    """Number of sessions on disk."""
    files = list(memory.glob("*.sqlite3"))
    if not files:
        return 0
    with closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM sessions").fetchone()[0])


def kill(client: Client) -> None:
    group = client.server.pid
    assert group is not None
    os.killpg(group, signal.SIGKILL)


@pytest.fixture(scope="module")
def comparison(demo_model_folder: Path, folder: Path, rpc: None) -> Comparison:
    return compared(demo_model_folder, folder, number=30, draws=600)


def check_lossless(comparison: Comparison) -> None:
    """Every answer is the same token by token, whatever kind it is, and the drafter was at work."""
    differing = [
        (number, question.kind)
        for number, (question, first, second) in enumerate(
            zip(comparison.plain.questions, comparison.plain.answers, comparison.sam.answers, strict=True)
        )
        if outcome(first) != outcome(second)
    ]
    assert differing == []
    metrics = comparison.sam.metrics
    assert metrics["vllm:spec_decode_num_accepted_tokens_total"] > len(comparison.sam.answers)
    assert metrics["vllm:num_preemptions_total"] > 0
    assert metrics["vllm:prefix_cache_hits_total"] > 0
    assert comparison.sam.stats["errors"] == comparison.sam.stats["resyncs"] == 0


def outcome(answer: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(choice["token_ids"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]]


def check_distribution(comparison: Comparison) -> None:
    """Drafts were accepted and rejected while sampling, and what was sampled has the same distribution."""
    plain, sam = comparison.plain, comparison.sam
    drafted = sam.metrics["sampling:vllm:spec_decode_num_draft_tokens_total"]
    accepted = sam.metrics["sampling:vllm:spec_decode_num_accepted_tokens_total"]
    assert 0.05 * drafted < accepted < 0.95 * drafted
    assert drafted > sum(sam.drawn.values()) / 4
    assert same_distribution_z(plain.drawn, sam.drawn) < 5  # by chance once in three million times


class TestSameAnswers:
    def test_greedy(self, comparison: Comparison) -> None:
        check_lossless(comparison)

    def test_with_two_processes_for_requests(self, comparison: Comparison, folder: Path) -> None:
        log = (folder / "sam.log").read_text(encoding="utf-8")
        assert set(re.findall(r"\((ApiServer_\d+)", log)) == {"ApiServer_0", "ApiServer_1"}

    def test_at_the_end_of_the_context(self, comparison: Comparison) -> None:
        pairs = zip(comparison.sam.questions, comparison.sam.answers, strict=True)
        usages = [answer["usage"] for question, answer in pairs if question.kind == "context end"]
        assert max(usage["total_tokens"] for usage in usages) == CONTEXT

    def test_structured(self, comparison: Comparison) -> None:
        pairs = zip(comparison.sam.questions, comparison.sam.answers, strict=True)
        outputs = [
            (question.body["structured_outputs"], answer["choices"][0])
            for question, answer in pairs
            if question.kind == "structured"
        ]
        ended = [(wanted, choice["text"]) for wanted, choice in outputs if choice["finish_reason"] == "stop"]
        assert ended
        for wanted, text in ended:
            assert text in wanted.get("choice", [text])
            assert re.fullmatch(wanted.get("regex", "(?s:.*)"), text)

    def test_sampled(self, comparison: Comparison) -> None:
        check_distribution(comparison)

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    def test_two_hundred(self, demo_model_folder: Path, tmp_path: Path, rpc: None) -> None:
        many = compared(demo_model_folder, tmp_path, number=200, draws=4000)
        check_lossless(many)
        check_distribution(many)

    def test_the_statistic_finds_a_biased_sampler(self) -> None:
        dice = random.Random(1)
        fair = Counter(dice.choice(range(16)) for _ in range(800))
        other = Counter(dice.choice(range(16)) for _ in range(800))
        biased = Counter(dice.choice([*range(16), 3, 3, 3]) for _ in range(800))
        assert same_distribution_z(fair, other) < 5 < same_distribution_z(fair, biased)


class TestMetrics:
    def test_show_what_was_drafted_and_accepted(self, comparison: Comparison) -> None:
        found = comparison.sam.metrics
        drafted, accepted = (
            sum(found[f"agentinfer_sam_{name}_total:{source}"] for source in SOURCES)
            for name in ("draft_tokens", "accepted_tokens")
        )
        assert 0 < accepted <= drafted
        assert found["agentinfer_sam_accepted_tokens_total:own"] > 0
        emitted, passes = (
            found["agentinfer_sam_emitted_tokens_total"],
            found["agentinfer_sam_decode_passes_total"],
        )
        assert found["agentinfer_sam_tokens_per_pass"] == pytest.approx(emitted / passes, rel=0.05)
        assert found["agentinfer_sam_hit_rate"] == pytest.approx(accepted / drafted, rel=0.05)
        assert found["agentinfer_sam_errors_total"] == 0
        assert found["agentinfer_sam_memory_bytes"] > 0

    def test_agree_with_those_of_vllm(self, comparison: Comparison) -> None:
        found = comparison.sam.metrics
        ours = sum(found[f"agentinfer_sam_accepted_tokens_total:{s}"] for s in SOURCES)
        assert ours == pytest.approx(found["vllm:spec_decode_num_accepted_tokens_total"], rel=0.1)


class TestMemory:
    def test_outlives_a_killed_server(
        self, comparison: Comparison, demo_model_folder: Path, folder: Path
    ) -> None:
        config = SamConfig(memory=str(comparison.memory))
        with serving(demo_model_folder, folder / "again.log", sam=config) as client:
            wait_until(lambda: client.stats()["history_tokens"] > 0)
            answers = client.answers(comparison.plain.questions[:6])
            assert [*map(outcome, answers)] == [*map(outcome, comparison.plain.answers[:6])]

    @pytest.mark.slow
    def test_a_corrupt_file_is_set_aside(
        self, comparison: Comparison, demo_model_folder: Path, folder: Path, tmp_path: Path
    ) -> None:
        (file,) = comparison.memory.glob("*.sqlite3")
        (tmp_path / file.name).write_bytes(os.urandom(50_000))
        config = SamConfig(memory=str(tmp_path))
        with serving(demo_model_folder, folder / "corrupt.log", sam=config) as client:
            answers = client.answers(comparison.plain.questions[:6])
            assert [*map(outcome, answers)] == [*map(outcome, comparison.plain.answers[:6])]
        assert re.search(r"WARNING.*(corrupt|set aside)", (folder / "corrupt.log").read_text())
