"""vLLM-Ascend with our parts in it, on a machine without NPUs; run by `test_ascend_contract.py` in a process of its own.

Real are Ascend's platform, its patches of vLLM, and the methods of its model runner that make and ask a proposer; vLLM's
part of the runner is replaced by what those methods read.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import cycle, islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import ascend_stubs

from agentinfer_lg.errors import ConfigurationError, EngineError, UserInputError
from agentinfer_lg.serving.ascend.conflicts import scheduler_conflict
from agentinfer_lg.serving.ascend.symbols import KNOWN_VERSIONS
from agentinfer_lg.serving.engine.command import ServeOptions, build_command
from agentinfer_lg.serving.engine.diagnosis import explain_exit
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.serving.parts.settings import VARIABLE
from agentinfer_lg.serving.plugin import fill_engine_args
from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.vllm.flags import EXTENSION_CLASS, PROPOSER_CLASS
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.vllm.flags import SCHEDULER_CLASS

PATTERN = (11, 12, 13, 14, 15)
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
ASCEND = os.environ["AGENTINFER_EXPECTED_ASCEND"]
SAM = SamConfig(memory="off", marginal_cost=0.0)
SCHED = SchedConfig(max_wait_seconds=7)
SCHEDULERS = {
    "BatchJobAware",
    "DynamicBatch",
    "DyntraLB",
    "DyntraLBRecompute",
    "ProfilingChunk",
    "Recompute",
    "RecomputeConfig",
    "ShortRequestFirst",
}
"""Schedulers of Ascend that options choose, all of them refused."""
RELOADED = (
    "vllm_ascend.worker.worker",
    "vllm_ascend.worker.model_runner_v1",
    "vllm_ascend.spec_decode",
    "vllm_ascend.spec_decode.suffix_proposer",
    "agentinfer_lg.serving.sam.extension",
    "agentinfer_lg.serving.sam.vllm.extension",
)
"""What has a symbol that we replace or extend, and what replaces it."""
CONFLICTS: list[dict[str, Any]] = [
    {"SLO_limits_for_dynamic_batch": 20},
    {"recompute_scheduler_enable": True},
    {"enable_balance_scheduling": True},
    {"profiling_chunk_config": {"enabled": True}},
    {"scheduler_config": {"recompute_scheduler_enable": True}},
    {"scheduler_config": {"enable_balance_scheduling": True}},
    {"scheduler_config": {"short_request_first_config": {"enabled": True}}},
    {"scheduler_config": {"dyntra_lb_config": {"enabled": True}}},
    {"scheduler_config": {"profiling_chunk_config": {"enabled": True}}},
    {"scheduler_config": {"batch_job_sched_config": {"enabled": True}}},
]


@pytest.fixture(scope="session")
def worker() -> Any:
    """Ascend's worker as vLLM prepares and makes it; its own constructor, which wants an NPU, is left out."""
    import vllm_ascend.worker.model_runner_v1 as ascend
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm_ascend.worker.worker import NPUWorker

    def note(self: Any, **kwargs: Any) -> None:
        self.found_when_made = ascend.get_spec_decode_method

    GPUModelRunner.__init__, NPUWorker.__init__ = make_vllm_part, note
    ascend.get_pp_group = lambda: SimpleNamespace(is_last_rank=True)
    return ascend_stubs.start_worker(EXTENSION_CLASS)


@pytest.fixture(scope="session")
def ascend(worker: Any) -> Any:
    """Module of Ascend's model runner, in the worker."""
    return sys.modules["vllm_ascend.worker.model_runner_v1"]


def make_vllm_part(self: Any, vllm_config: Any, device: str) -> None:
    """What vLLM's constructor leaves behind for Ascend's."""
    from vllm.v1.spec_decode.custom_class_proposer import create_custom_proposer

    self.vllm_config, self.device = vllm_config, device
    self.speculative_config = vllm_config.speculative_config
    self.max_model_len = self.effective_drafter_max_model_len = vllm_config.model_config.max_model_len
    self.max_num_reqs, self.requests, self.sampler = 4, {}, SimpleNamespace(logprobs_mode="raw_logprobs")
    self.input_batch = SimpleNamespace(
        req_ids=["a", "b"],
        num_tokens_no_spec=np.zeros(4, np.int32),
        token_ids_cpu=np.zeros((4, self.max_model_len), np.int32),
    )
    self.drafter = create_custom_proposer(vllm_config)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(MODEL))
    return folder


