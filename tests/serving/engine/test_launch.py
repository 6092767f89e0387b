"""The command line for a machine, and the life of the server process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine_fixture import Engine
from support.processes import processes_of
from support.waiting import wait_until

from agentinfer_lg.errors import EngineError, UserInputError
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.engine import launch
from agentinfer_lg.serving.engine.command import ServeOptions, build_command
from agentinfer_lg.serving.engine.diagnosis import explain_exit, startup_stage
from agentinfer_lg.serving.engine.launch import Server
from agentinfer_lg.serving.engine.machine import Machine, detect_device
from agentinfer_lg.serving.engine.tool_parsers import find_tool_call_parser

BARE = Machine(python="python", memory_gib=16)


def command_of(options: ServeOptions, device: launch.Device = "cpu", machine: Machine = BARE) -> list[str]:
    return build_command(options, device=device, machine=machine)[0]


def environment_of(
    options: ServeOptions, device: launch.Device = "cpu", machine: Machine = BARE
) -> dict[str, str]:
    return build_command(options, device=device, machine=machine)[1]


def value_after(command: list[str], flag: str) -> str:
    assert command.count(flag) == 1
    return command[command.index(flag) + 1]


class TestCommandOnACpu:
    def test_avoids_the_broken_command_of_the_cpu_wheel(self) -> None:
        command = command_of(ServeOptions(model="owner/model"))
        assert command[:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "owner/model"]

    def test_short_prompts_can_hit_the_prefix_cache_and_the_usage_tells(self) -> None:
        command = command_of(ServeOptions(model="owner/model"))
        assert value_after(command, "--block-size") == "32"
        assert "--enable-prompt-tokens-details" in command

    def test_is_eager_unless_compiling_was_asked_for(self) -> None:
        assert "--enforce-eager" in command_of(ServeOptions(model="m"))
        assert "--enforce-eager" not in command_of(ServeOptions(model="m", compile=True))
        assert "--enforce-eager" not in command_of(ServeOptions(model="m", extra_args=("-O3",)))

    def test_uses_every_core_and_sends_no_telemetry(self) -> None:
        variables = environment_of(ServeOptions(model="m"))
        assert variables["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
        assert variables["VLLM_NO_USAGE_STATS"] == variables["DO_NOT_TRACK"] == "1"

    @pytest.mark.parametrize(("memory", "expected"), [(0.5, "1"), (16, "4"), (23.9, "5"), (1000, "32")])
    def test_kv_cache_follows_the_free_memory(self, memory: float, expected: str) -> None:
        variables = environment_of(ServeOptions(model="m"), machine=Machine(memory_gib=memory))
        assert variables["VLLM_CPU_KVCACHE_SPACE"] == expected

    @pytest.mark.parametrize(
        ("extra", "expected"),
        [
            (("--data-parallel-size", "2"), "4"),
            (("--data_parallel_size=4",), "2"),
            (("-dp", "2"), "4"),
            (("--data-parallel-size", "8", "--data-parallel-size-local", "2"), "4"),
            (("-dp", "64"), "1"),
            (("--data-parallel-size", "0"), "8"),  # vLLM says what is wrong with it
        ],
    )
    def test_each_data_parallel_rank_gets_its_share_of_the_memory(
        self, extra: tuple[str, ...], expected: str
    ) -> None:
        machine = Machine(memory_gib=32)
        assert (
            environment_of(ServeOptions(model="m", extra_args=extra), machine=machine)[
                "VLLM_CPU_KVCACHE_SPACE"
            ]
            == expected
        )
        asked = ServeOptions(model="m", extra_args=extra, kv_cache_gib=3)
        assert environment_of(asked, machine=machine)["VLLM_CPU_KVCACHE_SPACE"] == "3"

    @pytest.mark.parametrize("extra", [("--api-server-count", "2"), ("-asc=2",)])
    def test_several_api_servers_need_the_subcommand(self, extra: tuple[str, ...]) -> None:
        command = command_of(ServeOptions(model="owner/model", extra_args=extra))
        assert command[:4] == ["python", "-m", "agentinfer_lg.serving.engine.vllm_serve", "owner/model"]
        assert command[-len(extra) :] == list(extra)

    def test_kv_cache_is_rounded_up_to_whole_gibibytes(self) -> None:
        assert environment_of(ServeOptions(model="m", kv_cache_gib=1.2))["VLLM_CPU_KVCACHE_SPACE"] == "2"

    def test_openmp_is_loaded_after_what_the_user_preloads(self) -> None:
        machine = Machine(openmp=Path("/v/lib/libiomp5.so"), environ={"LD_PRELOAD": "/opt/libtcmalloc.so"})
        variables = environment_of(ServeOptions(model="m"), machine=machine)
        assert variables["LD_PRELOAD"] == "/opt/libtcmalloc.so:/v/lib/libiomp5.so"
        machine = Machine(openmp=Path("/v/lib/libiomp5.so"), environ={"LD_PRELOAD": "/opt/libgomp.so.1"})
        assert "LD_PRELOAD" not in build_command(ServeOptions(model="m"), device="cpu", machine=machine)[1]
        assert "LD_PRELOAD" not in environment_of(ServeOptions(model="m"))

    def test_variables_of_the_user_are_left_alone(self) -> None:
        machine = Machine(environ={"VLLM_CPU_KVCACHE_SPACE": "9", "VLLM_CPU_NUM_OF_RESERVED_CPU": "1"})
        variables = environment_of(ServeOptions(model="m"), machine=machine)
        assert not {"VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_NUM_OF_RESERVED_CPU"} & variables.keys()
        asked = environment_of(ServeOptions(model="m", kv_cache_gib=3), machine=machine)
        assert asked["VLLM_CPU_KVCACHE_SPACE"] == "3"  # an option says more than a variable

    def test_the_plugin_keeps_out_of_what_the_command_line_says(self) -> None:
        assert "AGENTINFER" not in environment_of(ServeOptions(model="m"))
        variables = environment_of(
            ServeOptions(model="m", sam=None), machine=Machine(environ={"AGENTINFER": "1"})
        )
        assert variables["AGENTINFER"] == "0"

    def test_a_local_folder_needs_no_hub(self, tmp_path: Path) -> None:
        local = ServeOptions(model=str(tmp_path))
        assert environment_of(local)["HF_HUB_OFFLINE"] == "1"
        assert "HF_HUB_OFFLINE" not in environment_of(ServeOptions(model="owner/model"))
        other = ServeOptions(model=str(tmp_path), extra_args=("--tokenizer", "owner/model"))
        assert "HF_HUB_OFFLINE" not in environment_of(other)


class TestCommandOnAGpu:
    @pytest.mark.parametrize("device", ["cuda", "npu"])
    def test_is_vllm_serve_with_its_own_defaults(self, device: launch.Device) -> None:
        command, variables = build_command(ServeOptions(model="owner/model"), device=device, machine=BARE)
        assert command[:5] == ["python", "-m", "vllm.entrypoints.cli.main", "serve", "owner/model"]
        assert not {"--enforce-eager", "--block-size"} & set(command)
        assert not [name for name in variables if name.startswith("VLLM_CPU")]
        assert "LD_PRELOAD" not in variables

    def test_kv_cache_is_given_in_bytes(self) -> None:
        command = command_of(ServeOptions(model="m", kv_cache_gib=1.5), "cuda")
        assert value_after(command, "--kv-cache-memory-bytes") == str(3 * 2**29)


class TestExtraArguments:
    @pytest.mark.parametrize(
        "extra", [("--block-size", "64"), ("--block-size=64",), ("--block_size", "64"), ("--block_size=64",)]
    )
    def test_replace_a_default(self, extra: tuple[str, ...]) -> None:
        command = command_of(ServeOptions(model="m", extra_args=extra))
        assert command[-len(extra) :] == list(extra)
        assert "32" not in command

    def test_replace_an_option(self) -> None:
        command = command_of(ServeOptions(model="m", max_model_len=10, extra_args=("--max-model-len", "20")))
        assert value_after(command, "--max-model-len") == "20"

    def test_a_negated_flag_replaces_a_switch(self) -> None:
        command = command_of(ServeOptions(model="m", extra_args=("--no-enforce-eager",)))
        assert "--enforce-eager" not in command

    def test_decide_about_tool_calls(self) -> None:
        options = ServeOptions(
            model="Qwen/Qwen2.5-7B-Instruct", extra_args=("--tool-call-parser", "pythonic")
        )
        assert value_after(command_of(options), "--tool-call-parser") == "pythonic"

    def test_decide_where_the_server_listens(self) -> None:
        extra = ("--port=1234", "--host", "0.0.0.0", "--served-model-name", "x")
        server = Server(ServeOptions(model="m", port=1, extra_args=extra, device="cpu"))
        assert server.base_url == "http://127.0.0.1:1234/v1"
        assert server.model == "x"

    @given(
        st.lists(
            st.sampled_from(
                [
                    ("--block-size", "16"),
                    ("--enforce-eager",),
                    ("--no-enforce-eager",),
                    ("--port", "9"),
                    ("--host=h",),
                    ("--max_num_seqs", "3"),
                    ("--model", "other"),
                    ("--enable-prompt-tokens-details",),
                    ("--tool-call-parser", "hermes"),
                ]
            )
        ),
        st.sampled_from(["cpu", "cuda", "npu"]),
    )
    def test_always_come_last_and_nothing_else_names_their_flags(
        self, groups: list[tuple[str, ...]], device: launch.Device
    ) -> None:
        extra = tuple(part for group in groups for part in group)
        command = command_of(ServeOptions(model="m", max_num_seqs=2, extra_args=extra), device)
        chosen, given_part = command[: len(command) - len(extra)], command[len(command) - len(extra) :]
        assert tuple(given_part) == extra
        for argument in extra:
            if argument.startswith("--"):
                name = argument.split("=")[0].replace("_", "-").replace("--no-", "--")
                assert name not in chosen


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (ServeOptions(model=" "), "no model given"),
            (ServeOptions(model="m", kv_cache_gib=0), "larger than 0 GiB"),
            (ServeOptions(model="m", port=70000), "between 0 and 65535"),
        ],
    )
    def test_impossible_values_are_named(self, options: ServeOptions, message: str) -> None:
        with pytest.raises(UserInputError, match=message):
            build_command(options, device="cpu", machine=BARE)

    def test_a_port_that_is_no_number_is_named(self) -> None:
        with pytest.raises(UserInputError, match="--port wants a number"):
            Server(ServeOptions(model="m", extra_args=("--port", "http")))


class TestToolCallParser:
    @pytest.mark.parametrize(
        ("template", "parser"),
        [
            ("{%- if tools %}<tools></tools> return <tool_call>{...}</tool_call>", "hermes"),
            ("{%- if tools %}<tool_call><function=name>", "qwen3_coder"),
            ("{%- if tools %}[TOOL_CALLS]", "mistral"),
            ("{%- for message in messages %}<|im_start|>", None),
            ("{%- if tools %} no known mark", None),
        ],
    )
    def test_is_read_from_the_template(self, tmp_path: Path, template: str, parser: str | None) -> None:
        (tmp_path / "chat_template.jinja").write_text(template)
        (tmp_path / "added_tokens.json").write_text('{"<tool_call>": 1, "</tool_call>": 2}')
        assert find_tool_call_parser(str(tmp_path)) == parser

    def test_older_folders_keep_the_template_in_the_tokenizer_settings(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{% if tools %}<tool_call>"}')
        assert find_tool_call_parser(str(tmp_path)) == "hermes"

    @pytest.mark.parametrize("text", ["", "{", '{"chat_template": null}', "[]"])
    def test_a_broken_folder_has_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "tokenizer_config.json").write_text(text)
        assert find_tool_call_parser(str(tmp_path)) is None

    def test_names_on_the_hub_are_known_by_family(self) -> None:
        assert find_tool_call_parser("Qwen/Qwen2.5-7B-Instruct") == "hermes"
        assert find_tool_call_parser("openai/gpt-oss-20b") == "openai"
        assert find_tool_call_parser("HuggingFaceTB/SmolLM2-135M-Instruct") is None

    def test_can_be_switched_off(self) -> None:
        command = command_of(ServeOptions(model="Qwen/Qwen2.5-7B-Instruct", tool_call_parser="none"))
        assert "--enable-auto-tool-choice" not in command


class TestDevice:
    def test_a_machine_without_the_tool_has_no_gpu(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert detect_device() in {"cpu", "npu"}

    def test_the_list_of_gpus_decides(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'GPU 0: Some card'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert detect_device() == "cuda"
        tool.write_text("#!/bin/sh\necho 'No devices found'; exit 9\n")
        assert detect_device() == "cpu"


class TestDiagnosis:
    @pytest.mark.parametrize(
        ("line", "advice"),
        [
            ("OSError: [Errno 98] Address already in use", "The port 8000 is taken"),
            ("ModuleNotFoundError: No module named 'vllm'", "agentinfer_lg.serving.engine.install"),
            (
                "ValueError: To serve at least one request with the models's max seq len (32768), "
                "(3.00 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB).",
                "smaller --max-model-len or a larger --kv-cache-gib",
            ),
            (
                "RuntimeError: [enforce fail] . DefaultCPUAllocator: not enough memory",
                "smaller --kv-cache-gib",
            ),
            (
                "OSError: owner/m is not a local folder and is not a valid model identifier",
                "is not on the hub",
            ),
            ("api_server.py: error: unrecognized arguments: --fast", "after `--`"),
        ],
    )
    def test_tells_what_to_do(self, line: str, advice: str) -> None:
        text = explain_exit(["INFO something", line], code=1, model="owner/m", port=8000)
        assert advice in text
        assert line in text

    def test_a_kill_from_outside_hints_at_memory(self) -> None:
        text = explain_exit(["INFO loading"], code=-signal.SIGKILL, model="m", port=1)
        assert "memory" in text

    def test_the_cause_is_preferred_to_the_report_of_another_process(self) -> None:
        lines = [
            "(EngineCore pid=1) ERROR 11-24 07:50:44 [core.py:1] ValueError: No common block size for 16",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ]
        assert "No common block size" in explain_exit(lines, code=1, model="m", port=1)

    def test_our_own_sentence_is_preferred_to_what_follows_from_it(self) -> None:
        lines = [
            "(Worker_TP0 pid=2) ERROR 11-24 07:50:44 [multiproc_executor.py:9] agentinfer_lg.errors.EngineError: It: so.",
            "(EngineCore pid=1) ERROR 11-24 07:50:45 [core.py:1] Exception: WorkerProc initialization failed: see above",
        ]
        assert explain_exit(lines, code=1, model="m", port=1).endswith("Its last words: It: so.")

    @given(st.lists(st.text(max_size=200), max_size=20), st.one_of(st.none(), st.integers(-64, 255)))
    def test_never_fails_on_any_log(self, lines: list[str], code: int | None) -> None:
        assert explain_exit(lines, code=code, model="{0}", port=1)
        assert startup_stage(lines)


# Servers that need no engine: a stand-in for the command, in a real process group.

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Let servers run the Python program put into the list."""
    program: list[str] = []
    (tmp_path / "config.json").write_text("{}")

    def command(options: ServeOptions, *, device: str) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", program[0]], {}

    monkeypatch.setattr(launch, "build_command", command)
    monkeypatch.setattr(launch, "_require_vllm", lambda: None)
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))  # where logs of failed servers stay
    return program


