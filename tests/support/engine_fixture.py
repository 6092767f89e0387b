"""A real vLLM server with the demo model, started once per test session and only if a test asks for it.

def test_something(real_engine):
    client = OpenAI(base_url=real_engine.base_url, api_key="-")
    client.chat.completions.create(model=real_engine.model, ...)
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.demo_model import DEMO_MODEL, demo_model
from agentinfer_lg.serving.engine.launch import Server

# One test may wait for the start of the engine and for the download of the model, whatever its own work takes.
START_TIMEOUT = 900


@dataclass(frozen=True)
class Engine:
    """A running server."""

    server: Server
    log: Path

    @property
    def base_url(self) -> str:
        """Ends in `/v1`."""
        return self.server.base_url

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.server.model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark and time tests by the fixtures they use, so that no test can forget it.

    Who has the demo model starts an engine, unless its mark `vllm` says otherwise.
    """
    for item in items:
        if {"real_engine", "demo_model_folder"} & set(getattr(item, "fixturenames", ())):
            if item.get_closest_marker("vllm") is None:
                item.add_marker("engine")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(START_TIMEOUT))


@pytest.fixture(scope="session")
def demo_model_folder() -> Path:
    """Folder of the demo model; skips where no engine is installed."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.engine.install)")
    return demo_model()


@pytest.fixture(scope="session")
def real_engine(demo_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A server with the demo model, shared by all tests of the session.

    Its command line is that of plain vLLM. Both parts are there because its environment says `AGENTINFER=1`.
    """
    if not any(point.name == "agentinfer" for point in entry_points(group="vllm.general_plugins")):
        pytest.skip(
            "the package is not installed, so vLLM cannot find its plugin (pip install -e . --no-deps)"
        )
    # Nothing of the tests stays in the user's cache.
    settings = {"sched": {"max_wait_seconds": 30}, "sam": {"memory": "off", "marginal_cost": 0.01}}
    options = ServeOptions(
        model=str(demo_model_folder),
        served_model_name=DEMO_MODEL,
        port=0,
        kv_cache_gib=1,
        max_num_seqs=8,
        sam=None,
        sched=None,
    )
    log = tmp_path_factory.mktemp("engine") / "server.log"
    variables = {"AGENTINFER": "1", "AGENTINFER_CONFIG": json.dumps(settings)}
    with Server(options, log=log, environment=variables) as server:
        server.wait_ready(timeout=START_TIMEOUT - 60)
        yield Engine(server, log)
