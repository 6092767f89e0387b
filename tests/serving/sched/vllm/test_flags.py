"""When vLLM schedules with AgentSched, and what is said where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentinfer_lg.serving.engine.flags import PartFlags, given_flags
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.vllm.flags import SCHEDULER_CLASS, sched_flags, scheduler_obstacle


def flags(*extra: str, config: SchedConfig | None = None) -> PartFlags:
    return sched_flags(config or SchedConfig(), given=given_flags(extra))


def test_is_on_by_default() -> None:
    part = flags("--max-num-seqs", "3")
    assert part == PartFlags(flags=(("scheduler-cls", SCHEDULER_CLASS),))
    assert flags(config=SchedConfig(gain=2)).settings == {"gain": 2}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (("--scheduler-cls", "m.C"), "--scheduler-cls chooses another scheduler"),
        (("--scheduler_cls=m.C",), "chooses another scheduler"),
        (("--scheduling-policy", "priority"), "--scheduling-policy priority chooses another order"),
        (("--runner", "pooling"), "only text generation is scheduled so (--runner)"),
        (("--convert=embed",), "only text generation is scheduled so (--convert)"),
        (("--kv-transfer-config", "{}"), "moves KV caches"),
        (("--kv-transfer-config.kv_connector", "X"), "moves KV caches"),
        (("--kv-offloading-size", "4"), "moves KV caches"),
        (("--ec-transfer-config", "{}"), "moves encoder caches"),
    ],
)
def test_is_off_where_the_user_wants_something_else(extra: tuple[str, ...], reason: str) -> None:
    part = flags(*extra, config=SchedConfig(gain=2))
    assert reason in part.off
    assert (part.flags, part.settings, part.note) == ((), {}, "")


@pytest.mark.parametrize(
    "extra",
    [
        ("--scheduling-policy", "fcfs"),
        ("--async-scheduling",),
        ("-pp", "2"),
        ("--enable-prefix-caching",),
        ("--runner", "generate"),
    ],
)
def test_stays_on_where_nothing_is_in_the_way(extra: tuple[str, ...]) -> None:
    part = flags(*extra)
    assert part.flags
    assert not part.note


def test_orders_without_a_prefix_cache_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("enable_prefix_caching: false\n")
    for extra in (("--no-enable-prefix-caching",), ("--config", str(file))):
        part = flags(*extra)
        assert part.flags
        assert "only orders requests" in part.note
    assert not flags("--no-enable-prefix-caching", config=SchedConfig(retention="off")).note


def test_models_that_have_no_prefixes_are_known_by_their_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"is_encoder_decoder": True}))
    assert "encoder-decoder" in scheduler_obstacle(str(tmp_path))
    for text in ("{}", "[]", "{", '{"is_encoder_decoder": false}'):
        (tmp_path / "config.json").write_text(text)
        assert scheduler_obstacle(str(tmp_path)) == ""
    assert scheduler_obstacle("owner/model") == scheduler_obstacle("~nobody-of-this-name/x") == ""
