"""The server of llama.cpp's Python package: no schema in `response_format`, no hint that it is not vLLM but the answer 500."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.demo_question import ask, assert_answered, assert_usable, at, examine
from support.server_environment import server_environment
from support.third_party import ThirdParty, free_port, third_party

from agentinfer_lg.serving.engine.demo_model import demo_gguf

# pip compiles it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]
PACKAGES = ("llama-cpp-python[server]==0.3.36",)
WINDOW = 4_096


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThirdParty]:
    commands = server_environment("llama-cpp-python", PACKAGES)
    folder, port = tmp_path_factory.mktemp("llama-cpp-python"), free_port()
    command = [str(commands / "python"), "-m", "llama_cpp.server", "--model", str(demo_gguf())]
    options = {"model_alias": "demo", "n_ctx": WINDOW, "host": "127.0.0.1", "port": port}
    # Threads that wait for a busy core cost more than they bring to a small model.
    options |= {"n_threads": 1, "n_threads_batch": 1}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with third_party(
        [*command, *flags], port=port, model="demo", folder=folder, ready="/v1/models"
    ) as started:
        yield started


def test_the_demo_question_is_answered(server: ThirdParty, tmp_path: Path) -> None:
    assert_answered(ask(at(server.base_url, server.model, folder=tmp_path)))


def test_doctor_finds_it_usable(server: ThirdParty, tmp_path: Path) -> None:
    assert_usable(examine(at(server.base_url, server.model, folder=tmp_path)))
