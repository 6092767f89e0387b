"""Text as tests compare it."""

from __future__ import annotations


def one_spaced(text: str) -> str:
    """Return the text with one space between words: columns of tables are padded."""
    return " ".join(text.split())
