"""Which of vLLM's tool-call parsers fits a model."""

from __future__ import annotations

from collections.abc import Collection

from agentinfer_lg.serving.engine.parser_rules import ParserRule, choose_parser

_CALL = ("<tool_call>", "</tool_call>")
_DEEPSEEK_CALLS = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")

TOOL_PARSER_RULES = (
    # DeepSeek: the distilled ones and R1 are not told of tools by their templates.
    ParserRule(parsers=("deepseek_v41",), name=r"deepseek-v4\.1", kinds=r"\bdeepseek_v41\b"),
    ParserRule(parsers=("deepseek_v4",), name=r"deepseek-v4", kinds=r"\bdeepseek_v4\b"),
    ParserRule(
        parsers=("deepseek_v3",),
        marks=("<｜tool▁calls▁begin｜>", "```json"),
        tokens=_DEEPSEEK_CALLS,
    ),
    ParserRule(
        parsers=("deepseek_v31",),
        name=r"deepseek-v3\.(1|2-exp)",
        marks=("<｜tool▁calls▁begin｜>",),
        tokens=_DEEPSEEK_CALLS,
    ),
    ParserRule(parsers=("deepseek_v32",), name=r"deepseek-v3\.2", kinds=r"\bdeepseek_v32\b"),
    ParserRule(parsers=(), name=r"deepseek-r1"),
    # Families with marks of their own.
    ParserRule(
        parsers=("seed_oss",),
        name=r"seed-oss",
        marks=("<seed:tool_call>",),
        tokens=("<seed:tool_call>", "</seed:tool_call>"),
    ),
    ParserRule(parsers=("minimax_m3",), name=r"minimax-m3", kinds=r"\bminimax_m3"),
    ParserRule(
        parsers=("minimax_m2",),
        name=r"minimax-m2",
        marks=("<minimax:tool_call>",),
        tokens=("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    ParserRule(parsers=("kimi_k3",), name=r"kimi-k3", kinds=r"\bkimi_k3"),
    ParserRule(parsers=("kimi_k2",), name=r"kimi-k2", marks=("<|tool_calls_section_begin|>",)),
    ParserRule(parsers=("gemma4",), name=r"gemma-?4", marks=("<|tool_call>",)),
    ParserRule(parsers=("functiongemma",), name=r"functiongemma", marks=("<start_function_call>",)),
    ParserRule(parsers=("step3",), name=r"step-?3(?!\.\d)", kinds=r"\bstep3(_vl|_text)?\b"),
    ParserRule(parsers=("step3p5",), name=r"step-?3\.[5-9]", kinds=r"\bstep3p5"),
    ParserRule(parsers=("hunyuan_a13b",), name=r"hunyuan-a13b", kinds=r"hunyuan_v1_moe|hunyuan_moe"),
    ParserRule(parsers=("hy_v3",), name=r"\bhy-?3", kinds=r"\bhy_v3\b"),
    ParserRule(parsers=("olmo3",), name=r"olmo-?3", marks=("<function_calls>",), kinds="olmo3"),
    ParserRule(
        parsers=("lfm2",),
        name=r"lfm2",
        marks=("<|tool_call_start|>",),
        tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    ParserRule(parsers=("phi4_mini_json",), name=r"phi-4-mini-instruct", marks=("<|tool|>",), kinds="phi3"),
    ParserRule(parsers=("openai",), name=r"gpt-oss", marks=("<|channel|>",)),
    # vLLM has no parser for the calls of openPangu, on which DeepDiver is built.
    ParserRule(parsers=(), name=r"pangu|deepdiver", kinds="pangu"),
    # GLM: the later ones write the name of a function and its first argument on one line.
    ParserRule(
        parsers=("glm47", "glm45"), name=r"glm-?(4\.[7-9]|[5-9])", kinds=r"glm4_moe_lite|glm_moe_dsa|glm5"
    ),
    ParserRule(parsers=("glm47", "glm45"), marks=("}<arg_key>",)),
    ParserRule(parsers=("glm45",), name=r"glm-?4\.[56]", marks=("<arg_key>",)),
    # Calls between <tool_call> tags: as XML, as JSON of certain families, as JSON.
    ParserRule(parsers=("xlam",), name=r"xlam"),
    ParserRule(
        parsers=("qwen3_coder",),
        name=r"qwen3.*coder|qwen-?3\.[5-9]|nemotron-?3|granite-4\.[2-9]",
        marks=("<function=",),
        tokens=_CALL,
    ),
    ParserRule(parsers=("ernie45",), name=r"ernie-4\.5.*thinking", marks=("<tool_call>",), kinds="ernie4_5"),
    ParserRule(parsers=("granite4",), name=r"granite-?4", marks=("<tool_call>",), kinds="granitemoehybrid"),
    ParserRule(parsers=("granite",), name=r"granite-?3", marks=("<|tool_call|>",), kinds="granite"),
    ParserRule(
        parsers=("hermes",), name=r"qwen2\.5|qwen3|qwq|hermes|exaone-?4|smollm3", marks=("<tool_call>",)
    ),
    # Llama and Mistral; a fine-tuned one is known by its name before that of its base.
    ParserRule(parsers=("mistral",), name=r"mistral|ministral|devstral|magistral", marks=("[TOOL_CALLS]",)),
    ParserRule(parsers=("llama4_pythonic",), name=r"llama-?4", kinds=r"\bllama4"),
    ParserRule(
        parsers=("llama3_json",), name=r"llama-?3", marks=("<|python_tag|>",), tokens=("<|python_tag|>",)
    ),
)
"""The families, most specific first."""


def find_tool_call_parser(
    model: str, *, known: Collection[str] | None = None, template: str = ""
) -> str | None:
    """Return the name of vLLM's tool-call parser for `model`, or None if it has no tools, or vLLM no parser that fits.

    A local folder is judged by its chat template and configuration, a name on the hub by well-known families.

    Args:
        model: A local folder, or a name on the hub.
        known: Names that the installed vLLM has; None: any.
        template: What the user gives vLLM as `--chat-template`.
    """
    return choose_parser(TOOL_PARSER_RULES, model, known=known, template=template, must_mention="tools")