class TestServer:
    def test_a_missing_model_is_noticed_before_the_start(self, stand_in: list[str], tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="there is no model folder"):
            Server(ServeOptions(model=str(tmp_path / "none"), port=0, device="cpu")).start()
        (tmp_path / "empty").mkdir()
        with pytest.raises(EngineError, match=r"has no config\.json"):
            Server(ServeOptions(model=str(tmp_path / "empty"), port=0, device="cpu")).start()

    def test_a_taken_port_is_noticed_before_the_start(self, stand_in: list[str], tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(EngineError, match=f"the port {port} on 127.0.0.1 cannot be used"):
                Server(ServeOptions(model=str(tmp_path), port=port, device="cpu")).start()

    def test_a_missing_engine_is_noticed_before_the_start(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EngineError, match=r"vLLM is not installed: run `python -m agentinfer_lg"):
            Server(ServeOptions(model=str(tmp_path), port=0, device="cpu")).start()

    def test_port_zero_is_a_free_port(self) -> None:
        server = Server(ServeOptions(model="m", port=0, device="cpu"))
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+/v1", server.base_url)

    def test_an_early_end_is_explained_and_its_log_kept(self, stand_in: list[str], tmp_path: Path) -> None:
        stand_in.append("import sys; print('ValueError: no such thing'); sys.exit(3)")
        with (
            Server(ServeOptions(model=str(tmp_path), port=0, device="cpu")) as server,
            pytest.raises(EngineError, match=r"code 3.*ValueError: no such thing.*Full log: ") as caught,
        ):
            server.wait_ready(timeout=60)
        log = Path(str(caught.value).rpartition("Full log: ")[2])
        assert "no such thing" in log.read_text()

    def test_a_start_that_takes_too_long_is_given_up(self, stand_in: list[str], tmp_path: Path) -> None:
        stand_in.append("import time; time.sleep(600)")
        with (
            Server(ServeOptions(model=str(tmp_path), port=0, device="cpu")) as server,
            pytest.raises(EngineError, match="did not answer within 1 s"),
        ):
            server.wait_ready(timeout=1)

    def test_readiness_and_progress(self, stand_in: list[str], tmp_path: Path) -> None:
        server = Server(ServeOptions(model=str(tmp_path), port=0, device="cpu"))
        stand_in.append(
            "import http.server, sys, time\n"
            "print('INFO Starting to load model', flush=True); time.sleep(1.5)\n"
            "class Handler(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self): self.send_response(200); self.end_headers()\n"
            f"http.server.HTTPServer(('127.0.0.1', {server.options.port}), Handler).serve_forever()\n"
        )
        seen: set[str] = set()
        with server:
            assert server.wait_ready(60, lambda seconds, stage: seen.add(stage)) > 1
            assert server.pid is not None
        assert "loading the weights" in seen
        assert server.pid is None

    def test_stopping_ends_even_processes_that_ignore_it(
        self, stand_in: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "_STOP_SECONDS", 0.5)
        stand_in.append(STUBBORN)
        log = tmp_path / "log"
        with Server(ServeOptions(model=str(tmp_path), port=0, device="cpu"), log=log) as server:
            group = server.pid
            assert group is not None
            deadline = time.monotonic() + 60
            while not (log.exists() and "up" in log.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert len(processes_of(group)) == 2
        assert processes_of(group) == []
        server.stop()  # once more does no harm

    @pytest.mark.parametrize(
        ("kind", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
    )
    def test_an_owner_that_is_gone_leaves_no_server(
        self, tmp_path: Path, kind: signal.Signals, code: int
    ) -> None:
        (tmp_path / "config.json").write_text("{}")
        owner = f"""
import sys, time
from agentinfer_lg.serving.engine import launch
launch.build_command = lambda options, *, device: ([sys.executable, "-c", "import time; time.sleep(600)"], {{}})
launch._require_vllm = lambda: None
with launch.stop_on_signals():
    with launch.Server(launch.ServeOptions(model={str(tmp_path)!r}, port=0, device="cpu")) as server:
        print(server.pid, flush=True)
        time.sleep(600)
"""
        process = subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            group = int(process.stdout.readline())
        assert processes_of(group)
        process.send_signal(kind)
        assert process.wait(timeout=30) == code
        wait_until(lambda: processes_of(group) == [])


class TestRealEngine:
    def ask(self, real_engine: Engine, **more: object) -> dict[str, object]:
        body = {
            "model": real_engine.model,
            "messages": [{"role": "user", "content": "Count from one to twenty in words. " * 12}],
            "max_tokens": 8,
            "temperature": 0,
            **more,
        }
        answer = httpx.post(f"{real_engine.base_url}/chat/completions", json=body, timeout=300)
        answer.raise_for_status()
        return answer.json()

    def test_a_repeated_prompt_comes_from_the_cache(self, real_engine: Engine) -> None:
        first = self.ask(real_engine)
        second = self.ask(real_engine)
        assert first["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"]
        usage = second["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert usage["prompt_tokens"] - 32 <= cached < usage["prompt_tokens"]

    def test_session_hints_are_accepted(self, real_engine: Engine) -> None:
        hints = SessionHints(
            session_id="s", turn=3, role="think", tool_seconds=1.5, output_tokens=8, final=True, tenant="t"
        )
        assert self.ask(real_engine, vllm_xargs=hints.to_xargs())["choices"]

    def test_output_can_be_constrained(self, real_engine: Engine) -> None:
        pattern = r"(TRUE|FALSE): [a-z]{3,8}"
        answer = self.ask(real_engine, structured_outputs={"regex": pattern}, max_tokens=16)
        assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"])

    def test_metrics_are_exported(self, real_engine: Engine) -> None:
        self.ask(real_engine)
        text = httpx.get(real_engine.base_url.removesuffix("/v1") + "/metrics", timeout=60).text
        assert re.search(r"^vllm:prompt_tokens_total\{.*\} [1-9]", text, re.MULTILINE)

    @pytest.mark.slow
    def test_a_context_larger_than_the_cache_is_explained(
        self, demo_model_folder: Path, tmp_path: Path
    ) -> None:
        extra = ("--num-gpu-blocks-override", "4")
        options = ServeOptions(model=str(demo_model_folder), port=0, extra_args=extra)
        with Server(options, log=tmp_path / "log") as server:
            group = server.pid
            with pytest.raises(EngineError, match="smaller --max-model-len or a larger --kv-cache-gib"):
                server.wait_ready(timeout=300)
        assert group is not None
        assert processes_of(group) == []
