"""llama.cpp's own server, as the package `xllamacpp` carries it: a schema is obeyed, the window is in `meta`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from support.demo_question import ask, assert_answered, assert_usable, at, examine
from support.server_environment import server_environment
from support.third_party import ThirdParty, free_port, third_party

from agentinfer_lg.serving.engine.demo_model import demo_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]
PACKAGES = ("xllamacpp==2026.10.11549",)
WINDOW = 4_096
PROGRAM: Final = """
import sys
import threading

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.hostnames = ["127.0.0.1"]
parameters.model.path, parameters.port, parameters.n_ctx = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
parameters.model_alias = {"demo"}
for processors in (parameters.cpuparams, parameters.cpuparams_batch):
    processors.n_threads = 1  # threads that wait for a busy core cost more than they bring to a small model
server = xllamacpp.Server(parameters)
threading.Event().wait()
"""
"""What the command `llama-server` does. Arguments: the file of the model, the port, the window."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThirdParty]:
    commands = server_environment("llama-server", PACKAGES)
    folder, port = tmp_path_factory.mktemp("llama-server"), free_port()
    command = [str(commands / "python"), "-c", PROGRAM, str(demo_gguf()), str(port), str(WINDOW)]
    with third_party(command, port=port, model="demo", folder=folder, ready="/health") as started:
        yield started


def test_the_demo_question_is_answered(server: ThirdParty, tmp_path: Path) -> None:
    assert_answered(ask(at(server.base_url, server.model, folder=tmp_path)))


def test_doctor_finds_it_usable(server: ThirdParty, tmp_path: Path) -> None:
    assert_usable(examine(at(server.base_url, server.model, folder=tmp_path)))
