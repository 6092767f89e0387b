from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from agentinfer_lg.cli.bench import app
from agentinfer_lg.errors import AgentInferError, UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session, Turn
from agentinfer_lg.evals.sam.replay.drafters import Costs, make_drafter, missing_package
from agentinfer_lg.evals.sam.replay.figures import Score, Tally, Times, replay, speedup_ratio
from agentinfer_lg.evals.sam.replay.ngram import prompt_lookup
from agentinfer_lg.evals.sam.replay.oracle import OracleDrafter
from agentinfer_lg.evals.sam.replay.run import Comparison, compare
from agentinfer_lg.serving.sam.types import IntArray

DATA = os.environ.get("AGENTINFER_DATA")
needs_arctic = pytest.mark.skipif(
    bool(missing_package("arctic")), reason="needs the extra `arctic` (suffix decoding)"
)


def ids(*tokens: int) -> IntArray:
    return np.asarray(tokens, dtype=np.int32)


def session(*turns: tuple[list[int], list[int]], name: str = "s") -> Session:
    return Session(name, name, tuple(Turn(ids(*prompt), ids(*output)) for prompt, output in turns))


class Scripted:
    """Drafts what it was told, and remembers what it was asked."""

    def __init__(self, *drafts: list[int]) -> None:
        self.drafts = list(drafts)
        self.calls: list[object] = []

    def begin_session(self, session: Session) -> None:
        self.calls.append(("session", session.id))

    def begin_turn(self, prompt: IntArray) -> None:
        self.calls.append(("turn", prompt.tolist()))

    def accept(self, tokens: list[int]) -> None:
        self.calls.append(("accept", tokens))

    def propose(self, k: int) -> list[int]:
        return self.drafts.pop(0) if self.drafts else []

    def end_turn(self) -> None:
        self.calls.append("end turn")

    def end_session(self) -> None:
        self.calls.append("end session")

    def costs(self) -> Costs:
        return Costs(build_seconds=1e-3, build_tokens=500, held_bytes=600, held_tokens=10)


class Perfect(Scripted):
    """Knows the outputs, and drafts beyond their ends."""

    def begin_session(self, session: Session) -> None:
        self.outputs = [turn.output.tolist() for turn in session.turns]

    def begin_turn(self, prompt: IntArray) -> None:
        self.rest = self.outputs.pop(0)

    def accept(self, tokens: list[int]) -> None:
        assert self.rest[: len(tokens)] == tokens
        self.rest = self.rest[len(tokens) :]

    def propose(self, k: int) -> list[int]:
        return (self.rest + [-1] * k)[:k]


def test_a_replay_computed_by_hand() -> None:
    two_turns = session(([1, 2], [10, 11, 12, 13, 14, 15]), ([3], [20, 21]))
    drafter = Scripted([11, 12, 99], [], [15, 16, 17, 18], [99])
    score = replay([two_turns], drafter, k=3, half="all")
    # 10 from the prefill; 11 12 13 (two of three drafted right); 14 (no draft); 15 (drafted, then two beyond the end);
    # 20 from the prefill; 21 (one drafted, wrong).
    tally = Tally("s", outputs=2, steps=4, emitted=6, drafts=3, drafted=7, accepted=3)
    assert score.sessions == (tally,)
    assert drafter.calls == [
        ("session", "s"),
        ("turn", [1, 2]),
        *[("accept", tokens) for tokens in ([10], [11, 12, 13], [14], [15])],
        "end turn",
        ("turn", [1, 2, 10, 11, 12, 13, 14, 15, 3]),
        *[("accept", tokens) for tokens in ([20], [21])],
        "end turn",
        "end session",
    ]
    row = score.row()
    assert row["tokens_per_pass"] == pytest.approx(6 / 4)
    assert row["hit_rate"] == pytest.approx(3 / 7)
    assert row["drafted_per_pass"] == pytest.approx(7 / 4)
    assert row["speedup_at_0_03"] == pytest.approx(1.5 / (1 + 0.03 * 1.75))
    assert row["build_us_per_token"] == pytest.approx(2.0)
    assert row["bytes_per_token"] == pytest.approx(60)
    assert (row["sessions"], row["steps"], len(score.times.steps)) == (1, 4, 4)
    assert (len(score.times.first_turns), len(score.times.next_turns)) == (1, 1)


