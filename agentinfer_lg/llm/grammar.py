"""Pieces of regular expressions that constrain what a model writes.

A server turns an expression into a mask of the whole vocabulary for each of its states, and a text of at most 200 characters
has 200 of them. The expression of a step with such texts took an engine on two cores 4.5 s to prepare; with texts of at most
32 words it takes 0.6 s. The actions that make sense change from step to step, so most steps bring an expression of their own.
"""

from __future__ import annotations

_WORD_CHARS = 60
"""Most characters between two spaces: enough for any word, and for a sentence of a language that is written without spaces."""


def prose(excluded: str, *, words: int) -> str:
    """Return the expression of a text on one line: words with single spaces between them.

    Args:
        excluded: Characters that it must not have, as they are written inside of `[^...]`.
        words: Most words.
    """
    word = rf"[^{excluded} ]{{1,{_WORD_CHARS}}}"
    return rf"{word}( {word}){{0,{words - 1}}}"
