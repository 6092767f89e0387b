"""Which of vLLM's tool-call parsers fits a model."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

_PARSER_BY_MARK = (
    ("<function=", "qwen3_coder"),
    ("<arg_key>", "glm45"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<|channel|>", "openai"),
)
"""What a template that knows tools writes around a call, most specific first."""
_PARSER_BY_NAME = (
    (r"qwen3.*coder", "qwen3_coder"),
    (r"qwen2\.5|qwen3|qwq|hermes", "hermes"),
    (r"glm-?4\.[56]", "glm45"),
    (r"llama-?3", "llama3_json"),
    (r"mistral|ministral|devstral", "mistral"),
    (r"gpt-oss", "openai"),
    (r"kimi-k2", "kimi_k2"),
    (r"deepseek-v3\.1", "deepseek_v31"),
)


def find_tool_call_parser(model: str) -> str | None:
    """Return the name of vLLM's tool-call parser for `model`, or None if its chat template knows no tools.

    A local folder is judged by its chat template, a name on the hub by well-known families.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        name = model.lower()
        return next((parser for pattern, parser in _PARSER_BY_NAME if re.search(pattern, name)), None)
    template = _chat_template(folder)
    if "tools" not in template:
        return None
    return next((parser for mark, parser in _PARSER_BY_MARK if mark in template), None)


def _chat_template(folder: Path) -> str:
    """The chat template of a model folder; empty if there is none that can be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(template, list):  # several named ones
        return "\n".join(str(entry.get("template")) for entry in template if isinstance(entry, dict))
    return template if isinstance(template, str) else ""
