"""The plugin in a process of the real vLLM, which finds it by itself; no engine is started."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

CONFIGURED = """
import sys
from vllm.engine.arg_utils import EngineArgs
config = EngineArgs(model=sys.argv[1], max_model_len=128).create_engine_config()
ours = sorted(name for name in sys.modules if name.split(".")[0] == "agentinfer_lg")
print("RESULT", config.scheduler_config.scheduler_cls, config.speculative_config, *ours)
"""

BROKEN = """
import sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "agentinfer_lg.serving.parts.choice":
            raise ImportError("half of an installation")

sys.meta_path.insert(0, Finder)
"""


def configured(model: Path, *folders: Path, **variables: str) -> tuple[list[str], str]:
    """Let vLLM make its configuration; return what came of it and all that was said."""
    if not any(point.name == "agentinfer" for point in entry_points(group="vllm.general_plugins")):
        pytest.skip(
            "the package is not installed, so vLLM cannot find its plugin (pip install -e . --no-deps)"
        )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTINFER")}
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED, str(model)],
        env={**kept, **variables, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")] or [done.stderr]
    return line.split()[1:], done.stdout + done.stderr


def test_without_the_variable_nothing_of_ours_is_there(demo_model_folder: Path) -> None:
    (scheduler, speculation, *ours), said = configured(demo_model_folder)
    assert (scheduler, speculation) == ("None", "None")
    assert ours == ["agentinfer_lg", "agentinfer_lg.serving", "agentinfer_lg.serving.plugin"]
    assert "AgentInfer" not in said


def test_a_broken_installation_means_plain_vllm_and_one_sentence(
    demo_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    (scheduler, speculation, *_), said = configured(demo_model_folder, tmp_path, AGENTINFER="1")
    assert (scheduler, speculation) == ("None", "None")
    assert said.count("AgentInfer is off: half of an installation") == 1
