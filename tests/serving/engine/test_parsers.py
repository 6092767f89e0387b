"""Which of vLLM's parsers `agentinfer serve` chooses, by name and by the files of a model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vllm_versions import OLDEST, vllm_folder, vllm_python

from agentinfer_lg.serving.compat.parsers import ParserKind, installed_parsers, parsers_in
from agentinfer_lg.serving.engine.command import ServeOptions, build_command
from agentinfer_lg.serving.engine.machine import Machine
from agentinfer_lg.serving.engine.model_files import ModelFiles
from agentinfer_lg.serving.engine.parser_rules import ParserRule
from agentinfer_lg.serving.engine.reasoning_parsers import REASONING_PARSER_RULES, find_reasoning_parser
from agentinfer_lg.serving.engine.tool_parsers import TOOL_PARSER_RULES, find_tool_call_parser

BARE = Machine(python="python", memory_gib=16)
THINK = ("<think>", "</think>")
CALL = ("<tool_call>", "</tool_call>")
DEEPSEEK_CALLS = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_RULES: dict[ParserKind, tuple[ParserRule, ...]] = {
    "tool": TOOL_PARSER_RULES,
    "reasoning": REASONING_PARSER_RULES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model folder in short: what its template says, its type, its tokens, and the parsers that fit."""

    template: str
    kind: str
    tokens: tuple[str, ...] = THINK
    files: tuple[str, ...] = ()
    tool: str | None
    reasoning: str | None

    def write(self, folder: Path) -> str:
        (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"model_type": self.kind}))
        added = [{"id": number, "content": token} for number, token in enumerate(self.tokens)]
        (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
        for name in self.files:
            (folder / name).write_text("")
        return str(folder)


_BEGIN = "{% if add_generation_prompt %}"
_SWITCHED = (
    "{% if tools %}<tool_call>{% endif %}{{ content.split('</think>') }}"
    + _BEGIN
    + "{% if enable_thinking is false %}<think>\\n\\n</think>{% endif %}"
)
_CHATML = "{% if tools %}<tool_call>{% endif %}<|im_start|>" + _BEGIN + "<|im_start|>assistant\\n"

FAMILIES = {
    "SmolLM2": Family(template="<|im_start|>" + _BEGIN, kind="llama", tokens=(), tool=None, reasoning=None),
    "Qwen2.5": Family(template=_CHATML, kind="qwen2", tokens=(), tool="hermes", reasoning=None),
    "Qwen3, hybrid": Family(template=_SWITCHED, kind="qwen3", tool="hermes", reasoning="qwen3"),
    "Qwen3 Thinking 2507": Family(
        template=_CHATML + "<think>\\n", kind="qwen3_moe", tool="hermes", reasoning="qwen3"
    ),
    "Qwen3 Instruct 2507": Family(template=_CHATML, kind="qwen3", tool="hermes", reasoning=None),
    "Qwen3 Coder": Family(
        template="{% if tools %}<tool_call><function=" + _BEGIN,
        kind="qwen3_moe",
        tokens=(*THINK, *CALL),
        tool="qwen3_coder",
        reasoning=None,
    ),
    "QwQ": Family(template=_CHATML + "<think>\\n", kind="qwen2", tool="hermes", reasoning="deepseek_r1"),
    "DeepSeek R1 distilled": Family(
        template="{{ content.split('</think>') }}" + _BEGIN + "<｜Assistant｜><think>\\n",
        kind="qwen2",
        tool=None,
        reasoning="deepseek_r1",
    ),
    "DeepSeek V3": Family(
        template="{% if tools %}<｜tool▁calls▁begin｜>```json<｜Assistant｜>",
        kind="deepseek_v3",
        tokens=DEEPSEEK_CALLS,
        tool="deepseek_v3",
        reasoning=None,
    ),
    "DeepSeek V3.1": Family(
        template="{% if tools %}<｜tool▁calls▁begin｜>{% if thinking %}<｜Assistant｜><think>{% else %}</think>",
        kind="deepseek_v3",
        tokens=(*THINK, *DEEPSEEK_CALLS),
        tool="deepseek_v31",
        reasoning="deepseek_v3",
    ),
    "DeepSeek V3.2": Family(template="", kind="deepseek_v32", tool="deepseek_v32", reasoning="deepseek_v3"),
    "DeepSeek V4": Family(template="", kind="deepseek_v4", tool="deepseek_v4", reasoning="deepseek_v4"),
    "gpt-oss": Family(
        template="{% if tools %}<|channel|>analysis",
        kind="gpt_oss",
        tokens=("<|channel|>", "<|end|>"),
        tool="openai",
        reasoning="openai_gptoss",
    ),
    "GLM-4.5": Family(
        template="{% if tools %}{function-name}\\n<arg_key>" + _SWITCHED,
        kind="glm4_moe",
        tool="glm45",
        reasoning="glm45",
    ),
    "GLM-4.7": Family(
        template="{% if tools %}{function-name}<arg_key>" + _SWITCHED,
        kind="glm4_moe",
        tool="glm47",
        reasoning="glm45",
    ),
    "Magistral": Family(
        template="{% if tools %}[TOOL_CALLS][THINK]",
        kind="mistral",
        tokens=("[THINK]", "[/THINK]", "[TOOL_CALLS]"),
        files=("tekken.json", "consolidated.safetensors"),
        tool="mistral",
        reasoning="mistral",
    ),
    "Magistral without Mistral's tokenizer": Family(
        template="{% if tools %}[TOOL_CALLS][THINK]",
        kind="mistral",
        tokens=("[THINK]", "[/THINK]", "[TOOL_CALLS]"),
        tool="mistral",
        reasoning=None,
    ),
    "Granite 3.2": Family(
        template="{% if tools %}<|tool_call|>{% if thinking %}Here is my thought process:",
        kind="granite",
        tool="granite",
        reasoning=None,
    ),
    "Granite 4": Family(
        template="{% if tools %}<tool_call>", kind="granitemoehybrid", tool="granite4", reasoning=None
    ),
    "Granite 4.2": Family(
        template="{% if tools %}<function=" + _SWITCHED,
        kind="granitemoehybrid",
        tokens=(*THINK, *CALL),
        tool="qwen3_coder",
        reasoning="granite_thinking_parser",
    ),
    "Kimi K2": Family(
        template="{% if tools %}<|tool_calls_section_begin|>", kind="kimi_k2", tool="kimi_k2", reasoning=None
    ),
    "Kimi K2 Thinking": Family(
        template="{% if tools %}<|tool_calls_section_begin|></think>",
        kind="kimi_k2",
        tool="kimi_k2",
        reasoning="kimi_k2",
    ),
    "MiniMax M2": Family(
        template="{% if tools %}<minimax:tool_call>",
        kind="minimax_m2",
        tokens=(*THINK, "<minimax:tool_call>", "</minimax:tool_call>"),
        tool="minimax_m2",
        reasoning="minimax_m2",
    ),
    "Nemotron 3": Family(
        template="{% if tools %}<function=" + _SWITCHED,
        kind="nemotron_h",
        tokens=(*THINK, *CALL),
        tool="qwen3_coder",
        reasoning="nemotron_v3",
    ),
    "Hunyuan A13B": Family(
        template="{% if tools %}<tool_calls></think><answer>",
        kind="hunyuan_v1_moe",
        tokens=(),
        tool="hunyuan_a13b",
        reasoning="hunyuan_a13b",
    ),
    "Seed-OSS": Family(
        template="{% if tools %}<seed:tool_call><seed:think>",
        kind="seed_oss",
        tokens=("<seed:think>", "</seed:think>", "<seed:tool_call>", "</seed:tool_call>"),
        tool="seed_oss",
        reasoning="seed_oss",
    ),
    "ERNIE 4.5 Thinking": Family(
        template="{% if tools %}<tool_call></think>", kind="ernie4_5_moe", tool="ernie45", reasoning="ernie45"
    ),
    "ERNIE 4.5": Family(template="Assistant: ", kind="ernie4_5_moe", tool=None, reasoning=None),
    "Step3": Family(template="{% if tools %}<think>", kind="step3_vl", tool="step3", reasoning="step3"),
    "Olmo 3 Think": Family(
        template="{% if tools %}<function_calls>" + _BEGIN + "<think>",
        kind="olmo3",
        tokens=("</", "Ġ</", "think", ">"),
        tool="olmo3",
        reasoning="olmo3",
    ),
    "Olmo 3 Instruct": Family(
        template="{% if tools %}<function_calls>", kind="olmo3", tool="olmo3", reasoning=None
    ),
    "Gemma 4": Family(
        template="{% if tools %}<|tool_call>{% if enable_thinking %}<|channel>",
        kind="gemma4",
        tokens=("<|channel>", "<channel|>", "<|turn>", "<|tool_call>", "<|tool_response>"),
        tool="gemma4",
        reasoning="gemma4",
    ),
    "EXAONE 4": Family(template=_SWITCHED, kind="exaone4", tool="hermes", reasoning="deepseek_v3"),
    "Llama 3.1": Family(
        template="{% if tools %}<|python_tag|>",
        kind="llama",
        tokens=("<|python_tag|>",),
        tool="llama3_json",
        reasoning=None,
    ),
    "Llama 4": Family(
        template="{% if tools %}", kind="llama4", tokens=(), tool="llama4_pythonic", reasoning=None
    ),
    "Phi-4-mini": Family(
        template="{% if tools %}<|tool|>", kind="phi3", tokens=(), tool="phi4_mini_json", reasoning=None
    ),
    "openPangu": Family(
        template="{% if tools %}[unused11]", kind="PanguEmbedded", tokens=(), tool=None, reasoning=None
    ),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
class TestFolders:
    def test_gets_the_parsers_of_its_family(self, tmp_path: Path, family: Family) -> None:
        folder = family.write(tmp_path)
        assert find_tool_call_parser(folder) == family.tool
        assert find_reasoning_parser(folder) == family.reasoning

    def test_gets_only_what_vllm_has(self, tmp_path: Path, family: Family) -> None:
        folder = family.write(tmp_path)
        assert find_tool_call_parser(folder, known={"other"}) is None
        assert find_reasoning_parser(folder, known=()) is None

    def test_without_the_tokens_of_thoughts_there_is_no_parser_that_needs_them(
        self, tmp_path: Path, family: Family
    ) -> None:
        folder = family.write(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{}")
        assert find_reasoning_parser(folder) in (None, "hunyuan_a13b")


class TestNames:
    @pytest.mark.parametrize(
        ("model", "tool", "reasoning"),
        [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", None, None),
            ("Qwen/Qwen2.5-7B-Instruct", "hermes", None),
            ("Qwen/Qwen3-8B", "hermes", "qwen3"),
            ("Qwen/Qwen3-30B-A3B-Thinking-2507", "hermes", "qwen3"),
            ("Qwen/Qwen3-30B-A3B-Instruct-2507", "hermes", None),
            ("Qwen/Qwen3-Next-80B-A3B-Instruct", "hermes", None),
            ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder", None),
            ("Qwen/Qwen3-Embedding-0.6B", "hermes", None),
            ("Qwen/QwQ-32B", "hermes", "deepseek_r1"),
            ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", None, "deepseek_r1"),
            ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", None, "deepseek_r1"),
            ("deepseek-ai/DeepSeek-V3.1", "deepseek_v31", "deepseek_v3"),
            ("deepseek-ai/DeepSeek-V3.2", "deepseek_v32", "deepseek_v3"),
            ("deepseek-ai/DeepSeek-V3.2-Exp", "deepseek_v31", "deepseek_v3"),
            ("deepseek-ai/DeepSeek-V4", "deepseek_v4", "deepseek_v4"),
            ("openai/gpt-oss-20b", "openai", "openai_gptoss"),
            ("zai-org/GLM-4.5-Air", "glm45", "glm45"),
            ("zai-org/GLM-4.7", "glm47", "glm45"),
            ("zai-org/GLM-5", "glm47", "glm45"),
            ("mistralai/Magistral-Small-2509", "mistral", "mistral"),
            ("mistralai/Mistral-7B-Instruct-v0.3", "mistral", None),
            ("ibm-granite/granite-3.2-8b-instruct", "granite", None),
            ("ibm-granite/granite-4.0-h-small", "granite4", None),
            ("moonshotai/Kimi-K2-Instruct", "kimi_k2", None),
            ("moonshotai/Kimi-K2-Thinking", "kimi_k2", "kimi_k2"),
            ("MiniMaxAI/MiniMax-M2", "minimax_m2", "minimax_m2"),
            ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3_coder", "nemotron_v3"),
            ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "llama3_json", None),
            ("tencent/Hunyuan-A13B-Instruct", "hunyuan_a13b", "hunyuan_a13b"),
            ("ByteDance-Seed/Seed-OSS-36B-Instruct", "seed_oss", "seed_oss"),
            ("baidu/ERNIE-4.5-21B-A3B-Thinking", "ernie45", "ernie45"),
            ("baidu/ERNIE-4.5-21B-A3B-PT", None, None),
            ("stepfun-ai/step3", "step3", "step3"),
            ("stepfun-ai/Step-3.5-Flash", "step3p5", "step3p5"),
            ("allenai/Olmo-3-7B-Think", "olmo3", "olmo3"),
            ("allenai/Olmo-3-7B-Instruct", "olmo3", None),
            ("google/gemma-4-26B-A4B-it", "gemma4", "gemma4"),
            ("google/gemma-3-4b-it", None, None),
            ("LGAI-EXAONE/EXAONE-4.0-32B", "hermes", "deepseek_v3"),
            ("LGAI-EXAONE/K-EXAONE-236B-A23B", None, "holo2"),
            ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json", None),
            ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4_pythonic", None),
            ("microsoft/Phi-4-mini-instruct", "phi4_mini_json", None),
            ("Salesforce/Llama-xLAM-2-8b-fc-r", "xlam", None),
            ("FreedomIntelligence/openPangu-Embedded-7B", None, None),
            ("openPangu-DeepDiverV2-7B", None, None),
        ],
    )
    def test_are_known_by_family(self, model: str, tool: str | None, reasoning: str | None) -> None:
        assert find_tool_call_parser(model) == tool
        assert find_reasoning_parser(model) == reasoning

    def test_an_older_name_stands_in_where_vllm_lacks_the_newer(self) -> None:
        assert find_tool_call_parser("zai-org/GLM-4.7", known={"glm45"}) == "glm45"

    @given(st.text(max_size=60))
    def test_any_name_gets_a_name_of_the_tables_or_none(self, model: str) -> None:
        if not Path(model.replace("\0", "")).is_dir() and "~" not in model and "\0" not in model:
            assert find_tool_call_parser(model, known=set()) is None
            assert find_reasoning_parser(model, known=set()) is None


class TestCommand:
    def test_names_both_parsers(self) -> None:
        command = _command(ServeOptions(model="Qwen/Qwen3-8B"))
        assert _values(command, "--tool-call-parser") == ["hermes"]
        assert _values(command, "--reasoning-parser") == ["qwen3"]

    def test_names_none_that_the_installed_vllm_lacks(self) -> None:
        machine = Machine(tool_parsers=frozenset({"openai"}), reasoning_parsers=frozenset())
        command = _command(ServeOptions(model="Qwen/Qwen3-8B"), machine)
        assert not [part for part in command if "parser" in part or "auto-tool-choice" in part]

    @pytest.mark.parametrize("extra", [("--reasoning-parser", "mine"), ("--reasoning_parser=mine",)])
    def test_leaves_the_choice_to_a_flag_of_the_user(self, extra: tuple[str, ...]) -> None:
        command = _command(ServeOptions(model="Qwen/Qwen3-8B", extra_args=extra))
        assert "qwen3" not in command
        assert tuple(command[-len(extra) :]) == extra

    def test_leaves_the_choice_to_a_file_of_the_user(self, tmp_path: Path) -> None:
        file = tmp_path / "vllm.yaml"
        file.write_text("reasoning-parser: mine\ntool-call-parser: mine\n")
        command = _command(ServeOptions(model="Qwen/Qwen3-8B", extra_args=("--config", str(file))))
        assert "--reasoning-parser" not in command
        assert "--tool-call-parser" not in command

    def test_can_be_told_or_switched_off(self) -> None:
        command = _command(
            ServeOptions(model="m", reasoning_parser="mine"), Machine(reasoning_parsers=frozenset())
        )
        assert _values(command, "--reasoning-parser") == ["mine"]
        command = _command(ServeOptions(model="Qwen/Qwen3-8B", reasoning_parser="none"))
        assert "--reasoning-parser" not in command

    def test_a_tokenizer_from_elsewhere_is_not_judged(self) -> None:
        command = _command(ServeOptions(model="Qwen/Qwen3-8B", extra_args=("--tokenizer", "other")))
        assert "--reasoning-parser" not in command

    def test_a_chat_template_of_the_user_is_judged_in_place_of_the_model_s_own(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        FAMILIES["Qwen3 Instruct 2507"].write(folder)
        theirs = tmp_path / "thinks.jinja"
        theirs.write_text(FAMILIES["Qwen3 Thinking 2507"].template)
        plain = _command(ServeOptions(model=str(folder)))
        told = _command(ServeOptions(model=str(folder), extra_args=("--chat-template", str(theirs))))
        assert "--reasoning-parser" not in plain
        assert _values(told, "--reasoning-parser") == ["qwen3"]


class TestModelFiles:
    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"model_type": 3, "architectures": "x", "text_config": []}']
    )
    def test_broken_files_count_as_empty(self, tmp_path: Path, text: str) -> None:
        for name in ("config.json", "tokenizer_config.json"):
            (tmp_path / name).write_text(text)
        files = ModelFiles.read(tmp_path)
        assert (files.template, files.kinds) == ("", "")
        assert find_reasoning_parser(str(tmp_path)) is None

    def test_the_language_model_inside_counts(self, tmp_path: Path) -> None:
        config = {"architectures": ["Outer"], "text_config": {"model_type": "qwen3_vl_text"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert ModelFiles.read(tmp_path).kinds == "outer qwen3_vl_text"

    def test_a_token_in_the_text_of_a_template_is_no_token(self, tmp_path: Path) -> None:
        settings = {
            "chat_template": '{{ "<think>" }}',
            "added_tokens_decoder": {"1": {"content": "</think>"}},
        }
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        files = ModelFiles.read(tmp_path)
        assert not files.knows("<think>")
        assert files.knows("</think>")

    @pytest.mark.parametrize(
        ("template", "opens"),
        [
            (_BEGIN + "assistant\\n<think>\\n", True),
            (_BEGIN + "assistant\\n", False),
            ("<think>" + _BEGIN + "assistant\\n", False),
            (_BEGIN + "<think>\\n\\n</think>", False),
            ("{% if enable_thinking %}" + _BEGIN + "<think>", False),
            ("<think>", False),
        ],
    )
    def test_a_thought_is_opened_by_the_end_of_the_template(
        self, tmp_path: Path, template: str, opens: bool
    ) -> None:
        (tmp_path / "chat_template.jinja").write_text(template)
        assert ModelFiles.read(tmp_path).opens_thought is opens


class TestRegistry:
    @pytest.mark.parametrize("kind", ["tool", "reasoning"])
    def test_is_read_without_an_import(self, tmp_path: Path, kind: ParserKind) -> None:
        folder = "tool_parsers" if kind == "tool" else "reasoning"
        variable = f"_{kind.upper()}_PARSERS_TO_REGISTER"
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "__init__.py"
        file.write_text(
            f'raise SystemExit\n{variable}: dict = {{"one": 1, **more, "two": 2}}\nOTHER = {{"x": 1}}'
        )
        assert parsers_in(tmp_path / "none", tmp_path, kind=kind) == {"one", "two"}

    @pytest.mark.parametrize("text", ["", "if", "_TOOL_PARSERS_TO_REGISTER = load()", "\0"])
    def test_one_that_cannot_be_read_has_no_names(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "tool_parsers").mkdir()
        (tmp_path / "tool_parsers" / "__init__.py").write_text(text)
        assert parsers_in(tmp_path, kind="tool") == frozenset()
        assert parsers_in(tmp_path / "none", kind="tool") == frozenset()

    @pytest.mark.vllm
    @pytest.mark.parametrize("kind", ["tool", "reasoning"])
    def test_every_name_of_the_tables_is_in_the_installed_vllm(self, kind: ParserKind) -> None:
        known = installed_parsers(kind)
        if known is None:
            pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.engine.install)")
        assert {name for rule in _RULES[kind] for name in rule.parsers} <= known


_BUILD = """
import json, sys
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

class Tokenizer:
    all_special_tokens, all_special_ids, init_kwargs, chat_template = [], [], {}, ""
    def __init__(self, tokens): self.tokens = {token: number for number, token in enumerate(tokens)}
    def get_vocab(self): return self.tokens
    def encode(self, text, **options): return [self.tokens.get(text, 0)]

failures = []
for kind, parser, tokens in json.load(sys.stdin):
    manager = ReasoningParserManager if kind == "reasoning" else ToolParserManager
    try:
        getattr(manager, f"get_{kind}_parser")(parser)(Tokenizer(tokens))
    except Exception as error:
        failures.append([kind, parser, repr(error)])
print("FAILURES", json.dumps(failures))
"""
"""Builds parsers as an engine does at its start, for a tokenizer that has the given tokens and no others."""


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("version", ["", OLDEST])
def test_vllm_builds_the_parsers_from_the_tokens_of_the_family(version: str) -> None:
    if installed_parsers("tool") is None:
        pytest.skip("vLLM is not installed (python -m agentinfer_lg.serving.engine.install)")
    known = {
        kind: parsers_in(vllm_folder(version) / "vllm", kind=kind) if version else installed_parsers(kind)
        for kind in _RULES
    }
    wanted = [
        (kind, parser, family.tokens)
        for name, family in FAMILIES.items()
        for kind, parser in (("tool", family.tool), ("reasoning", family.reasoning))
        if parser in (known[kind] or ())
        and not (name == "Magistral" and version)  # wants Mistral's own class
    ]
    assert len(wanted) > 30
    done = subprocess.run(
        [str(vllm_python(version)) if version else sys.executable, "-c", _BUILD],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAILURES ")]
    assert json.loads(line.removeprefix("FAILURES ")) == []


def _command(options: ServeOptions, machine: Machine = BARE) -> list[str]:
    return build_command(options, device="cuda", machine=machine)[0]


def _values(command: list[str], flag: str) -> list[str]:
    return [command[index + 1] for index, part in enumerate(command) if part == flag]
