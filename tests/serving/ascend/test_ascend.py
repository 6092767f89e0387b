"""What vLLM-Ascend needs, against modules of the same shape: its options, its symbols, its proposer."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentinfer_lg.errors import EngineError, UserInputError
from agentinfer_lg.serving.ascend.conflicts import check_scheduler, scheduler_conflict
from agentinfer_lg.serving.ascend.devices import npus, visible_npus
from agentinfer_lg.serving.ascend.patches import patch_runner, patch_worker
from agentinfer_lg.serving.ascend.spec_decode_method import patch_spec_decode_method
from agentinfer_lg.serving.ascend.symbols import KNOWN_VERSIONS
from agentinfer_lg.serving.engine.command import ServeOptions, build_command, part_notes
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.vllm.binding import note_proposer
from agentinfer_lg.serving.sched.config import SchedConfig

RUNNER, WORKER = "vllm_ascend.worker.model_runner_v1", "vllm_ascend.worker.worker"
ON = {"enabled": True}


class TestConflicts:
    @pytest.mark.parametrize(
        ("additional", "option"),
        [
            ({"SLO_limits_for_dynamic_batch": 0}, "SLO_limits_for_dynamic_batch"),
            ({"recompute_scheduler_enable": True}, "recompute_scheduler_enable"),
            ({"enable_balance_scheduling": 1}, "enable_balance_scheduling"),
            ({"profiling_chunk_config": ON}, "profiling_chunk_config"),
            (
                {"scheduler_config": {"recompute_scheduler_enable": True}},
                "scheduler_config.recompute_scheduler_enable",
            ),
            (
                {"scheduler_config": {"short_request_first_config": ON}},
                "scheduler_config.short_request_first_config",
            ),
            ({"scheduler_config": {"dyntra_lb_config": ON}}, "scheduler_config.dyntra_lb_config"),
            ({"scheduler_config": {"profiling_chunk_config": ON}}, "scheduler_config.profiling_chunk_config"),
            ({"scheduler_config": {"batch_job_sched_config": ON}}, "scheduler_config.batch_job_sched_config"),
        ],
    )
    def test_an_option_that_chooses_another_scheduler_is_named(
        self, additional: dict[str, Any], option: str
    ) -> None:
        clause = scheduler_conflict(additional, {})
        assert clause.startswith(f"{option} in --additional-config chooses Ascend's ")

    @pytest.mark.parametrize(
        "additional",
        [
            {},
            {"SLO_limits_for_dynamic_batch": -1},
            {"recompute_scheduler_enable": False, "profiling_chunk_config": {}},
            {"profiling_chunk_config": {"enabled": False}, "scheduler_config": None},
            {"scheduler_config": {"dyntra_lb_config": {"mode": "x"}, "enable_balance_scheduling": False}},
            {"agentinfer": {"sched": {"gain": 2}}, "weight_prefetch_config": ON},
        ],
    )
    def test_others_are_none(self, additional: dict[str, Any]) -> None:
        assert scheduler_conflict(additional, {}) == ""

    @pytest.mark.parametrize(
        ("value", "additional", "counts"),
        [
            ("1", {}, True),
            ("0", {}, False),
            ("", {}, False),
            ("1", {"enable_balance_scheduling": False}, False),
        ],
    )
    def test_a_variable_counts_where_the_option_does_not(
        self, value: str, additional: dict[str, Any], counts: bool
    ) -> None:
        clause = scheduler_conflict(additional, {"VLLM_ASCEND_BALANCE_SCHEDULING": value})
        assert ("VLLM_ASCEND_BALANCE_SCHEDULING" in clause) is counts

    def test_the_scheduler_itself_refuses_them_on_ascend_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = SimpleNamespace(additional_config={"enable_balance_scheduling": True})
        monkeypatch.delitem(sys.modules, "vllm_ascend", raising=False)
        check_scheduler(config, {})
        monkeypatch.setitem(sys.modules, "vllm_ascend", types.ModuleType("vllm_ascend"))
        check_scheduler(SimpleNamespace(additional_config=None), {})
        with pytest.raises(EngineError, match=r"enable_balance_scheduling .* \(--no-sched\)$"):
            check_scheduler(config, {})


class TestStart:
    def test_is_refused_with_the_option_and_the_switch(self) -> None:
        options = ServeOptions(
            model="m", extra_args=("--additional-config.profiling_chunk_config.enabled", "true")
        )
        for act in (build_command, part_notes):
            with pytest.raises(UserInputError, match=r"profiling_chunk_config .* or give --no-sched$"):
                act(options, device="npu", machine=Machine(python="python"))
            act(options, device="cuda", machine=Machine(python="python"))

    def test_is_refused_for_a_variable_too(self) -> None:
        machine = Machine(python="python", environ={"VLLM_ASCEND_BALANCE_SCHEDULING": "1"})
        with pytest.raises(UserInputError, match="the variable VLLM_ASCEND_BALANCE_SCHEDULING"):
            build_command(ServeOptions(model="m"), device="npu", machine=machine)

    @pytest.mark.parametrize("more", [("--scheduler-cls", "m.C"), ("--kv-transfer-config", "{}")])
    def test_is_not_refused_where_ours_is_off_anyway(self, more: tuple[str, ...]) -> None:
        theirs = ("--additional-config", '{"recompute_scheduler_enable": true}')
        options = ServeOptions(model="m", extra_args=(*theirs, *more))
        assert "make_scheduler" not in str(build_command(options, device="npu", machine=Machine(python="p")))

    @pytest.mark.parametrize(("wanted", "npu", "cuda"), [(16, 15, 16), (8, 8, 8), (64, 15, 64)])
    def test_drafts_are_no_longer_than_the_device_can_verify(self, wanted: int, npu: int, cuda: int) -> None:
        options = ServeOptions(model="m", sam=SamConfig(max_draft=wanted), sched=SchedConfig())
        for device, most in (("npu", npu), ("cuda", cuda)):
            command, _ = build_command(options, device=device, machine=Machine(python="python"))  # type: ignore[arg-type]
            assert f'"num_speculative_tokens": {most}' in " ".join(command)


class TestDevices:
    def test_are_the_numbered_files(self, tmp_path: Path) -> None:
        for name in ("davinci10", "davinci2", "davinci_manager", "davinci3x", "hisi_hdc"):
            (tmp_path / name).touch()
        assert npus(tmp_path) == (2, 10)

    @pytest.mark.parametrize(
        ("listed", "present", "visible"),
        [("", 0, None), ("", 8, 8), ("1,2", 8, 2), ("0, 1,2", 0, 3), ("0,1,2", 2, 2), (",", 4, 4)],
    )
    def test_visible_are_those_that_the_variable_names(
        self, listed: str, present: int, visible: int | None
    ) -> None:
        assert visible_npus({"ASCEND_RT_VISIBLE_DEVICES": listed}, present=present) == visible

    @pytest.mark.parametrize(
        ("extra", "listed", "why"),
        [
            (
                ("--tensor-parallel-size", "4"),
                "1,2",
                "--tensor-parallel-size 4 wants 4 NPUs, but 2 can be used (ASCEND_RT_VISIBLE_DEVICES=1,2): give at most 2, ",
            ),
            (
                ("-tp=16",),
                "",
                "-tp 16 wants 16 NPUs, but 8 can be used (all of this machine): give at most 8, ",
            ),
        ],
    )
    def test_too_few_end_the_start_with_a_sentence(
        self, extra: tuple[str, ...], listed: str, why: str
    ) -> None:
        machine = Machine(python="p", npus=8, environ={"ASCEND_RT_VISIBLE_DEVICES": listed})
        with pytest.raises(UserInputError) as error:
            build_command(ServeOptions(model="m", extra_args=extra), device="npu", machine=machine)
        assert str(error.value).startswith(why)
        build_command(ServeOptions(model="m", extra_args=extra), device="cuda", machine=machine)

    @pytest.mark.parametrize(
        "extra",
        [
            ("--tensor-parallel-size", "8"),
            ("--tensor-parallel-size=16", "--nnodes", "2"),
            ("--tensor-parallel-size=16", "--distributed-executor-backend", "ray"),
            ("-tp", "x"),
        ],
    )
    def test_enough_or_others_of_which_nothing_is_known_are_passed_on(self, extra: tuple[str, ...]) -> None:
        machine = Machine(python="p", npus=8)
        command, _ = build_command(ServeOptions(model="m", extra_args=extra), device="npu", machine=machine)
        assert tuple(command[-len(extra) :]) == extra

    def test_nothing_of_vllm_ascends_own_choices_is_overridden(self, tmp_path: Path) -> None:
        (tmp_path / "quant_model_description.json").write_text("{}")
        options = ServeOptions(model=str(tmp_path))
        command, variables = build_command(options, device="npu", machine=Machine(python="p", npus=8))
        assert not {"--quantization", "--block-size", "--tensor-parallel-size"} & set(command)
        assert set(variables) == {"VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"}


class SuffixProposer:
    """Ascend's class, which needs a package that is not there."""

    def __init__(self, vllm_config: object, runner: object) -> None:
        msg = "arctic-inference is not installed"
        raise ImportError(msg)

    def dummy_run(self, num_tokens: int) -> None:
        """Ascend calls it while it measures memory."""


