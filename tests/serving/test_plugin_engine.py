"""A real server of plain vLLM whose environment says `AGENTINFER=1`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest
from support.engine_fixture import START_TIMEOUT

from agentinfer_lg.serving.engine import launch
from agentinfer_lg.serving.engine.command import ServeOptions, build_command
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.engine.machine import Device

PROMPT = "one two three four five six seven, one two three four five six seven, one two three"


@pytest.fixture(scope="module")
def server(demo_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; its command line has nothing of ours."""
    if not any(point.name == "agentinfer" for point in entry_points(group="vllm.general_plugins")):
        pytest.skip(
            "the package is not installed, so vLLM cannot find its plugin (pip install -e . --no-deps)"
        )
    settings = {"sched": {"max_wait_seconds": 30}, "sam": {"memory": "off", "marginal_cost": 0.01}}

    def command(options: ServeOptions, *, device: Device) -> tuple[list[str], dict[str, str]]:
        words, variables = build_command(options, device=device)
        assert not [word for word in words if "agentinfer_lg" in word]
        return words, variables | {"AGENTINFER": "1", "AGENTINFER_CONFIG": json.dumps(settings)}

    options = ServeOptions(
        model=str(demo_model_folder),
        served_model_name="m",
        port=0,
        kv_cache_gib=1,
        max_model_len=1024,
        max_num_seqs=4,
        sam=None,
        sched=None,
    )
    log = tmp_path_factory.mktemp("plugin") / "server.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "build_command", command)
        with Server(options, log=log) as server:
            server.wait_ready(timeout=START_TIMEOUT - 60)
            yield server


@pytest.mark.engine
@pytest.mark.timeout(START_TIMEOUT)
def test_both_parts_are_on(server: Server) -> None:
    assert server.log_path is not None
    log = server.log_path.read_text(encoding="utf-8")
    assert "On by AGENTINFER=1: AgentSAM and AgentSched." in log
    for _ in range(100):  # the kernels of AgentSAM are compiled meanwhile
        answer = httpx.post(
            f"{server.base_url}/completions",
            json={"model": "m", "prompt": PROMPT, "max_tokens": 40, "temperature": 0, "ignore_eos": True},
            timeout=60,
        ).json()
        assert answer["usage"]["completion_tokens"] == 40
        text = httpx.get(f"{server.base_url.removesuffix('/v1')}/metrics", timeout=30).text
        figures = dict(re.findall(r"^(agentinfer_\w+)(?:\{.*\})? ([\d.e+-]+)$", text, re.MULTILINE))
        if float(figures.get("agentinfer_sam_drafts_total", 0)) > 0:
            break
    assert float(figures["agentinfer_sam_drafts_total"]) > 0
    assert float(figures["agentinfer_sched_steps_total"]) > 0
    assert float(figures["agentinfer_sched_queried_tokens_total"]) > 0
    assert float(figures["agentinfer_sched_errors_total"]) == 0
