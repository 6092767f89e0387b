"""vLLM with a model that thinks, with and without a parser of its thoughts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.demo_question import ask, assert_reported, assert_usable, at, examine
from support.run_cli import ROOT
from support.thinking_model import CLOSED, THOUGHT, thinking_model

from agentinfer_lg.serving.engine.command import ServeOptions
from agentinfer_lg.serving.engine.launch import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]
PARSERS = ("deepseek_r1", "qwen3", "none")
NAME = "demo-thinks"


@pytest.fixture(scope="module")
def model_folder(demo_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thinking_model(demo_model_folder, tmp_path_factory.mktemp("thinking") / NAME)


@pytest.fixture(scope="module", params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(parser: str, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    parsed = () if parser == "none" else ("--reasoning-parser", parser)
    options = ServeOptions(
        model=str(model_folder),
        served_model_name=NAME,
        port=0,
        kv_cache_gib=1,
        max_num_seqs=8,
        sam=None,
        sched=None,
        extra_args=(*parsed, "--logits-processors", "support.thinking_processor:ThinkThenAnswer"),
    )
    log = tmp_path_factory.mktemp("thinking") / "server.log"
    variables = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    with Server(options, log=log, environment=variables) as started:
        started.wait_ready(timeout=600)
        yield started


def test_it_thinks_where_its_parser_says(server: Server, parser: str) -> None:
    message = _chat(server)
    thought, answer = (
        message["content"].split(CLOSED) if parser == "none" else (message["reasoning"], message["content"])
    )
    assert thought.strip() == "".join(THOUGHT).strip()
    assert "Paris" in answer
    assert CLOSED not in answer


def test_the_demo_question_ends_in_a_report_without_thoughts(server: Server, tmp_path: Path) -> None:
    outcome = ask(at(server.base_url, NAME, folder=tmp_path))
    assert_reported(outcome)
    written = json.dumps([outcome.result[key] for key in ("answer", "report", "plan", "findings")])
    assert THOUGHT[0] not in written


def test_doctor_finds_it_usable(server: Server, tmp_path: Path) -> None:
    assert_usable(examine(at(server.base_url, NAME, folder=tmp_path)))


def _chat(server: Server) -> dict[str, str]:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 200,
        "temperature": 0,
    }
    with httpx.Client(trust_env=False, timeout=120) as client:
        answer = client.post(f"{server.base_url}/chat/completions", json=body).raise_for_status().json()
    message: dict[str, str] = answer["choices"][0]["message"]
    return message