class Proposer:
    """A proposer of ours that remembers what it was asked."""

    def __init__(self) -> None:
        self.runner: object = None
        self.asked: list[object] = []

    def load_model(self, *args: object) -> None:
        self.asked.append(args)

    def dummy_run(self, *args: object, **kwargs: object) -> None:
        self.asked.append(kwargs)

    def propose(self, *args: object, **kwargs: object) -> list[list[int]]:
        self.asked.append((args, kwargs))
        return [[7]]

    def bind_runner(self, runner: object) -> None:
        self.runner = runner

    def begin_step(self, scheduler_output: object) -> None:
        self.asked.append(scheduler_output)

    def stats(self) -> dict[str, float]:
        return {"asked": len(self.asked)}


def get_spec_decode_method(method: str, vllm_config: object, device: object, runner: object) -> str:
    """Ascend's function."""
    if method != "ngram":
        msg = f"Unknown speculative decoding method: {method}"
        raise ValueError(msg)
    return f"Ascend's {method}"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ascend's module of the model runner, loaded as in its worker."""
    module = types.ModuleType(RUNNER)
    module.get_spec_decode_method = get_spec_decode_method  # type: ignore[attr-defined]
    module.AscendSuffixDecodingProposer = SuffixProposer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, RUNNER, module)
    monkeypatch.setitem(sys.modules, WORKER, types.ModuleType(WORKER))
    return module


