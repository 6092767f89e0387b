"""A long session with context compression on a real engine: what shrinks, what is warm, what is released."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentinfer_lg.evals.compression.long_session.run import LongSession, LongSessionOptions
from agentinfer_lg.evals.compression.long_session.script import make_script
from agentinfer_lg.evals.datasets.hotpotqa import write_corpus

ROUNDS = 14


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = os.environ.get("AGENTINFER_DATA", "")
    if not data:
        pytest.skip("the documents are those of HotpotQA: set AGENTINFER_DATA (docs/data.md)")
    folder = tmp_path_factory.mktemp("docs")
    write_corpus(Path(data) / "hotpotqa", folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_swap_is_warm_and_releases_what_it_supersedes(demo_model_folder: Path, docs: Path) -> None:
    session = LongSession(
        script=make_script(docs, rounds=ROUNDS),
        options=LongSessionOptions(
            model=str(demo_model_folder),
            docs=docs,
            rounds=ROUNDS,
            after_tokens=3000,
            keep_rounds=1,
            notes_tokens=300,
            observation_tokens=450,
        ),
        variants=("on", "cold"),
    )
    steps: list[str] = []
    session.run(on_step=steps.append)
    assert len(steps) == session.steps
    on, cold = session.figures["on"], session.figures["cold"]
    for figures in (on, cold):
        assert len(figures.rounds) == ROUNDS
        assert figures.swaps
        # a prompt changes at a swap, and in no other way
        assert all(each.extends or each.swapped for each in figures.rounds)
        # the engine gives up what was superseded, and nothing else; the last block may be full or not
        assert all(abs(each.superseded_blocks - each.expected_blocks) <= 2 for each in figures.swaps)
        assert all(each.superseded_blocks > 0 for each in figures.swaps)
        assert all(each.tokens_after < each.tokens_before for each in figures.swaps)
        # no round waits for a distillation: those that ended within a boundary did so by chance, and at once
        for each in figures.distillations:
            assert each.boundaries > 0
            assert each.left == each.boundaries or each.waited_seconds < 1.0
        assert figures.series[-1]["errors"] == 0
    for swap in on.swaps:
        assert swap.hit_share >= 0.95
        assert swap.hit_share > swap.common_share
        assert swap.bulk_tokens > swap.rest_tokens
    for swap in cold.swaps:
        assert swap.bulk_tokens == swap.rest_tokens == 0
        # what was not made warm is only what both contexts begin with, by blocks
        assert abs(swap.cached_tokens - swap.common_tokens) <= 2 * session.options.block_size
