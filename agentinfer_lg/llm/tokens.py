"""How many tokens a text has: estimated, or counted where the model's own encoding is known and on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MAX_PIECE = 50_000
"""Characters that are encoded at once; tiktoken panics where it meets a million blanks in a row."""


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of `text`.

    A quarter of the UTF-8 bytes: about four characters per token for English, three quarters of a token per character
    for Chinese, and never less than a quarter of the characters. Digits are worth half a token more, because many
    tokenizers give each its own token.

    Args:
        text: Any string, lone surrogates included.

    Returns:
        0 for the empty string, else at least 1; joining texts never gives more than the sum of their estimates.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    digits = sum(map(text.count, "0123456789"))
    return (size + 2 * digits + 3) // 4


def token_counter(model: str = "", *, openai: bool = False) -> Callable[[str], int]:
    """Return what counts the tokens of a text for `model`; never raises and never uses the network.

    Loading an encoding takes about a second: call this in a thread, once per model.

    Args:
        model: Name of the model, as its server knows it.
        openai: OpenAI serves the model, or Azure does. Elsewhere a name says nothing about the encoding.

    Returns:
        An exact counter if tiktoken knows the model and the file of its encoding is on disk, else `estimate_tokens`.
    """
    if not openai:
        return estimate_tokens
    return _exact_counter(model.rpartition("/")[2]) or estimate_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _EncodingFile:
    """A file that tiktoken downloads on first use, and keeps."""

    address: str
    sha256: str

    def is_cached(self) -> bool:
        """Whether tiktoken finds the file, whole, where it looks: it downloads a damaged one again."""
        folder = _cache_folder()
        if folder is None:
            return False
        name = hashlib.sha1(self.address.encode(), usedforsecurity=False).hexdigest()
        try:
            content = (folder / name).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(content).hexdigest() == self.sha256


_O200K = _EncodingFile(
    address="https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
    sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)
_CL100K = _EncodingFile(
    address="https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
    sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
)
_FILES = {"o200k_base": _O200K, "o200k_harmony": _O200K, "cl100k_base": _CL100K}
"""Encodings of chat models, and what each is made of."""


def _cache_folder() -> Path | None:
    """Return the folder of tiktoken's files, None if its cache is switched off."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if (folder := os.environ.get(name)) is not None:
            return Path(folder) if folder else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def _exact_counter(model: str) -> Callable[[str], int] | None:
    try:
        import tiktoken  # here, because most runs need no encoding

        name = tiktoken.encoding_name_for_model(model)
        if name not in _FILES or not _FILES[name].is_cached():
            return None
        encoding = tiktoken.get_encoding(name)
    except (
        Exception
    ):  # an unknown model, a damaged file, a broken installation: an estimate is as good as before
        return None

    def count(text: str) -> int:
        pieces = (text[start : start + _MAX_PIECE] for start in range(0, len(text), _MAX_PIECE))
        return sum(len(encoding.encode_ordinary(piece)) for piece in pieces)

    return count
