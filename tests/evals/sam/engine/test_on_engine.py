"""`agentinfer bench engine` with real servers."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from agentinfer_lg.evals.datasets.trajectories import load_sessions
from agentinfer_lg.evals.sam.engine.figures import make_rows
from agentinfer_lg.evals.sam.engine.plan import Piece, Spec, plan
from agentinfer_lg.evals.sam.engine.run import EngineBenchmark, EngineOptions

SPECS: tuple[Spec, ...] = ("none", "ngram", "ours")


def write_chats(folder: Path) -> None:
    """Orders of different customers, told in much the same words."""
    for number in range(12):
        order = f"W{number * 7919 % 10_000:04}"
        messages = [
            {"role": "system", "content": "You help customers with their orders."},
            {"role": "user", "content": f"Where is order {order}?"},
            {"role": "assistant", "content": f'Let me look.\n{{"tool": "get_order", "order_id": "{order}"}}'},
            {"role": "tool", "content": f"order {order}: delivered, 2 items, paid by card"},
            {
                "role": "assistant",
                "content": f"Order {order} was delivered: 2 items, paid by card. Anything else?",
            },
        ]
        (folder / f"{number}.json").write_text(json.dumps({"task_id": number, "messages": messages}))


@pytest.fixture
def pieces(tmp_path: Path, demo_model_folder: Path) -> list[Piece]:
    write_chats(tmp_path)
    sessions = load_sessions(str(tmp_path), tokenizer=demo_model_folder)
    return plan(sessions, batches=[1, 2], per_batch=1, warm=4, turns=2, max_context=512)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_variant_writes_what_was_recorded(pieces: list[Piece], demo_model_folder: Path) -> None:
    specs = [*SPECS, *(["suffix"] if importlib.util.find_spec("arctic_inference") else [])]
    options = EngineOptions(model=str(demo_model_folder), max_context=512, max_batch=4, kv_cache_gib=1)
    benchmark = EngineBenchmark(specs=specs, options=options)
    before = own_children()
    benchmark.run(pieces)
    assert benchmark.left_out == {}
    assert own_children() == before

    recorded = {
        (piece.number, session.id, number): tuple(turn.output.tolist())
        for piece in pieces
        if piece.measured
        for session in piece.sessions
        for number, turn in enumerate(session.turns)
    }
    for spec in specs:
        emitted = {
            (run.piece, request.session, request.turn): request.output
            for run in benchmark.runs
            if run.spec == spec
            for request in run.requests
        }
        assert emitted == recorded, spec
    rows = {(row.spec, row.batch): row for row in make_rows(benchmark.runs)}
    assert rows["none", 1].drafted == 0
    for batch in (1, 2):
        assert rows["ngram", batch].compared == rows["none", batch].requests
        assert rows["ngram", batch].accepted > 0
        later = [r for run in benchmark.runs if run.batch == batch for r in run.requests if r.turn == 1]
        assert all(request.cached_tokens > 0 for request in later)  # a turn goes on where the last one ended


def own_children() -> set[int]:
    """Processes that this one started and that still are there."""
    children: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            children.add(int(stat.parent.name))
    return children
