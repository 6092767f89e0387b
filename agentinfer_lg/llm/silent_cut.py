"""Notice a server that leaves out a part of a prompt without a word.

Some servers cut a prompt that is too long and answer all the same. Their own count of its tokens gives them away: it stands
still while the prompts grow, or it is far below what the prompt must have.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_GROWTH: Final = 1.25
"""Growth of a prompt from which on its count must have grown, too."""
_STILL: Final = 1.02
_FAR_BELOW: Final = 0.4
_LEAST_TOKENS: Final = 1000
"""Below it prompts are too short to tell."""
_KEPT: Final = 50


@dataclass(slots=True)
class PromptSizes:
    """Sizes of earlier prompts: as estimated, and as the server counted them."""

    _seen: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def cut_at(self, estimated: int, counted: int) -> int | None:
        """Return the tokens that the server saw, if it saw less than it was sent.

        Args:
            estimated: Tokens of the prompt, by its text.
            counted: Tokens that the server says it has.
        """
        seen = list(self._seen)
        self._seen.append((estimated, counted))
        if counted < _LEAST_TOKENS or estimated <= counted:
            return None
        # Estimates differ from counts by the tokenizer: what was usual so far is what counts.
        usual = min((count / estimate for estimate, count in seen if estimate and count), default=1.0)
        if counted < _FAR_BELOW * min(1.0, usual) * estimated:
            return counted
        stands = any(
            estimated >= _GROWTH * estimate
            and count >= _LEAST_TOKENS
            and counted <= _STILL * count
            and counted >= count / _STILL
            for estimate, count in seen
        )
        return counted if stands else None
