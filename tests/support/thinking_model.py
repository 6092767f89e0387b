"""The demo model as one that thinks before it answers, as far as a server can tell.

The model knows nothing of thoughts. Its chat template opens one, in the manner of Qwen3. A logits processor of vLLM then makes
it write `THOUGHT` and close it. Parsers of reasoning want a token for each marker. Tokens that the model never uses are renamed
for them and for the thought. Their vectors become zero, so that so small a model is not led astray by what it did not think.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ("CLOSED", "OPENED", "THOUGHT", "thinking_model")

OPENED: Final = "<think>"
CLOSED: Final = "</think>"
THOUGHT: Final = ("Hmmm, ", "let me see ... ") * 4
"""What it thinks each time, token by token."""
_RENAMED: Final = {
    "<gh_stars>": OPENED,
    "<issue_start>": CLOSED,
    "<issue_comment>": THOUGHT[0],
    "<issue_closed>": THOUGHT[1],
}
_TEMPLATE: Final = """\
{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful AI assistant.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n<think>\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""


def thinking_model(demo_model: Path, folder: Path) -> Path:
    """Copy the demo model into a new folder as a model that thinks, and return that folder."""
    shutil.copytree(demo_model, folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    path = folder / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for token in tokenizer["added_tokens"]:
        if token["content"] in _RENAMED:
            token["content"], token["special"] = _RENAMED[token["content"]], False
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {_RENAMED.get(word, word): number for word, number in words.items()}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    _blank_markers(folder / "model.safetensors", [words[word] for word in _RENAMED])
    return folder


def _blank_markers(weights: Path, tokens: Sequence[int]) -> None:
    from safetensors.torch import load_file, save_file

    loaded = load_file(weights)
    for token in tokens:
        loaded["model.embed_tokens.weight"][token] = 0
    save_file(loaded, weights, metadata={"format": "pt"})
