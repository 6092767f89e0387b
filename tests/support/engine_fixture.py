"""A real vLLM server with the demo model, started once per test session and only if a test asks for it.

@pytest.mark.engine
def test_something(engine):
    client = OpenAI(base_url=engine.base_url, api_key="-")
    client.chat.completions.create(model=engine.model, ...)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.demo_model import DEMO_MODEL, demo_model
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.sam.config import SamConfig

# One test may wait for the start of the engine and for the download of the model, whatever its own work takes.
START_TIMEOUT = 900


@dataclass(frozen=True)
class Engine:
    """A running server."""

    base_url: str
    """Ends in `/v1`."""
    model: str


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark and time tests by the fixtures they use, so that no test can forget it."""
    for item in items:
        if {"engine", "demo_model_folder"} & set(getattr(item, "fixturenames", ())):
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
def engine(demo_model_folder: Path) -> Iterator[Engine]:
    """A server with the demo model, shared by all tests of the session."""
    options = ServeOptions(
        model=str(demo_model_folder),
        served_model_name=DEMO_MODEL,
        port=0,
        kv_cache_gib=1,
        max_num_seqs=8,
        sam=SamConfig(memory="off"),  # nothing of the tests stays in the user's cache
    )
    with Server(options) as server:
        server.wait_ready(timeout=START_TIMEOUT - 60)
        yield Engine(base_url=server.base_url, model=server.model)
