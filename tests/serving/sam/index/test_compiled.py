"""Kernels that were compiled of older sources are not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import agentinfer_lg.serving.sam.index.automaton as automaton

_COUNT_LOADED = """
from agentinfer_lg.serving.sam.index import automaton
import numpy as np
automaton.SuffixAutomaton().extend(np.arange(50, dtype=np.int32))
print(sum(automaton.extend.stats.cache_hits.values()))
"""


def cache_hits(folder: Path) -> int:
    root = Path(automaton.__file__).resolve().parents[2]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_LOADED], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_second_process_loads_and_a_changed_source_compiles_anew(tmp_path: Path) -> None:
    assert cache_hits(tmp_path) == 0
    assert cache_hits(tmp_path) == 1
    before = os.stat(automaton.__file__).st_mtime - 10
    for index in tmp_path.rglob("*.nbi"):
        os.utime(index, (before, before))
    assert cache_hits(tmp_path) == 0
