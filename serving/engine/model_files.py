"""What the files of a model tell about it before it is loaded: chat template, kind, and special tokens."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TEMPLATE = "chat_template.jinja"
_TEMPLATES = "additional_chat_templates"
_TOKENIZER_SETTINGS = "tokenizer_config.json"
_VOCABULARIES = (
    "tokenizer.json",
    "added_tokens.json",
    "special_tokens_map.json",
    _TOKENIZER_SETTINGS,
    "tekken.json",
)
"""Files that list tokens, each as a JSON string."""
_PROMPT_BEGINS = "add_generation_prompt"
"""After the last mention of it, a template writes the beginning of the answer."""
_THOUGHT = re.compile(r"<think>|\[THINK\]|<seed:think>")
_SWITCH = re.compile(r"thinking|reasoning_effort")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model folder as far as its small files tell."""

    folder: Path
    template: str = ""
    """Its chat templates, one after the other; empty if none can be read."""
    kinds: str = ""
    """Model types and architectures of `config.json`, in lower case, separated by spaces."""
    _vocabularies: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, folder: Path, *, template: str = "") -> ModelFiles:
        """Read a folder; what is missing or broken counts as empty.

        Args:
            folder: In Hugging Face format.
            template: File with a chat template that is used instead of the model's own, or the template itself.
        """
        own = _given_template(template) if template else _chat_template(folder)
        return cls(folder=folder, template=own, kinds=_kinds(_json(folder / "config.json")))

    @property
    def opens_thought(self) -> bool:
        """Whether each answer begins inside of a thought, because the template opens one and has no switch for it."""
        head, begins, tail = self.template.rpartition(_PROMPT_BEGINS)
        opens = bool(begins) and _THOUGHT.search(tail) is not None and "</think>" not in tail
        return opens and _SWITCH.search(head + tail) is None

    def has(self, pattern: str) -> bool:
        """Whether the folder contains a file of such a name, as `*.safetensors`."""
        return any(path.is_file() for path in self.folder.glob(pattern))

    def knows(self, token: str) -> bool:
        """Whether a token of its own stands for this text."""
        forms = {json.dumps(token), json.dumps(token, ensure_ascii=False)}
        return any(form in self._vocabulary(name) for name in _VOCABULARIES for form in forms)

    def _vocabulary(self, name: str) -> str:
        if name not in self._vocabularies:
            self._vocabularies[name] = _text(self.folder / name)
        return self._vocabularies[name]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _json(path: Path) -> dict[str, Any]:  # Any: JSON
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _given_template(template: str) -> str:
    """The template that vLLM takes for `--chat-template`: a file, or the text itself."""
    return template if "{" in template else _text(Path(template).expanduser())


def _chat_template(folder: Path) -> str:
    if text := _text(folder / _TEMPLATE):
        more = sorted((folder / _TEMPLATES).glob("*.jinja"))
        return "\n".join([*(_text(path) for path in more), text])
    template = _json(folder / _TOKENIZER_SETTINGS).get("chat_template")
    if isinstance(template, list):  # several named ones
        return "\n".join(str(entry.get("template")) for entry in template if isinstance(entry, dict))
    return template if isinstance(template, str) else ""


def _kinds(config: dict[str, Any]) -> str:
    """Model types and architectures, of the model and of the language model inside of it."""
    nested = [config.get("text_config"), config.get("llm_config")]
    found: list[str] = []
    for part in (config, *(inner for inner in nested if isinstance(inner, dict))):
        architectures = part.get("architectures")
        names = [part.get("model_type"), *(architectures if isinstance(architectures, list) else [])]
        found += [name.lower() for name in names if isinstance(name, str)]
    return " ".join(found)
