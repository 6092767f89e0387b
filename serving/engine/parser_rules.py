"""Rules that choose one of vLLM's parsers for a model: a family by its name, or by its files."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentinfer_lg.serving.engine.model_files import ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserRule:
    """One family of models. A model on the hub is known by `name`, a local folder by everything else.

    What is left empty is not asked for. A rule that only has a name says nothing about folders.
    """

    parsers: tuple[str, ...]
    """Names in vLLM, the best one first; the first one that the installed vLLM has is taken. Empty: none fits."""
    name: str = ""
    """Regular expression on the name without its owner, in lower case."""
    kinds: str = ""
    """Regular expression on model types and architectures, in lower case."""
    marks: tuple[str, ...] = ()
    """Texts that the chat template contains, all of them."""
    opens_thought: bool = False
    """Whether the template must open a thought in each answer."""
    tokens: tuple[str, ...] = ()
    """Tokens without which vLLM's parser fails; a folder that lacks one gets no parser."""
    files: tuple[str, ...] = ()
    """Patterns of files without which it fails, one file of each."""

    def fits_name(self, name: str) -> bool:
        """Whether a model on the hub is of this family."""
        return bool(self.name) and re.search(self.name, name) is not None

    def fits_files(self, model: ModelFiles) -> bool:
        """Whether a model folder is of this family."""
        asks = bool(self.kinds or self.marks or self.opens_thought)
        return (
            asks
            and re.search(self.kinds, model.kinds) is not None
            and all(mark in model.template for mark in self.marks)
            and (model.opens_thought or not self.opens_thought)
        )

    def runs_on(self, model: ModelFiles) -> bool:
        """Whether the folder has everything that the parser needs."""
        return all(model.knows(token) for token in self.tokens) and all(
            model.has(pattern) for pattern in self.files
        )


def choose_parser(
    rules: Sequence[ParserRule],
    model: str,
    *,
    known: Collection[str] | None = None,
    template: str = "",
    must_mention: str = "",
) -> str | None:
    """Return the name of the parser for a model, or None.

    Args:
        rules: The families; the first one that fits counts.
        model: A local folder, or a name on the hub.
        known: Names that the installed vLLM has; None: any.
        template: What the user gives vLLM as `--chat-template`.
        must_mention: A word without which a chat template makes no use of such a parser.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        files = ModelFiles.read(folder, template=template)
        if files.template and must_mention not in files.template:
            return None
        rule = next((rule for rule in rules if rule.fits_files(files)), None)
        rule = rule if rule and rule.runs_on(files) else None
    else:
        name = model.lower().rstrip("/").rpartition("/")[2]
        rule = next((rule for rule in rules if rule.fits_name(name)), None)
    parsers = rule.parsers if rule else ()
    return next((parser for parser in parsers if known is None or parser in known), None)