@pytest.fixture(autouse=True)
def variable(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable with our settings, as `agentinfer serve` sets it."""
    monkeypatch.setenv(VARIABLE, serve(model)[1][VARIABLE])


def serve(model: Path) -> tuple[list[str], dict[str, str]]:
    options = ServeOptions(model=str(model), sam=SAM, sched=SCHED)
    return build_command(options, device="npu", machine=Machine(python="python"))


def engine_config(model: Path, **additional: Any) -> Any:
    """Configuration that vLLM and Ascend's platform make of our flags for an NPU."""
    from vllm.engine.arg_utils import EngineArgs

    given = dict(pairwise(serve(model)[0]))
    args: dict[str, Any] = {
        "speculative_config": json.loads(given["--speculative-config"]),
        "worker_extension_cls": given["--worker-extension-cls"],
        "scheduler_cls": given["--scheduler-cls"],
        "additional_config": additional,
    }
    return EngineArgs(
        model=str(model), skip_tokenizer_init=True, max_model_len=256, **args
    ).create_engine_config()


@pytest.fixture
def runner(ascend: Any, model: Path) -> Iterator[Any]:
    class Runner(ascend.NPUModelRunner):  # type: ignore[misc, name-defined]
        def __init__(self, vllm_config: Any) -> None:
            super(ascend.NPUModelRunner, self).__init__(vllm_config, "npu")
            self.first = self.drafter
            self._set_up_drafter()

        def _make_buffer(self, *args: Any, **kwargs: Any) -> None:
            """Buffers are on the NPU."""

        def execute_model(self, scheduler_output: Any) -> None:
            """Computing is for the NPU."""

    runner = Runner(engine_config(model))
    yield runner
    runner.first.close()


def test_the_platform_is_ascend(ascend: Any) -> None:
    from importlib.metadata import version

    from vllm.platforms import current_platform

    assert version("vllm-ascend") == ASCEND
    assert type(current_platform).__name__ == "NPUPlatform"
    assert ascend.NPUModelRunner.__module__ == "vllm_ascend.worker.model_runner_v1"


def test_the_classes_of_openpangu_are_offered(ascend: Any) -> None:
    from vllm import ModelRegistry

    classes = {"PanguEmbeddedForCausalLM", "PanguProMoEV2ForCausalLM", "PanguUltraMoEForCausalLM"}
    assert classes <= set(ModelRegistry.get_supported_archs())


def test_the_patch_is_there_before_the_worker_is_made(ascend: Any, worker: Any) -> None:
    assert worker.found_when_made is ascend.get_spec_decode_method
    assert worker.found_when_made.__wrapped__ is sys.modules["vllm_ascend.spec_decode"].get_spec_decode_method
    assert worker.agentinfer_stats() == {}


def test_scheduler_proposer_and_extension_survive_the_platform(ascend: Any, model: Path) -> None:
    config = engine_config(model)
    assert config.scheduler_config.scheduler_cls == SCHEDULER_CLASS
    assert config.scheduler_config.get_scheduler_cls().__name__ == "make_scheduler"
    assert not config.scheduler_config.async_scheduling
    assert (config.speculative_config.method, config.speculative_config.model) == (
        "custom_class",
        PROPOSER_CLASS,
    )
    assert config.parallel_config.worker_cls == "vllm_ascend.worker.worker.NPUWorker"
    assert config.parallel_config.worker_extension_cls == EXTENSION_CLASS


def test_plain_vllm_gets_both_parts_from_the_plugin(ascend: Any, model: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    class FilledArgs(EngineArgs):  # type: ignore[misc]
        """Ours to change."""

    fill_engine_args(FilledArgs)
    config = FilledArgs(model=str(model), skip_tokenizer_init=True, max_model_len=256).create_engine_config()
    assert config.scheduler_config.scheduler_cls == SCHEDULER_CLASS
    assert config.speculative_config.model == PROPOSER_CLASS
    assert config.speculative_config.num_speculative_tokens == 15
    assert config.parallel_config.worker_extension_cls == EXTENSION_CLASS


def test_the_settings_reach_the_proposer(ascend: Any, model: Path) -> None:
    from agentinfer_lg.serving.sam.vllm.proposer import AgentSAMProposer

    proposer = AgentSAMProposer(engine_config(model), drafter=SimpleNamespace(stats=lambda: {}))
    proposer.close()
    os.environ[VARIABLE] = '{"sam": {"top_k": 99}}'
    with pytest.raises(ConfigurationError, match="at most 8 similar sessions"):
        AgentSAMProposer(engine_config(model))


def test_settings_in_the_configuration_are_refused_by_later_versions(ascend: Any, model: Path) -> None:
    if ASCEND.startswith("0.23."):
        config = engine_config(model, agentinfer={"sam": {"top_k": 2}})
        assert config.additional_config["agentinfer"] == {"sam": {"top_k": 2}}
        return
    with pytest.raises(ValueError, match="agentinfer"):
        engine_config(model, agentinfer={"sam": {"top_k": 2}})


def test_drafts_are_no_longer_than_its_attention_takes(ascend: Any, model: Path) -> None:
    from vllm.config import set_current_vllm_config
    from vllm_ascend.attention.attention_v1 import AscendAttentionMetadataBuilder

    config = engine_config(model)
    with set_current_vllm_config(config):
        assert config.speculative_config.num_speculative_tokens == 15
        AscendAttentionMetadataBuilder(SimpleNamespace(block_size=128), [], config, "cpu")
        config.speculative_config.num_speculative_tokens = 16
        with pytest.raises(AssertionError, match="limit of 16"):
            AscendAttentionMetadataBuilder(SimpleNamespace(block_size=128), [], config, "cpu")


def test_the_runner_gets_the_proposer_that_vllm_has_made(ascend: Any, runner: Any) -> None:
    assert isinstance(runner.drafter, ascend.AscendSuffixDecodingProposer)
    assert type(runner.first).__name__ == "AgentSAMProposer"
    assert runner.drafter.proposer is runner.first
    runner.drafter.load_model(object())
    runner.drafter.dummy_run(num_tokens=1, with_prefill=True, num_reqs=1, is_profile=True)


def test_a_repetition_is_drafted_on(ascend: Any, runner: Any) -> None:
    from agentinfer_lg.serving.sam.vllm.extension import AgentInferWorkerExtension

    class Worker(AgentInferWorkerExtension):
        model_runner = runner

    wait_until(lambda: Worker().agentinfer_stats()["ready"] == 1, seconds=300)
    text = list(islice(cycle(PATTERN), 200))
    length, draft = 40, []
    begin = [new_request("a", text[:length]), new_request("b", [1, 2, 3])]
    for _ in range(100):
        scheduled = step({"a": 1, "b": 1}, begin)
        runner.execute_model(scheduled)
        begin, length = [], length + 1
        batch = runner.input_batch
        batch.token_ids_cpu[0, :length], batch.token_ids_cpu[1, :3] = text[:length], [1, 2, 3]
        batch.num_tokens_no_spec[:2] = length, 3
        drafts = runner.propose_draft_token_ids([[text[length - 1]], []], None, scheduled, *[None] * 5)
        assert drafts[1] == []
        if draft := drafts[0]:
            break
        time.sleep(0.1)  # the prompt is read in the background
    assert len(draft) >= len(PATTERN)
    assert draft == text[length : length + len(draft)]
    assert len(draft) <= 15
    assert Worker().agentinfer_stats()["errors"] == 0


def test_other_methods_and_proposers_go_to_ascend(ascend: Any, runner: Any) -> None:
    make = ascend.get_spec_decode_method
    with pytest.raises(ValueError, match="Unknown speculative decoding method: nonsense"):
        make("nonsense", runner.vllm_config, "npu", runner)
    stranger = SimpleNamespace(_agentinfer_proposer=object())
    with pytest.raises(ValueError, match="Unknown speculative decoding method: custom_class"):
        make("custom_class", runner.vllm_config, "npu", stranger)


def test_ascend_would_replace_our_scheduler(ascend: Any, model: Path) -> None:
    if ASCEND.startswith("0.23."):
        config = engine_config(model, SLO_limits_for_dynamic_batch=20)
        assert config.scheduler_config.scheduler_cls.endswith("SchedulerDynamicBatch")
    else:
        config = engine_config(model, scheduler_config={"batch_job_sched_config": {"enabled": True}})
        assert config.scheduler_config.scheduler_cls.endswith("BatchJobAwareScheduler")


@pytest.mark.parametrize("additional", CONFLICTS, ids=json.dumps)
def test_every_other_scheduler_is_refused(ascend: Any, additional: dict[str, Any]) -> None:
    options = ServeOptions(model="owner/model", extra_args=("--additional-config", json.dumps(additional)))
    with pytest.raises(UserInputError, match=r"AgentSched cannot run: .* or give --no-sched$"):
        build_command(options, device="npu", machine=Machine(python="python"))


def test_every_option_of_ascend_for_schedulers_is_known(ascend: Any) -> None:
    import vllm_ascend.ascend_config as options

    if not hasattr(options, "SchedulerConfig"):
        return  # 0.23 has no section of them; its platform is read instead
    found = {known.name: known.default for known in fields(options.SchedulerConfig)}
    assert found
    for name, default in found.items():
        chosen = {name: True} if isinstance(default, bool) else {name: {"enabled": True}}
        for additional in (chosen, {"scheduler_config": chosen}):
            assert name in scheduler_conflict(additional, {})


def test_every_scheduler_of_ascend_is_one_of_the_known(ascend: Any) -> None:
    """Who adds one to the platform must look at it: it may take the place of ours."""
    import vllm_ascend.platform as platform

    source = Path(platform.__file__).read_text(encoding="utf-8")
    names = {
        re.sub("Async|Scheduler", "", name) for name in re.findall(r"vllm_ascend\.core\.\w+\.(\w+)", source)
    }
    assert names <= SCHEDULERS
    assert len(names) >= 2


def test_our_scheduler_refuses_what_would_change_its_base(ascend: Any, model: Path) -> None:
    from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

    config = engine_config(model, enable_balance_scheduling=True)
    assert config.scheduler_config.scheduler_cls == SCHEDULER_CLASS
    with pytest.raises(EngineError, match="enable_balance_scheduling in --additional-config"):
        make_scheduler(vllm_config=config)


def test_our_scheduler_stands_on_the_one_that_ascend_has_patched(ascend: Any) -> None:
    from support.sched_drive import scheduler_parts

    from agentinfer_lg.serving.sched.vllm.factory import make_scheduler

    parts = scheduler_parts(
        blocks=20,
        overlap=False,
        draft_tokens=0,
        max_model_len=1024,
        step_tokens=1024,
        max_seqs=8,
    )
    scheduler = make_scheduler(**parts)
    bases = [base.__name__ for base in type(scheduler).__mro__]
    assert bases[:3] == ["AgentScheduler", "AgentSchedMixin", "BalanceScheduler"]
    assert scheduler._config.max_wait_seconds == 7
    os.environ[VARIABLE] = "{"
    with pytest.raises(ConfigurationError, match="AGENTINFER_CONFIG is no JSON"):
        make_scheduler(**parts)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"\bget_spec_decode_method\b", "make_proposer", "get_spec_decode_method is not there"),
        (
            r"\bget_spec_decode_method\(method, ",
            "get_spec_decode_method(method, hint, ",
            "get_spec_decode_method takes (method, hint, vllm_config, device, runner) instead of "
            "(method, vllm_config, device, runner)",
        ),
        (r"\bAscendSuffixDecodingProposer\b", "AscendSuffix", "AscendSuffixDecodingProposer is not there"),
    ],
    ids=["function renamed", "function changed", "class renamed"],
)
def test_what_is_not_as_known_ends_the_start_with_a_sentence(
    worker: Any, tmp_path: Path, old: str, new: str, said: str
) -> None:
    code, log = in_child(lambda: start_changed(old, new), log=tmp_path / "log")
    assert code == 1
    told = explain_exit(log.splitlines(), code=1, model="m", port=1)
    assert told.endswith(
        f"Its last words: AgentSAM does not fit this vllm-ascend ({ASCEND}): "
        f"vllm_ascend.worker.model_runner_v1.{said}; it fits vllm-ascend {', '.join(KNOWN_VERSIONS)}; "
        "start without AgentSAM: --no-sam, or AGENTINFER_SAM=0"
    )
    assert "AttributeError" not in log


