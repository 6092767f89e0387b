"""A real server of plain vLLM whose environment says `AGENTINFER=1`."""

from __future__ import annotations

import re

import httpx
import pytest
from support.engine_fixture import START_TIMEOUT, Engine

from agentinfer_lg.serving.engine.command import build_command

PROMPT = "one two three four five six seven, one two three four five six seven, one two three"


def test_the_command_line_has_nothing_of_ours(real_engine: Engine) -> None:
    words, _ = build_command(real_engine.server.options, device=real_engine.server.device)
    assert not [word for word in words if "agentinfer_lg" in word]


@pytest.mark.timeout(START_TIMEOUT)
def test_both_parts_are_on(real_engine: Engine) -> None:
    assert "On by AGENTINFER=1: AgentSAM and AgentSched." in real_engine.log.read_text(encoding="utf-8")
    body = {"model": real_engine.model, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    for _ in range(100):  # the kernels of AgentSAM are compiled meanwhile
        answer = httpx.post(
            f"{real_engine.base_url}/completions", json=body | {"ignore_eos": True}, timeout=60
        ).json()
        assert answer["usage"]["completion_tokens"] == 40
        text = httpx.get(f"{real_engine.base_url.removesuffix('/v1')}/metrics", timeout=30).text
        figures = dict(re.findall(r"^(agentinfer_\w+)(?:\{.*\})? ([\d.e+-]+)$", text, re.MULTILINE))
        if float(figures.get("agentinfer_sam_drafts_total", 0)) > 0:
            break
    assert float(figures["agentinfer_sam_drafts_total"]) > 0
    assert float(figures["agentinfer_sched_steps_total"]) > 0
    assert float(figures["agentinfer_sched_queried_tokens_total"]) > 0
    assert float(figures["agentinfer_sched_errors_total"]) == 0
