"""The question of a run: what counts as one."""

from __future__ import annotations

from typing import Final

from agentinfer_lg.errors import UserInputError

MAX_QUESTION_CHARS: Final = 20_000
"""A question is part of every prompt, so a longer one would crowd out the evidence."""


def check_question(text: str) -> str:
    """Return the question without surrounding white space.

    Bytes that are not text (lone surrogates) become `?`, since no model server takes them.

    Raises:
        UserInputError: It is empty, or longer than `MAX_QUESTION_CHARS`.
    """
    question = text.encode("utf-8", "replace").decode("utf-8").strip()
    if not question:
        msg = "The question is empty (0 characters). Give it in quotes, or pass - to read it from stdin."
        raise UserInputError(msg)
    if len(question) > MAX_QUESTION_CHARS:
        msg = (
            f"The question has {len(question):,} characters; at most {MAX_QUESTION_CHARS:,} can be handled. "
            "Put long material into files of a folder, pass that with --docs, and ask a short question."
        )
        raise UserInputError(msg)
    return question
