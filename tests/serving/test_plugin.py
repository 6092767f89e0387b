"""The plugin of plain vLLM servers, against a stand-in for vLLM's `EngineArgs`."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentinfer_lg.serving import plugin
from agentinfer_lg.serving.sam.vllm.flags import EXTENSION_CLASS, PROPOSER_CLASS
from agentinfer_lg.serving.sched.vllm.flags import SCHEDULER_CLASS

ROOT = Path(__file__).parents[2]


@dataclass
class Arguments:
    """The fields of vLLM's `EngineArgs` that matter here."""

    model: str = "owner/model"
    scheduler_cls: Any = None
    scheduling_policy: str = "fcfs"
    async_scheduling: bool | None = None
    enable_prefix_caching: bool | None = None
    speculative_config: dict[str, Any] | None = None
    worker_extension_cls: str = ""
    pipeline_parallel_size: int = 1
    enable_lora: bool = False
    runner: str = "auto"
    logits_processors: list[Any] | None = None
    kv_transfer_config: Any = None
    additional_config: dict[str, Any] = field(default_factory=dict)

    def create_engine_config(self, usage_context: object = None, *, headless: bool = False) -> dict[str, Any]:
        """Return what vLLM would see; like vLLM, leave traces in the arguments."""
        seen = copy.deepcopy(vars(self))
        if self.speculative_config is not None:
            self.speculative_config["target"] = "model"
        self.model = f"resolved {self.model}"
        self.additional_config["prefill"] = "backend"
        return {**seen, "context": usage_context, "headless": headless}


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> type[Arguments]:
    """A fresh class, wrapped, with both parts able to run."""
    for name in ("AGENTINFER", "AGENTINFER_SAM", "AGENTINFER_SCHED", "AGENTINFER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("agentinfer_lg.serving.parts.choice.engine_obstacle", lambda: "")
    monkeypatch.setattr("agentinfer_lg.serving.parts.choice.scheduler_obstacle", lambda model: "")
    plugin._say.cache_clear()

    @dataclass
    class EngineArgs(Arguments):
        create_engine_config = Arguments.create_engine_config

    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", SimpleNamespace(EngineArgs=EngineArgs))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setenv("AGENTINFER", "1")
    plugin.register()
    return EngineArgs


@pytest.fixture
def on_ascend(arguments: type[Arguments], monkeypatch: pytest.MonkeyPatch) -> None:
    platform = SimpleNamespace(current_platform=SimpleNamespace(device_type="npu"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platform)  # type: ignore[arg-type]


class TestRegister:
    @pytest.mark.parametrize("value", [None, "", "0", "false", "no", "nonsense"])
    def test_does_nothing_unless_asked(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        @dataclass
        class EngineArgs(Arguments):
            create_engine_config = Arguments.create_engine_config

        module = SimpleNamespace(EngineArgs=EngineArgs)
        monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", module)  # type: ignore[arg-type]
        monkeypatch.delenv("AGENTINFER", raising=False)
        if value is not None:
            monkeypatch.setenv("AGENTINFER", value)
        plugin.register()
        assert EngineArgs().create_engine_config()["scheduler_cls"] is None

    def test_wraps_once(self, arguments: type[Arguments]) -> None:
        before = arguments.create_engine_config
        plugin.register()
        assert arguments.create_engine_config is before

    def test_does_nothing_in_processes_that_make_no_configuration(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENTINFER", "true")
        monkeypatch.delitem(sys.modules, "vllm.engine.arg_utils", raising=False)
        plugin.register()
        assert "vllm.engine.arg_utils" not in sys.modules

    def test_imports_nothing_heavy(self) -> None:
        code = (
            "import os, sys\nos.environ['AGENTINFER'] = '1'\n"
            "from types import SimpleNamespace\n"
            "class EngineArgs:\n    def create_engine_config(self): return 1\n"
            "sys.modules['vllm.engine.arg_utils'] = SimpleNamespace(EngineArgs=EngineArgs)\n"
            "from agentinfer_lg.serving.plugin import register\nregister()\n"
            "print([n for n in sys.modules if n.split('.')[0] in ('numba', 'numpy', 'torch', 'httpx', 'typer')])\n"
            "print([n for n in sys.modules if n.startswith('vllm') and n != 'vllm.engine.arg_utils'])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert done.stdout.split() == ["[]", "[]"]

    def test_is_an_entry_point_of_the_installed_package(self) -> None:
        found = [point for point in entry_points(group="vllm.general_plugins") if point.name == "agentinfer"]
        if not found:
            pytest.skip("the package is not installed")
        assert found[0].load() is plugin.register


class TestFilling:
    def test_fills_what_is_open(self, arguments: type[Arguments]) -> None:
        config = arguments().create_engine_config("server", headless=True)
        assert config["scheduler_cls"] == SCHEDULER_CLASS
        assert config["speculative_config"] == {
            "method": "custom_class",
            "model": PROPOSER_CLASS,
            "num_speculative_tokens": 16,
        }
        assert config["worker_extension_cls"] == EXTENSION_CLASS
        assert config["additional_config"] == {}
        assert (config["context"], config["headless"]) == ("server", True)

    def test_the_same_arguments_may_be_used_again(
        self, arguments: type[Arguments], caplog: pytest.LogCaptureFixture
    ) -> None:
        args = arguments(additional_config={"x": 1})
        with caplog.at_level(logging.INFO):
            first, second = args.create_engine_config(), args.create_engine_config()
        assert first["speculative_config"] == second["speculative_config"] is not None
        assert first["scheduler_cls"] == second["scheduler_cls"] == SCHEDULER_CLASS
        assert args.scheduler_cls is args.speculative_config is None
        assert [record.getMessage() for record in caplog.records] == [
            "On by AGENTINFER=1: AgentSAM and AgentSched."
        ]

    def test_settings_join_those_of_the_user_who_wins(
        self, arguments: type[Arguments], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = {"sched": {"gain": 2, "max_wait_seconds": 5}, "sam": {"memory": "off", "max_draft": 4}}
        monkeypatch.setenv("AGENTINFER_CONFIG", json.dumps(ours))
        theirs = {"x": 1, "agentinfer": {"sched": {"gain": 9}}}
        args = arguments(additional_config=theirs)
        config = args.create_engine_config()
        assert config["additional_config"]["x"] == 1
        assert config["additional_config"]["agentinfer"] == {
            "sched": {"gain": 9, "max_wait_seconds": 5},
            "sam": {"memory": "off", "max_draft": 4},
        }
        assert config["speculative_config"]["num_speculative_tokens"] == 4
        assert args.additional_config == {"x": 1, "agentinfer": {"sched": {"gain": 9}}}

    @pytest.mark.parametrize(
        ("variable", "gone", "stays"),
        [
            ("AGENTINFER_SAM", "speculative_config", "scheduler_cls"),
            ("AGENTINFER_SCHED", "scheduler_cls", "speculative_config"),
        ],
    )
    def test_a_part_can_be_switched_off(
        self,
        arguments: type[Arguments],
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        gone: str,
        stays: str,
    ) -> None:
        monkeypatch.setenv(variable, "0")
        config = arguments().create_engine_config()
        assert config[gone] is None
        assert config[stays] is not None

    @pytest.mark.parametrize(
        ("given", "kept", "reason"),
        [
            ({"scheduler_cls": "m.C"}, "speculative_config", "--scheduler-cls chooses another scheduler"),
            ({"scheduling_policy": "priority"}, "speculative_config", "chooses another order"),
            ({"kv_transfer_config": {"a": 1}}, "speculative_config", "moves KV caches"),
            ({"speculative_config": {"method": "ngram"}}, "scheduler_cls", "chooses another speculation"),
            ({"async_scheduling": True}, "scheduler_cls", "--async-scheduling"),
            ({"pipeline_parallel_size": 2}, "scheduler_cls", "pipeline stages"),
            ({"enable_lora": True}, "scheduler_cls", "does not tell adapters apart"),
            ({"logits_processors": ["m:C"]}, "scheduler_cls", "custom logits processors"),
        ],
    )
    def test_what_the_user_wants_switches_one_part_off(
        self,
        arguments: type[Arguments],
        caplog: pytest.LogCaptureFixture,
        given: dict[str, Any],
        kept: str,
        reason: str,
    ) -> None:
        config = arguments(**copy.deepcopy(given)).create_engine_config()
        assert {name: config[name] for name in given} == given
        assert config[kept] in (SCHEDULER_CLASS, config["speculative_config"])
        assert config[kept] is not None
        assert len([record for record in caplog.records if reason in record.getMessage()]) == 1

    def test_a_pooling_model_is_left_alone(self, arguments: type[Arguments]) -> None:
        config = arguments(runner="pooling").create_engine_config()
        assert config["scheduler_cls"] is config["speculative_config"] is None
        assert config["worker_extension_cls"] == ""

    def test_switches_that_are_off_are_no_obstacle(self, arguments: type[Arguments]) -> None:
        config = arguments(async_scheduling=False, enable_prefix_caching=False).create_engine_config()
        assert config["scheduler_cls"] == SCHEDULER_CLASS
        assert config["speculative_config"] is not None

    def test_another_extension_stays(
        self, arguments: type[Arguments], caplog: pytest.LogCaptureFixture
    ) -> None:
        assert arguments(worker_extension_cls="m.E").create_engine_config()["worker_extension_cls"] == "m.E"
        assert "sees no session hints" in caplog.text

    def test_ascend_gets_both_parts_with_drafts_that_it_can_verify(
        self, arguments: type[Arguments], on_ascend: None
    ) -> None:
        config = arguments().create_engine_config()
        assert config["scheduler_cls"] == SCHEDULER_CLASS
        assert config["speculative_config"]["num_speculative_tokens"] == 15
        assert config["worker_extension_cls"] == EXTENSION_CLASS

    def test_settings_stay_in_the_variable(
        self, arguments: type[Arguments], on_ascend: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENTINFER_CONFIG", '{"sched": {"gain": 2}, "sam": {"max_draft": 4}}')
        config = arguments(additional_config={"x": 1}).create_engine_config()
        assert config["additional_config"] == {"x": 1}
        assert config["scheduler_cls"] == SCHEDULER_CLASS
        assert config["speculative_config"]["num_speculative_tokens"] == 4

    def test_a_scheduler_of_ascend_switches_ours_off(
        self, arguments: type[Arguments], on_ascend: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        theirs = {"SLO_limits_for_dynamic_batch": 20}
        config = arguments(additional_config=dict(theirs)).create_engine_config()
        assert config["additional_config"] == theirs
        assert config["scheduler_cls"] is None
        assert config["speculative_config"] is not None
        assert (
            "AgentSched is off: SLO_limits_for_dynamic_batch in --additional-config chooses Ascend's dynamic "
            "batch scheduler." in caplog.messages
        )


class TestFailures:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "AGENTINFER_CONFIG is no JSON"),
            ("[]", "must be a JSON object"),
            ('{"scheduler": {}}', "has no part scheduler; there are sam, sched"),
            ('{"sched": {"gain": 0}}', "gain is a number above 0"),
            ('{"sam": 3}', "settings of AgentSAM must be a JSON object"),
        ],
    )
    def test_wrong_settings_mean_plain_vllm_and_one_sentence(
        self,
        arguments: type[Arguments],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        text: str,
        reason: str,
    ) -> None:
        monkeypatch.setenv("AGENTINFER_CONFIG", text)
        args = arguments()
        assert args.create_engine_config()["scheduler_cls"] is None
        args.create_engine_config()
        (record,) = caplog.records
        assert record.getMessage().startswith("AgentInfer is off: ")
        assert reason in record.getMessage()

    def test_an_older_vllm_without_a_field_stays_plain(
        self, arguments: type[Arguments], caplog: pytest.LogCaptureFixture
    ) -> None:
        args = arguments()
        del args.worker_extension_cls
        type(args).worker_extension_cls = ""  # type: ignore[assignment]
        assert args.create_engine_config()["scheduler_cls"] is None
        assert "this vLLM has no worker_extension_cls" in caplog.text

    def test_where_vllm_refuses_our_parts_it_starts_without(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, arguments: type[Arguments]
    ) -> None:
        class Picky(Arguments):
            def create_engine_config(self, *context: object, **more: Any) -> dict[str, Any]:
                if self.speculative_config:
                    self.model = "half done"
                    msg = "no speculation\nfor this model"
                    raise ValueError(msg)
                return dict(vars(self))

        plugin.fill_engine_args(Picky)
        config = Picky().create_engine_config()
        assert (config["scheduler_cls"], config["model"]) == (None, "owner/model")
        assert "vLLM does not start with it (no speculation for this model)" in caplog.text

    def test_what_is_wrong_without_us_is_raised_as_vllm_says_it(
        self, arguments: type[Arguments], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(Arguments):
            def create_engine_config(self, *context: object, **more: Any) -> dict[str, Any]:
                msg = "no such model"
                raise ValueError(msg)

        plugin.fill_engine_args(Broken)
        with pytest.raises(ValueError, match="no such model"):
            Broken().create_engine_config()
        assert "does not start with it" not in caplog.text