def start_changed(old: str, new: str) -> None:
    """Start Ascend's worker again, with its sources changed."""
    sys.meta_path.insert(0, ascend_stubs.ChangedSources("vllm_ascend", old, new))
    for name in RELOADED:
        del sys.modules[name]
    importlib.import_module("vllm_ascend.worker.worker")
    ascend_stubs.start_worker(EXTENSION_CLASS)


def in_child(act: Callable[[], None], *, log: Path) -> tuple[int, str]:
    """Do something in a copy of this process, and return its exit code and what it said."""
    child = os.fork()
    if child == 0:
        with log.open("w") as stream:
            try:
                act()
            except BaseException:
                traceback.print_exc(file=stream)
                stream.flush()
                os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def new_request(name: str, prompt: list[int]) -> SimpleNamespace:
    params = SimpleNamespace(extra_args={"session_id": name}, max_tokens=200)
    return SimpleNamespace(req_id=name, prompt_token_ids=prompt, sampling_params=params)


def step(scheduled: dict[str, int], begin: list[SimpleNamespace]) -> SimpleNamespace:
    return SimpleNamespace(
        finished_req_ids=set(),
        scheduled_new_reqs=begin,
        scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=set()),
        num_scheduled_tokens=scheduled,
        scheduled_spec_decode_tokens={},
        num_spec_tokens_to_schedule=15,
    )


def wait_until(true: Any, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)
