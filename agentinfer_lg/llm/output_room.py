"""How many tokens an answer may have, and what follows when that was not enough.

A limit is meant for what is visible. Thoughts come on top, as many as the model was seen to need. A cut answer is asked for
again with more room, then with the request to be brief; what is cut then is used as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

_FACTOR: Final = 4
_AMPLE: Final = 8192
"""Tokens for the thoughts of a model that was never seen to finish one."""
_MOST: Final = 32_768

_STARTS_THINKING: Final = re.compile(
    r"\s*(?:ok(?:ay)?|alright|hmm+|well|wait|let me|let's|let us|we (?:need|are|have|should)|the user|first,|so,|"
    r"i (?:need|should|have) to|looking at|to (?:answer|solve|determine)|嗯|好的?，|首先|用户|我需要|我们)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRoom:
    """Tokens of one request, and how it came to them."""

    visible: int
    thoughts: int = 0
    brief: bool = False
    """Ask the model to be brief, and not to think where it can do without."""
    tries: int = 0
    """Requests before this one."""

    @property
    def tokens(self) -> int:
        """Tokens to ask for."""
        return self.visible + self.thoughts


def more_room(room: OutputRoom, *, in_thought: bool, hopeless: bool, left: int | None) -> OutputRoom | None:
    """Return what to try after a cut answer; None: it is used as it is.

    Args:
        room: What was tried.
        in_thought: Whether it was cut before anything visible came.
        hopeless: Whether the text repeats itself, so that more of it is no better.
        left: Tokens that the window and the server leave for an output; None: not known.
    """
    if hopeless:
        return None
    most = _MOST if left is None else min(left, _MOST)
    if in_thought:
        wanted = replace(room, thoughts=max(_AMPLE, _FACTOR * room.thoughts), tries=room.tries + 1)
        return _within(wanted, most) if wanted.tries <= 2 and room.tokens < most else _brief(room)
    wanted = replace(room, visible=_FACTOR * room.visible, tries=room.tries + 1)
    if room.tries == 0 and room.tokens < most:
        return _within(wanted, most)
    return _brief(room)


def ample_room(room: OutputRoom, *, left: int | None) -> OutputRoom | None:
    """Return the largest room for an answer that never came to its point; None where it had that."""
    most = _AMPLE if left is None else min(left, _AMPLE)
    return replace(room, visible=most, thoughts=0, tries=room.tries + 1) if room.tokens < most else None


def repeats_itself(text: str) -> bool:
    """Whether the end of `text` is a loop, which more room only makes longer."""
    end = text[-40:].strip()
    return len(end) >= 20 and text.count(end) >= 3


def looks_like_thinking(text: str) -> bool:
    """Whether `text` begins as thoughts without markers do."""
    return _STARTS_THINKING.match(text) is not None


def _within(room: OutputRoom, most: int) -> OutputRoom:
    visible = min(room.visible, most)
    return replace(room, visible=visible, thoughts=max(0, min(room.thoughts, most - visible)))


def _brief(room: OutputRoom) -> OutputRoom | None:
    return None if room.brief else replace(room, brief=True, tries=room.tries + 1)
