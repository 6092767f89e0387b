"""Which of vLLM's reasoning parsers fits a model.

A wrong one does harm: it takes the answers of a model that does not think for thoughts, or holds constrained decoding back
until a thought ends that never began. So a model gets one only where its family is known, or its template opens a thought.
"""

from __future__ import annotations

from collections.abc import Collection

from agentinfer_lg.serving.engine.parser_rules import ParserRule, choose_parser

_THINK = ("<think>", "</think>")

REASONING_PARSER_RULES = (
    ParserRule(parsers=(), name=r"embed|rerank|reward|guard|\basr\b|\btts\b"),
    # DeepSeek
    ParserRule(parsers=("deepseek_v41",), name=r"deepseek-v4\.1", kinds=r"\bdeepseek_v41\b", tokens=_THINK),
    ParserRule(parsers=("deepseek_v4",), name=r"deepseek-v4", kinds=r"\bdeepseek_v4\b", tokens=_THINK),
    ParserRule(parsers=("deepseek_v3",), kinds=r"\bdeepseek_v32\b", tokens=_THINK),
    ParserRule(
        parsers=("deepseek_v3",),
        name=r"deepseek-v3\.[12]",
        marks=("<｜Assistant｜>", "</think>", "thinking"),
        tokens=_THINK,
    ),
    ParserRule(
        parsers=("deepseek_r1",), name=r"deepseek-r1", marks=("<｜Assistant｜>", "</think>"), tokens=_THINK
    ),
    # Families with marks of their own.
    ParserRule(
        parsers=("openai_gptoss",),
        name=r"gpt-oss",
        kinds=r"\bgpt_?oss",
        marks=("<|channel|>",),
        tokens=("<|end|>", "<|channel|>"),
    ),
    ParserRule(
        parsers=("seed_oss",),
        name=r"seed-oss",
        marks=("<seed:think>",),
        tokens=("<seed:think>", "</seed:think>"),
    ),
    ParserRule(
        parsers=("gemma4",),
        name=r"gemma-?4",
        kinds=r"\bgemma4",
        tokens=("<|channel>", "<channel|>", "<|turn>", "<|tool_call>", "<|tool_response>"),
    ),
    ParserRule(
        parsers=("mistral",),
        name=r"magistral|ministral-3.*reasoning|mistral-small-4",
        marks=("[THINK]",),
        tokens=("[THINK]", "[/THINK]", "[TOOL_CALLS]"),
        files=("tekken.json", "consolidated*.safetensors"),
    ),
    # The parser of Granite 3.2 never sees a thought end, so nothing would be constrained, and it thinks only when asked to.
    ParserRule(parsers=(), name=r"granite-?3", marks=("Here is my thought process",)),
    ParserRule(
        parsers=("granite_thinking_parser",),
        name=r"granite-?4\.[2-9]",
        kinds="granite",
        marks=("</think>", "enable_thinking"),
        tokens=_THINK,
    ),
    ParserRule(parsers=(), name=r"granite", kinds=r"\bgranite"),
    # vLLM has no parser for the thoughts of openPangu, on which DeepDiver is built.
    ParserRule(parsers=(), name=r"pangu|deepdiver", kinds="pangu"),
    # Thoughts between <think> tags
    ParserRule(
        parsers=("glm45",),
        name=r"glm-?(4\.[5-9]|[5-9])",
        kinds=r"glm4v?_moe|glm_moe_dsa|glm5|glm4v?moe",
        marks=("</think>",),
        tokens=_THINK,
    ),
    ParserRule(parsers=("kimi_k3",), name=r"kimi-k3", kinds=r"\bkimi_k3"),
    ParserRule(
        parsers=("kimi_k2",),
        name=r"kimi-k2(-thinking|\.[5-9])",
        marks=("<|tool_calls_section_begin|>", "</think>"),
        tokens=_THINK,
    ),
    ParserRule(parsers=("minimax_m3",), name=r"minimax-m3", kinds=r"\bminimax_m3", tokens=_THINK),
    ParserRule(parsers=("minimax_m2",), name=r"minimax-m2", kinds=r"\bminimax_m2|minimaxm2", tokens=_THINK),
    ParserRule(
        parsers=("nemotron_v3",),
        name=r"nemotron-?3",
        kinds=r"nemotron_?h",
        marks=("</think>", "<function="),
        tokens=_THINK,
    ),
    ParserRule(parsers=(), name=r"nemotron", kinds="nemotron"),
    ParserRule(
        parsers=("hunyuan_a13b",),
        name=r"hunyuan-a13b",
        kinds=r"hunyuan_v1_moe|hunyuan_moe",
        marks=("</think>", "<answer>"),
    ),
    ParserRule(
        parsers=("ernie45",),
        name=r"ernie-4\.5.*(thinking|-vl)",
        kinds="ernie4_5",
        marks=("</think>",),
        tokens=_THINK,
    ),
    ParserRule(parsers=("step3p5",), name=r"step-?3\.[5-9]", kinds=r"\bstep3p5", tokens=_THINK),
    ParserRule(parsers=("step3",), name=r"step-?3(?!\.\d)", kinds=r"\bstep3(_vl|_text)?\b", tokens=_THINK),
    ParserRule(
        parsers=("olmo3",),
        name=r"olmo-?3.*think",
        kinds="olmo3",
        marks=("<think>",),
        tokens=("</", "Ġ</", "think", ">"),
    ),
    ParserRule(
        parsers=("mimo",),
        name=r"\bmimo",
        kinds=r"\bmimo",
        marks=("</think>", "enable_thinking"),
        tokens=_THINK,
    ),
    # EXAONE 4 answers at once unless `enable_thinking` says otherwise; the later ones think unless it does.
    ParserRule(
        parsers=("deepseek_v3",),
        name=r"^exaone-4\.0",
        kinds=r"\bexaone4\b",
        marks=("</think>",),
        tokens=_THINK,
    ),
    ParserRule(
        parsers=("holo2",),
        name=r"^k-exaone|^exaone-4\.5",
        kinds=r"\bexaone(_moe|4_5)\b",
        marks=("</think>", "enable_thinking"),
        tokens=_THINK,
    ),
    # Qwen3: with a switch, or made to think always; the others are told apart by their names.
    ParserRule(parsers=(), name=r"qwen3.*(coder|instruct)"),
    ParserRule(
        parsers=("qwen3",),
        name=r"^qwen3",
        kinds=r"\bqwen3",
        marks=("</think>", "enable_thinking"),
        tokens=_THINK,
    ),
    ParserRule(parsers=("qwen3",), kinds=r"\bqwen3", opens_thought=True, tokens=_THINK),
    ParserRule(parsers=("deepseek_r1",), name=r"^qwq|^phi-4-reasoning", opens_thought=True, tokens=_THINK),
)
"""The families, most specific first."""


def find_reasoning_parser(
    model: str, *, known: Collection[str] | None = None, template: str = ""
) -> str | None:
    """Return the name of vLLM's reasoning parser for `model`, or None if it does not think, or vLLM has none that fits.

    A local folder is judged by its chat template, configuration and tokens, a name on the hub by well-known families.

    Args:
        model: A local folder, or a name on the hub.
        known: Names that the installed vLLM has; None: any.
        template: What the user gives vLLM as `--chat-template`.
    """
    return choose_parser(REASONING_PARSER_RULES, model, known=known, template=template)
