"""LiteLLM's proxy in front of vLLM: it lists names of its own, and drops or passes on what it does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.demo_question import ask, assert_answered, assert_usable, at, examine
from support.engine_fixture import Engine
from support.run_cli import COMPLETE, PARTIAL, CommandLine
from support.server_environment import server_environment
from support.third_party import ThirdParty, free_port, third_party

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2_400)]
PACKAGES = ("litellm[proxy]==1.108.7",)
KEY = "sk-litellm-of-the-tests"
PROVIDERS = ("hosted_vllm", "openai")
"""The two names under which LiteLLM knows a vLLM server."""


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(
    provider: str, real_engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThirdParty]:
    commands = server_environment("litellm", PACKAGES)
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    behind = {
        "model": f"{provider}/{real_engine.model}",
        "api_base": real_engine.base_url,
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": "researcher", "litellm_params": behind}],
        "general_settings": {"master_key": KEY},
    }
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    with third_party(
        [str(commands / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
        port=port,
        model="researcher",
        folder=folder,
        ready="/health/liveliness",
        variables={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"},
    ) as server:
        yield server


def test_the_demo_question_is_answered(proxy: ThirdParty, tmp_path: Path) -> None:
    assert_answered(ask(_at(proxy, tmp_path)))


def test_doctor_finds_it_usable(proxy: ThirdParty, tmp_path: Path) -> None:
    assert_usable(examine(_at(proxy, tmp_path)))


def test_its_refusal_of_a_wrong_key_reaches_the_user(proxy: ThirdParty, tmp_path: Path) -> None:
    line = at(proxy.base_url, proxy.model, folder=tmp_path, environment=_keys("sk-another"))
    for outcome in (examine(line), ask(line)):
        assert outcome.code not in (COMPLETE, PARTIAL)
        assert "No connected db" in outcome.everything, "it looks for the key where it has nothing"
        assert "sk-another" not in outcome.everything


def _at(proxy: ThirdParty, folder: Path) -> CommandLine:
    return at(proxy.base_url, proxy.model, folder=folder, environment=_keys(KEY))


def _keys(key: str) -> dict[str, str]:
    return {f"AGENTINFER_{tier}__API_KEY": key for tier in ("SMALL", "LARGE")}
