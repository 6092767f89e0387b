"""Whether a cut answer does all the same, is a thought, or is to be asked for again with more room."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from agentinfer_lg.llm.capabilities import Capabilities
from agentinfer_lg.llm.output_room import (
    OutputRoom,
    ample_room,
    looks_like_thinking,
    more_room,
    repeats_itself,
)
from agentinfer_lg.llm.reply import Reply

_THINKER: Final = re.compile(
    r"(?<![a-z])r1(?![a-z])|qwq|think|reason|magistral|gpt-oss|deepdiver|(?<![a-z])o[134](?![a-z])|gpt-5",
    re.IGNORECASE,
)
"""Names of models that are likely to think."""
_NEARLY_ALL: Final = 0.9


def room_after_cut(
    reply: Reply,
    room: OutputRoom,
    *,
    known: Capabilities,
    whole: bool,
    enough: Callable[[str], bool] | None,
    left: int | None,
) -> OutputRoom | None:
    """Return the room for another try after a cut answer; None: it is used as it is.

    Args:
        reply: The cut answer.
        room: What it had.
        known: What is known of the model.
        whole: Whether the visible text must be whole.
        enough: Whether a cut text does all the same.
        left: Tokens that window and server leave for an output; None: not known.
    """
    if not whole and reply.text:
        return None
    suffices = enough is not None and bool(reply.text) and enough(reply.text)
    thinking = may_be_thinking(reply, known)
    if suffices and not thinking:
        return None
    in_thought = thinking or not (reply.text or reply.tool_calls)
    hopeless = repeats_itself(reply.text) and not thinking
    following = more_room(room, in_thought=in_thought, hopeless=hopeless, left=left)
    if following is not None or hopeless or in_thought or enough is None or suffices:
        return following
    return ample_room(room, left=left)


def may_be_thinking(reply: Reply, known: Capabilities) -> bool:
    """Whether a cut text may be a thought whose template has written the opening marker: the closing one tells."""
    if not reply.text or reply.thoughts or reply.tool_calls:
        return False
    if known.thought_place in ("field", "inline") or known.never_thinks:
        return False  # what is visible was told apart
    if reply.usage.thought_tokens >= _NEARLY_ALL * reply.usage.output_tokens:
        return True
    return looks_like_thinking(reply.text) or _THINKER.search(reply.model) is not None