class TestProposer:
    def test_ours_is_one_of_ascends_class_and_the_one_that_was_made_first(self, module: Any) -> None:
        patch_worker()
        runner, proposer = SimpleNamespace(), Proposer()
        note_proposer(runner, proposer)
        found = module.get_spec_decode_method("custom_class", None, "npu", runner)
        assert isinstance(found, SuffixProposer)
        assert proposer.runner is runner
        found.load_model("model")
        found.dummy_run(num_tokens=3)
        found.begin_step("step")
        assert found.propose([[1]], num_speculative_tokens=2) == [[7]]
        assert proposer.asked == [
            ("model",),
            {"num_tokens": 3},
            "step",
            (([[1]],), {"num_speculative_tokens": 2}),
        ]
        assert found.stats() == {"asked": 4}
        other = SimpleNamespace()
        found.bind_runner(other)
        assert proposer.runner is other

    def test_a_runner_without_one_gets_a_new_one(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        patch_worker()
        made: list[object] = []

        def create(vllm_config: object) -> object:
            made.append(vllm_config)
            return Proposer()

        creator = SimpleNamespace(create_custom_proposer=create)
        monkeypatch.setitem(sys.modules, "vllm.v1.spec_decode.custom_class_proposer", creator)  # type: ignore[arg-type]
        runner = SimpleNamespace()
        found = module.get_spec_decode_method("custom_class", "config", "npu", runner)
        assert (found.proposer.runner, made) == (runner, ["config"])

    def test_other_methods_and_proposers_of_others_are_ascends(self, module: Any) -> None:
        patch_worker()
        assert module.get_spec_decode_method("ngram", None, "npu", None) == "Ascend's ngram"
        stranger = SimpleNamespace(_agentinfer_proposer=object())
        with pytest.raises(ValueError, match="Unknown speculative decoding method: custom_class"):
            module.get_spec_decode_method("custom_class", None, "npu", stranger)
        with pytest.raises(ValueError, match="Unknown speculative decoding method: nonsense"):
            module.get_spec_decode_method("nonsense", None, "npu", stranger)

    def test_ascends_own_counts_where_it_takes_ours(self, module: Any) -> None:
        def takes_it(method: str, vllm_config: object, device: object, runner: object) -> str:
            return f"Ascend's {method}"

        module.get_spec_decode_method = takes_it
        patch_worker()
        runner = SimpleNamespace()
        note_proposer(runner, Proposer())
        found = module.get_spec_decode_method("custom_class", None, "npu", runner)
        assert found == "Ascend's custom_class"

    def test_what_goes_wrong_in_ascends_own_is_not_hidden(self, module: Any) -> None:
        def fails(method: str, vllm_config: object, device: object, runner: object) -> str:
            msg = "block size 7 is not supported"
            raise ValueError(msg)

        module.get_spec_decode_method = fails
        patch_worker()
        runner = SimpleNamespace()
        note_proposer(runner, Proposer())
        with pytest.raises(ValueError, match="block size 7"):
            module.get_spec_decode_method("custom_class", None, "npu", runner)

    def test_is_put_in_once(self, module: Any) -> None:
        patch_worker()
        first = module.get_spec_decode_method
        patch_worker()
        patch_runner(type("NPUModelRunner", (), {"__module__": RUNNER}))
        assert module.get_spec_decode_method is first

    def test_is_put_in_by_the_runner_where_the_worker_came_later(
        self, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, WORKER)
        patch_worker()
        patch_runner(type("GPUModelRunner", (), {"__module__": "vllm.v1.worker.gpu_model_runner"}))
        assert module.get_spec_decode_method is get_spec_decode_method
        patch_runner(type("NPUModelRunner", (), {"__module__": RUNNER}))
        assert module.get_spec_decode_method is not get_spec_decode_method


class TestUnknownVersion:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda m: delattr(m, "get_spec_decode_method"), "get_spec_decode_method is not there"),
            (
                lambda m: setattr(m, "get_spec_decode_method", lambda config, runner: None),
                "get_spec_decode_method takes (config, runner) instead of (method, vllm_config, device, runner)",
            ),
            (
                lambda m: delattr(m, "AscendSuffixDecodingProposer"),
                "AscendSuffixDecodingProposer is not there",
            ),
            (
                lambda m: setattr(m, "AscendSuffixDecodingProposer", type("C", (), {})),
                "AscendSuffixDecodingProposer takes () instead of (vllm_config, runner)",
            ),
            (lambda m: setattr(m, "AscendSuffixDecodingProposer", 3), "tells its parameters"),
            (lambda m: sys.modules.pop(RUNNER), "get_spec_decode_method is not there"),
        ],
        ids=["gone", "changed", "base gone", "base changed", "no class", "no module"],
    )
    def test_ends_the_start_with_one_sentence(
        self, module: Any, change: Callable[[Any], None], said: str
    ) -> None:
        change(module)
        with pytest.raises(EngineError) as error:
            patch_spec_decode_method()
        text = str(error.value)
        assert said in text
        assert text.startswith("AgentSAM does not fit this vllm-ascend (")
        assert text.endswith(
            f"; it fits vllm-ascend {', '.join(KNOWN_VERSIONS)}; start without AgentSAM: --no-sam, or AGENTINFER_SAM=0"
        )
        assert "\n" not in text
