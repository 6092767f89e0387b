"""The benchmark of retrieval: its sessions, its figures, its command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from agentinfer_lg.cli.bench import app
from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sam.retrieval.run import SyntheticSessions, measure, recall


def _runs(tokens: list[int]) -> set[tuple[int, ...]]:
    return {tuple(tokens[at : at + 3]) for at in range(len(tokens) - 2)}


def test_sessions_of_a_task_share_more_than_others() -> None:
    source = SyntheticSessions(tokens=1_000)
    query = _runs(source.query(5).tolist())
    shared = [len(query & _runs(source.session(number).tolist())) / len(query) for number in range(40)]
    assert min(shared[20:24]) > 2 * max(shared[:20] + shared[24:])
    assert min(shared[20:24]) < 0.95


def test_sessions_depend_on_seed_and_number_only() -> None:
    one, two = SyntheticSessions(seed=1), SyntheticSessions(seed=1)
    _ = one.session(3)
    assert np.array_equal(one.session(7), two.session(7))
    assert not np.array_equal(one.session(7)[:200], SyntheticSessions(seed=2).session(7)[:200])
    assert one.session(7).dtype == np.int32
    assert int(min(one.session(number).min() for number in range(50))) >= 0


@pytest.mark.parametrize("tokens", [200, 1_000, 3_000])
def test_mean_length(tokens: int) -> None:
    source = SyntheticSessions(tokens=tokens)
    lengths = [len(source.session(number)) for number in range(0, 1_600, 4)]
    assert np.mean(lengths) == pytest.approx(tokens, rel=0.1)


def test_one_row_per_size() -> None:
    told: list[str] = []
    rows = list(
        measure([100, 20], queries=10, on_progress=lambda what, done, total: told.append(what) or None)
    )
    assert [row["sessions"] for row in rows] == [20, 100]
    for row in rows:
        assert row["recall_at_8"] > 0.9
        assert all(math.isfinite(value) and value > 0 for value in row.values()), row
        assert row["query_ms_p50"] <= row["query_ms_p99"]
    assert set(told) == {"adding sessions", "looking up", "attaching", "loading from disk"}


def test_recall_on_recorded_sessions(tmp_path: Path) -> None:
    words = Tokenizer(
        models.WordLevel({"?": 0, **{f"w{number}": number + 1 for number in range(2_000)}}, unk_token="?")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    chats = str(_recorded(tmp_path / "chats", tasks=20, trials=3))
    row = recall(chats, tokenizer=tmp_path / "tokenizer.json")
    assert (row["set"], row["sessions"]) == (chats, 60)
    assert 3 <= int(row["queries"]) < 60  # those of one half
    assert float(row["recall_at_8"]) > 0.95
    assert float(row["recall_at_8"]) > float(row["recall_at_8_common_kept"])
    with pytest.raises(UserInputError, match="No two sessions"):
        recall(str(_recorded(tmp_path / "none", tasks=5, trials=1)), tokenizer=tmp_path / "tokenizer.json")


def test_sizes_are_checked() -> None:
    with pytest.raises(UserInputError, match="none below 4"):
        list(measure([3]))
    with pytest.raises(UserInputError, match="too short"):
        SyntheticSessions(tokens=50)


def _recorded(folder: Path, *, tasks: int, trials: int) -> Path:
    """Chats of one application."""
    folder.mkdir()
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(2_000)]

    def text(seed: int, length: int) -> str:
        return " ".join(np.random.default_rng(seed).choice(words, length))

    for task in range(tasks):
        for trial in range(trials):
            turns = [text(1_000 * task + turn, 20) for turn in range(4)]
            messages = [{"role": "system", "content": text(7, 100)}]
            for turn in turns:
                messages.append({"role": "user", "content": turn})
                messages.append({"role": "assistant", "content": text(int(random.integers(10**6)), 10)})
            content = {"messages": messages, "task_id": task}
            (folder / f"{task}-{trial}.json").write_text(json.dumps(content))
    return folder


class TestCommand:
    def test_table_and_json(self, tmp_path: Path) -> None:
        out = tmp_path / "figures.json"
        arguments = [
            "retrieval",
            "--sessions",
            "20,40",
            "--tokens",
            "300",
            "--queries",
            "5",
            "--json",
            str(out),
        ]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[4:]] == ["20", "40"]
        figures = json.loads(out.read_text())
        assert [row["sessions"] for row in figures["rows"]] == [20, 40]
        assert figures["settings"] == {"tokens": 300, "queries": 5, "seed": 0}

    def test_without_disk(self) -> None:
        done = CliRunner().invoke(app, ["retrieval", "--sessions", "20", "--queries", "2", "--no-disk"])
        assert done.exit_code == 0
        assert "load" not in done.stdout

    def test_no_numbers(self) -> None:
        with pytest.raises(UserInputError, match="not 'many'"):
            CliRunner().invoke(app, ["retrieval", "--sessions", "many"], catch_exceptions=False)