outputs = st.lists(st.integers(0, 5), min_size=1, max_size=40)
turns = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=30), outputs), min_size=1, max_size=4
)
recorded = st.lists(turns, min_size=1, max_size=4).map(
    lambda all_turns: [session(*own, name=str(number)) for number, own in enumerate(all_turns)]
)


@given(sessions=recorded, k=st.integers(1, 8))
def test_a_perfect_drafter_emits_one_more_than_drafted_and_never_beyond_the_end(
    sessions: list[Session], k: int
) -> None:
    score = replay(sessions, Perfect(), k=k, half="all")
    lengths = [len(turn.output) - 1 for each in sessions for turn in each.turns]
    assert score.total("emitted") == sum(lengths)
    assert score.total("steps") == sum(-(-length // (k + 1)) for length in lengths)
    assert score.tokens_per_pass <= k + 1


@settings(deadline=None, max_examples=25)  # each example makes automata
@given(sessions=recorded, k=st.integers(1, 6))
def test_no_copying_drafter_passes_the_oracle(sessions: list[Session], k: int) -> None:
    bound = replay(sessions, OracleDrafter(any_occurrence=True), k=k, half="all")
    oracle = replay(sessions, OracleDrafter(any_occurrence=False), k=k, half="all")
    ngram = replay(sessions, make_drafter("ngram", k=k), k=k, half="all")
    assert bound.total("steps") <= oracle.total("steps") <= bound.total("emitted")
    assert bound.total("steps") <= ngram.total("steps")
    assert oracle.hit_rate in (0.0, 1.0)


def test_the_oracle_copies_from_the_session_and_from_finished_ones() -> None:
    first = session(([1, 2, 3], [4, 5, 6, 7]), name="a")
    repeated = session(([9, 4], [5, 6, 7, 8]), name="b")
    for any_occurrence in (False, True):
        alone = replay([repeated], OracleDrafter(any_occurrence=any_occurrence), k=4, half="all")
        after = replay(
            [repeated], OracleDrafter(any_occurrence=any_occurrence), k=4, half="all", before=[first]
        )
        assert (alone.total("steps"), after.total("steps")) == (3, 1)
    looping = session(([1, 2, 3, 1], [2, 3, 1, 2]), name="c")
    assert replay([looping], OracleDrafter(any_occurrence=False), k=4, half="all").total("steps") == 1


@pytest.mark.parametrize("name", ["oracle", "oracle-any", pytest.param("arctic", marks=needs_arctic)])
def test_sessions_apart_draw_on_those_before_only(name: str) -> None:
    script = ([1, 2], [*range(10, 40)])
    sessions = [session(script, name=str(number)) for number in range(3)]
    apart = replay(sessions, make_drafter(name, k=8), k=8, half="all", apart=True)
    assert [tally.steps for tally in apart.sessions] == [29, 29, 29]
    before = [session(([3], script[1]), name="before")]
    after = replay(sessions, make_drafter(name, k=8), k=8, half="all", apart=True, before=before)
    assert after.sessions[0].steps == after.sessions[2].steps < 29
    assert len(after.times.steps) == after.total("steps")
    together = replay(sessions, make_drafter(name, k=8), k=8, half="all")
    assert together.sessions[0].steps == 29 > together.sessions[1].steps


def test_a_session_that_fails_in_its_own_process_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(Scripted):
        def propose(self, k: int) -> list[int]:
            raise ZeroDivisionError

    with pytest.raises(AgentInferError, match="session s failed"):
        replay([session(([1], [2, 3]))], Broken(), k=2, half="all", apart=True)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_only_the_half_asked_for_is_counted_but_all_sessions_run() -> None:
    sessions = [session(([1], [2, 3]), name=str(number)) for number in range(40)]
    seen: list[None] = []
    halves = [
        replay(sessions, Scripted(), k=2, half=half, on_session=lambda: seen.append(None))
        for half in ("tune", "report")
    ]
    assert len(seen) == 80
    groups = [{tally.group for tally in score.sessions} for score in halves]
    assert groups[0].isdisjoint(groups[1])
    assert len(groups[0] | groups[1]) == 40


def test_sessions_that_run_before_are_not_counted() -> None:
    drafter = Scripted()
    one, other = session(([1], [2, 3]), name="a"), session(([1], [2, 3]), name="b")
    score = replay([one], drafter, k=2, half="all", before=[other])
    assert [call for call in drafter.calls if call[0] == "session"] == [("session", "b"), ("session", "a")]
    assert score.total("steps") == 1


def test_nothing_to_replay_is_refused() -> None:
    with pytest.raises(UserInputError, match="at least one session"):
        replay([], Scripted(), k=2)
    with pytest.raises(UserInputError, match="k >= 1"):
        replay([session(([1], [2]))], Scripted(), k=0)


def _score(*tallies: tuple[str, int, int, int]) -> Score:
    sessions = tuple(
        Tally(group, 1, steps, emitted, 0, drafted) for group, emitted, steps, drafted in tallies
    )
    return Score(sessions=sessions, times=Times(), costs=Costs())


def test_the_speedup_ratio_is_that_of_the_ratio_of_speedups() -> None:
    rng = np.random.default_rng(3)
    steps = [int(number) for number in rng.integers(50, 200, size=60)]
    other = _score(*[(str(i), 2 * n, n, n) for i, n in enumerate(steps)])
    ours = _score(*[(str(i), 2 * n, n - n // (4 + i % 3), 2 * n) for i, n in enumerate(steps)])
    ratio, low, high = astuple(speedup_ratio(ours, other, cost=0.1))
    assert ratio == pytest.approx(ours.speedup(0.1) / other.speedup(0.1))
    assert low < ratio < high
    assert high - low < 0.1
    assert astuple(speedup_ratio(other, other)) == (1.0, 1.0, 1.0)


def test_sessions_of_one_group_are_resampled_together() -> None:
    alternating = [(str(i % 2), 200, 100 if i % 2 else 50, 0) for i in range(100)]
    plain = [(group, 200, 100, 0) for group, *_ in alternating]
    _, low, high = astuple(speedup_ratio(_score(*alternating), _score(*plain)))
    assert (low, high) == (
        pytest.approx(1.0),
        pytest.approx(2.0),
    )  # two groups only: all of one, or of the other


@pytest.mark.parametrize(
    ("tokens", "shortest", "longest", "k", "expected"),
    [
        ([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 2, 3, 2, [9, 1]),  # the earliest of equally long ones
        ([2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2, 3, 1, [8]),  # the longest before the earliest
        ([2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2, 2, 1, [7]),  # unless longer ones are not looked at
        ([5, 6, 7], 1, 3, 4, []),
        ([5, 6, 5], 2, 3, 4, []),  # too short
        ([4, 4, 4, 4], 2, 3, 5, [4]),  # overlapping, up to the end of what is known
        ([1], 2, 3, 4, []),
        ([], 1, 2, 4, []),
    ],
)
def test_prompt_lookup(tokens: list[int], shortest: int, longest: int, k: int, expected: list[int]) -> None:
    assert prompt_lookup(ids(*tokens), shortest, longest, k).tolist() == expected


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_prompt_lookup_finds_what_vllm_finds() -> None:
    from vllm.v1.spec_decode.ngram_proposer import _find_longest_matched_ngram_and_propose_tokens as theirs

    rng = np.random.default_rng(0)
    for case in range(2000):
        tokens = rng.integers(0, 2 + case % 5, size=int(rng.integers(1, 60))).astype(np.int32)
        shortest = int(rng.integers(1, 4))
        longest, k = shortest + int(rng.integers(0, 4)), int(rng.integers(1, 9))
        found = theirs(tokens, shortest, longest, 1 << 20, k)
        assert prompt_lookup(tokens, shortest, longest, k).tolist() == found.tolist(), (
            tokens,
            shortest,
            longest,
        )


@needs_arctic
def test_suffix_decoding_is_used_as_vllm_uses_it() -> None:
    from arctic_inference.suffix_decoding import SuffixDecodingCache

    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 4, size=60).astype(np.int32) for _ in range(4)]
    drafter = make_drafter("arctic", k=8)
    cache = SuffixDecodingCache(max_tree_depth=24, max_cached_requests=10_000)
    for request, text in enumerate(texts):
        drafter.begin_session(session(([0], [0])))
        drafter.begin_turn(text[:30])
        cache.start_request(request, text[:30])
        for end in range(31, 61):
            drafter.accept(text[end - 1 : end].tolist())
            cache.add_active_response(request, text[end - 1 : end].tolist())
            expected = cache.speculate(
                request,
                text[max(0, end - 24) : end],
                max_spec_tokens=8,
                max_spec_factor=1.0,
                min_token_prob=0.1,
            )
            assert drafter.propose(8) == expected.token_ids
        costs = drafter.costs()
        assert costs.held_bytes > 0
        drafter.end_turn()
        drafter.end_session()
        cache.stop_request(request)
    assert costs.build_tokens == 120


def test_drafters_whose_package_is_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    comparison = Comparison(sets=("x",), drafters=("none", "ngram", "arctic"))
    assert comparison.available == ("none",)
    assert [sentence.split()[0] for sentence in comparison.missing] == ["ngram", "arctic"]
    with pytest.raises(UserInputError, match=r"agentinfer-lg\[arctic\]"):
        make_drafter("arctic", k=4)
    with pytest.raises(UserInputError, match="no drafter 'nothing'"):
        missing_package("nothing")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A folder of ten chats that repeat themselves, with a tokenizer beside it."""
    words = ["[UNK]", "<|im_start|>", "<|im_end|>", *(f"w{number}" for number in range(50))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    folder = tmp_path / "chats"
    folder.mkdir()
    for number in range(10):
        said = " ".join(f"w{(number + step) % 50}" for step in range(40))
        chat = [{"role": "user", "content": said[:60]}, {"role": "assistant", "content": said}] * 2
        (folder / f"{number}.json").write_text(json.dumps(chat), encoding="utf-8")
    return folder


def test_bench_sam_writes_one_row_per_set_drafter_and_k(chats: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    drafters = [name for name in ("none", "ngram", "arctic", "oracle") if not missing_package(name)]
    flags = ["--sets", str(chats), "--drafters", ",".join(drafters), "--k", "2,4", "--half", "all"]
    flags += ["--tokenizer", str(tmp_path), "--json", str(file), "--batches", "1,3"]
    done = CliRunner().invoke(app, ["sam", *flags])
    assert done.exit_code == 0, done.output
    result = json.loads(file.read_text())
    rows = result["rows"]
    assert [(row["drafter"], row["k"]) for row in rows] == [(name, k) for k in (2, 4) for name in drafters]
    wanted = {"set", "tokens_per_pass", "hit_rate", "drafted_per_pass", "speedup_at_0_03", "propose_us_p50"}
    assert all(wanted | {"build_us_per_token", "bytes_per_token"} <= set(row) for row in rows)
    figures = {(row["drafter"], row["k"]): row for row in rows}
    assert figures["none", 2]["tokens_per_pass"] == 1.0
    assert figures["ngram", 4]["tokens_per_pass"] > 1.5
    if "arctic" in drafters:
        assert figures["none", 4]["vs_arctic_high"] < 1 <= figures["oracle", 4]["vs_arctic_low"]
        assert "vs_arctic" not in figures["arctic", 4]
    measured = [(row["drafter"], row["batch"], row["k"]) for row in result["batches"]]
    assert measured == ([("arctic", 1, 4), ("arctic", 3, 4)] if "arctic" in drafters else [])
    assert result["settings"]["half"] == "all"
    assert "numpy" in result["versions"]
    assert str(tmp_path) not in json.dumps(result["settings"] | {"sets": []})
    assert "oracle" in done.output


def test_bench_sam_says_what_is_wrong_with_its_flags(chats: Path, tmp_path: Path) -> None:
    for flags, sentence in (
        (["--k", "four"], "whole numbers"),
        (["--k", "0"], "start at 1"),
        (["--drafters", "nothing"], "no drafter"),
        (["--sets", ","], "at least one set"),
    ):
        done = CliRunner().invoke(app, ["sam", "--sets", str(chats), "--tokenizer", str(tmp_path), *flags])
        assert isinstance(done.exception, UserInputError), flags
        assert sentence in str(done.exception)


@pytest.mark.skipif(DATA is None, reason="AGENTINFER_DATA is not set: no recorded data")
@pytest.mark.parametrize("name", ["tau-airline", "tau-retail", "webdancer", "who-and-when"])
def test_recorded_sessions(name: str, tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    byte_tokenizer.save(str(tmp_path / "tokenizer.json"))
    comparison = Comparison(
        sets=(name,), drafters=("ngram", "oracle"), k=(8,), half="all", tokenizer=tmp_path, limit_sessions=3
    )
    ngram, oracle = compare(comparison)
    assert ngram["sessions"] == 3
    assert 1 < float(ngram["tokens_per_pass"]) < float(oracle["tokens_per_pass"]) <= 9
