"""Figures of benchmarks that must not move, and the commands that make them.

`python -m support.golden` in `tests` writes the files of `tests/evals/golden` again. A figure may move only with a reason.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.sched_traces import write_coding_traces
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from agentinfer_lg.cli.bench import app

FOLDER = Path(__file__).parents[1] / "evals" / "golden"
DATA = os.environ.get("AGENTINFER_DATA", "")
_TIMED = ("_us_", "_us", "build_us_per_token", "bytes_per_token", "overhead_", "wall_")
"""Parts of the names of figures that the machine decides."""

Figures = dict[str, Any]  # Any: JSON


def sam(folder: Path) -> Figures:
    """Return the rows of `bench sam` on a few made-up chats."""
    vocabulary = {f"w{number}": number for number in range(50)} | {"<unk>": 50}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    chats = folder / "chats"
    chats.mkdir()
    for number in range(10):
        said = " ".join(f"w{(number * step) % 50 if step % 7 else step % 50}" for step in range(60))
        again = " ".join(f"w{(number + step) % 50}" for step in range(60))
        chat = [{"role": "user", "content": said[:90]}, {"role": "assistant", "content": again}] * 3
        (chats / f"{number}.json").write_text(json.dumps(chat), encoding="utf-8")
    drafters = "none,ngram,request-sam,paper,ours,ours-topk,oracle"
    flags = ("--sets", str(chats), "--drafters", drafters, "--k", "3,8", "--half", "all")
    return _rows(folder, "sam", *flags, "--tokenizer", str(folder))


def sam_recorded(folder: Path) -> Figures:
    """Return the rows of `bench sam` on a few recorded sessions, a byte being a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = (
        "--sets",
        "tau-airline,who-and-when",
        "--drafters",
        "none,ngram,ours",
        "--k",
        "8",
        "--half",
        "all",
    )
    return _rows(folder, "sam", *flags, "--limit-sessions", "3", "--tokenizer", str(folder), "--data", DATA)


def sched(folder: Path) -> Figures:
    """Return the rows of `bench sched` on a few made-up traces."""
    data = write_coding_traces(folder / "data")
    policies = "fcfs,sjf-uncached,lpm,plas,continuum-cdf,thunderagent-tuned,agentsched,agentsched-adaptive"
    flags = ("--policies", policies, "--concurrency", "3", "--kv-tokens", "20000", "--jobs", "1")
    return _rows(folder, "sched", *flags, "--gaps", "short", "--one-shots", "0.4", "--data", str(data))


def progress(folder: Path) -> Figures:
    """Return the figures of `bench progress` on Who&When."""
    return _written(folder, "progress", "--data", str(Path(DATA) / "who-and-when"))


MADE: Mapping[str, Callable[[Path], Figures]] = {
    "sam": sam,
    "sam-recorded": sam_recorded,
    "sched": sched,
    "progress": progress,
}
NEEDS_DATA = ("sam-recorded", "progress")


def _rows(folder: Path, *arguments: str) -> Figures:
    found = _written(folder, *arguments)
    return {
        name: [_steady(row, folder) for row in found[name]] for name in ("rows", "pooled") if name in found
    }


def _steady(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if not any(part in name for part in _TIMED)}
    return {name: Path(value).name if name == "set" else value for name, value in kept.items()}


def _written(folder: Path, *arguments: str) -> Figures:
    file = folder / "figures.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of vLLM's dependencies
        done = CliRunner().invoke(app, [*arguments, "--json", str(file)], catch_exceptions=False)
    if done.exit_code:
        raise SystemExit(done.output)
    figures: Figures = json.loads(file.read_text(encoding="utf-8"))
    return figures


def main(names: list[str]) -> None:
    """Write golden files again, all or those that are named."""
    for name in names or MADE:
        with tempfile.TemporaryDirectory() as folder:
            figures = MADE[name](Path(folder))
        text = json.dumps(figures, indent=1, sort_keys=True) + "\n"
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
