"""Notice a server that leaves out a part of a prompt without a word.

Some servers cut a prompt that is too long and answer all the same. Their own count of its tokens gives them away: it stands
still while the prompts of a session grow, or it is far below what the prompt must have. Other servers count only what they had
not cached; their counts move with the growth of the prompt, and prove nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_GROWTH: Final = 1.25
"""Growth of a prompt from which on its count must have grown, too."""
_STILL: Final = 1.02
_EQUAL: Final = 1.005
_BELOW: Final = 0.85
_FAR_BELOW: Final = 0.4
_LEAST_TOKENS: Final = 1000
"""Below it prompts are too short to tell."""
_KEPT: Final = 400


@dataclass(slots=True)
class PromptSizes:
    """Sizes of earlier prompts: their session, as estimated, and as the server counted them."""

    _seen: deque[tuple[str, int, int]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def cut_at(self, estimated: int, counted: int, *, session: str = "") -> int | None:
        """Return the tokens that the server saw, if it saw less than it was sent.

        Args:
            estimated: Tokens of the prompt, by its text.
            counted: Tokens that the server says it has.
            session: Whose prompt it is: prompts of one session extend each other.
        """
        seen = list(self._seen)
        self._seen.append((session, estimated, counted))
        if counted < _LEAST_TOKENS or estimated <= counted:
            return None
        cut = _is_far_below(seen, estimated, counted) or _stands_still(seen, estimated, counted, session)
        return counted if cut else None


def _is_far_below(seen: list[tuple[str, int, int]], estimated: int, counted: int) -> bool:
    """Whether a count is much less than is usual, and a number at which windows end, or at which another prompt ended."""
    # Estimates differ from counts by the tokenizer: what was usual so far is what counts.
    usual = min((count / estimate for _, estimate, count in seen if estimate and count), default=1.0)
    if counted >= _FAR_BELOW * min(1.0, usual) * estimated:
        return False
    return _is_round(counted) or any(
        _alike(count, counted, _EQUAL) and estimate * _GROWTH <= estimated for _, estimate, count in seen
    )


def _stands_still(seen: list[tuple[str, int, int]], estimated: int, counted: int, session: str) -> bool:
    """Whether a session's prompt grew and its count did not."""
    shorter = [(name, estimate, count) for name, estimate, count in seen if estimate * _GROWTH <= estimated]
    usual = min((count / estimate for _, estimate, count in shorter if estimate and count), default=1.0)
    if counted >= _BELOW * usual * estimated:
        return False  # texts of another kind have fewer tokens
    own = [(estimate, count) for name, estimate, count in seen if name == session]
    still = any(
        name == session and count >= _LEAST_TOKENS and _alike(count, counted, _STILL)
        for name, _, count in shorter
    )
    if not still or counted * _STILL < max(count for _, count in own):
        return False
    growth = estimated - own[-1][0]
    return _is_round(counted) or not 0.5 * growth <= counted <= 1.6 * growth


def _alike(one: int, other: int, factor: float) -> bool:
    return one <= factor * other and other <= factor * one


def _is_round(tokens: int) -> bool:
    """Whether people choose such a number for a window."""
    return tokens % 64 == 0 or tokens % 100 == 0
