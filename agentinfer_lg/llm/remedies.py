"""What to change when a server refuses a request.

Each remedy looks at the server's words and at what was sent, and names a change of what is known of the server. Remedies for a
cause that the server names come first, those for what is likely after them. Trying one costs a request that the server refuses
at once; what works is never tried again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agentinfer_lg.llm.capabilities import Capabilities, Change, GuideForm, QuietForm
from agentinfer_lg.llm.failure import Failure

_GUIDE_FIELDS: Final = ("response_format", "structured_outputs")
_QUIET_FIELDS: Final = ("chat_template_kwargs", "reasoning_effort")
_ESSENTIAL: Final = frozenset({"model", "messages", "tools", "stream"})
_LIMITS: Final = ("max_tokens", "max_completion_tokens")

_GUIDED = re.compile(
    r"response.?format|json.?schema|json.?object|structured|guided|grammar|schema|regex|xgrammar|outlines|constrain",
    re.IGNORECASE,
)
_SYSTEM = re.compile(
    r"(?:system|developer).{0,60}(?:role|message|prompt|instruction|support|allow|first|begin)|"
    r"(?:role|message|prompt|instruction).{0,40}(?:system|developer)|系统",
    re.IGNORECASE,
)
_ALTERNATE = re.compile(
    r"alternat|consecutive|same role|roles? (?:must|should|order)|unexpected role|expected last role|"
    r"(?:first|last|final) message|(?:must|should) (?:start|end|begin)|after (?:role )?['\"]?(?:user|assistant|tool)",
    re.IGNORECASE,
)
_CALL_ID = re.compile(r"tool.?call.{0,4}id|a-z, ?0-9|length of 9|alphanumeric", re.IGNORECASE)
_TOOL_ROLE = re.compile(
    r"(?:unknown|invalid|unsupported|unexpected|not support\w*|only).{0,60}(?:role|tool)|role.{0,40}(?:tool|not)|['\"]tool['\"]",
    re.IGNORECASE,
)
_CONTENT = re.compile(
    r"content.{0,80}(?:null|none|string|required|empty|missing|type|blank)|(?:null|none|empty|missing).{0,40}content",
    re.IGNORECASE,
)
_STREAM = re.compile(r"stream", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.])(\d[\d,]{1,8})(?![\d.])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change that may make a refused request work."""

    name: str
    change: Change
    sentence: str
    """What people are told when it worked."""
    blind: bool = False
    """Whether the server did not name the cause."""


def find_remedies(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    """Yield what may help against `failure`, the likeliest first.

    Args:
        failure: What the server said; a failure that has nothing to do with the request has no remedy.
        body: What was sent.
        known: What was known when it was sent.
    """
    if failure.kind in ("key", "quota", "rate", "model", "filter"):
        return
    if failure.kind == "overflow":
        yield from _lower_limit(failure, body, known)
        return
    # Servers whose templates and parsers break say 500.
    if failure.kind == "refused" or (failure.kind == "server" and failure.status == 500):
        for find in _NAMED:
            yield from find(failure, body, known)
    # A guided request may fail in any way: grammars are compiled by code that breaks. A server that is busy says nothing of it.
    if failure.kind == "refused" or failure.status in (500, 502):
        yield from _guide(body, known, words=failure.words)
    if failure.kind == "refused":
        yield from _blind(body, known)


def _streams(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    if _STREAM.search(failure.words) and "stream" not in body:
        yield Remedy(
            name="stream",
            change=lambda now: replace(now, streams_only=True),
            sentence="it answers as a stream only, so it is asked for one",
        )


def _limit_name(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    sent = known.limit_name
    if sent not in body or not re.search(rf"\b{sent}\b", failure.words):
        return
    yield from _lower_limit(failure, body, known)
    other = _LIMITS[1 - _LIMITS.index(sent)]
    if known.sends(other):
        yield Remedy(
            name=other,
            change=lambda now: replace(now, limit_name=other, refused=now.refused | {sent}),  # type: ignore[arg-type]
            sentence=f"it wants {other} in place of {sent}",
        )
    else:
        yield _drop(sent)


def _lower_limit(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    """Ask for fewer tokens, if the server names the most that it gives."""
    asked = body.get(known.limit_name)
    if not isinstance(asked, int) or not re.search(
        r"max_(?:completion_|new_)?tokens|max tokens|output tokens", failure.words
    ):
        return
    if failure.kind == "overflow" and re.search(r"context|prompt|input", failure.words, re.IGNORECASE):
        return  # the prompt is what is too long
    named = [int(text.replace(",", "")) for text in _NUMBER.findall(failure.words)]
    lower = max((number for number in named if 1 < number < asked), default=0)
    if lower:
        yield Remedy(
            name="most_output",
            change=lambda now: replace(now, most_output=lower),
            sentence=f"it gives at most {lower:,} tokens of output",
        )


def _parameters(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    """Leave out parameters that the server names."""
    for name in body:
        if name in _ESSENTIAL or name in _LIMITS or name in _GUIDE_FIELDS:
            continue
        if re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", failure.words, re.IGNORECASE):
            yield _drop(name)


def _drop(name: str) -> Remedy:
    if name in _QUIET_FIELDS:
        form: QuietForm = "template" if name == "chat_template_kwargs" else "effort"
        return Remedy(
            name=name,
            change=lambda now: after_quiet_form(replace(now, refused=now.refused | {name}), form),
            sentence=f"it does not take {name}, which is no longer sent",
        )
    return Remedy(
        name=name,
        change=lambda now: replace(now, refused=now.refused | {name}),
        sentence=f"it does not take {name}, which is no longer sent",
    )


_NEXT_QUIET_FORM: Final[Mapping[QuietForm, QuietForm]] = {
    "template": "effort",
    "effort": "switch",
    "switch": "none",
    "none": "none",
}


def after_quiet_form(known: Capabilities, form: QuietForm) -> Capabilities:
    """Return what is known after `form`, as a way to ask for no thinking, did not work; calls in parallel may all say so."""
    return replace(known, quiet=_NEXT_QUIET_FORM[form]) if known.quiet == form else known


def _guide(body: Mapping[str, Any], known: Capabilities, *, words: str) -> Iterator[Remedy]:
    """Prescribe the form of the output less strictly."""
    if "structured_outputs" in body:
        yield Remedy(
            name="regex",
            change=lambda now: replace(now, guide="json_schema") if now.guide == "regex" else now,
            sentence="it does not take regular expressions",
        )
    sent = body.get("response_format")
    if not isinstance(sent, Mapping):
        return
    if sent.get("type") == "json_schema" and re.search(r"json_object", words):
        yield _weaker("json_schema", "object_schema", "it takes schemas only beside the type json_object")
    if "schema" in sent:
        yield _weaker("object_schema", "json_object", "it does not take JSON schemas, but promises JSON")
    yield Remedy(
        name="guide",
        change=lambda now: replace(now, guide="none"),
        sentence="it does not take guided output; answers are read tolerantly",
    )


def _weaker(before: GuideForm, after: GuideForm, sentence: str) -> Remedy:
    return Remedy(
        name=f"guide_{after}",
        change=lambda now: replace(now, guide=after) if now.guide == before else now,
        sentence=sentence,
    )


def _named_guide(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    if _GUIDED.search(failure.words):
        yield from _guide(body, known, words=failure.words)


def _roles(failure: Failure, body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    """Write the messages in another way, if the server names what is wrong with them."""
    words, messages = failure.words, body.get("messages") or ()
    roles = [message.get("role") for message in messages]
    if "tool" in roles and _CALL_ID.search(words) and not known.short_ids:
        yield Remedy(
            name="short_ids",
            change=lambda now: replace(now, short_ids=True),
            sentence="ids of tool calls must be nine letters and digits",
        )
    if "reasoning_content" in words and not known.wants_thoughts:
        yield Remedy(
            name="thoughts_back",
            change=lambda now: replace(now, wants_thoughts=True),
            sentence="it wants thoughts given back with tool calls",
        )
    elif "reasoning_content" in words:
        yield Remedy(
            name="no_thoughts_back",
            change=lambda now: replace(now, wants_thoughts=False),
            sentence="it refuses thoughts that are given back",
        )
    if ("system" in roles or "developer" in roles) and _SYSTEM.search(words):
        yield from _system(known, developer="developer" in words.lower())
    if _ALTERNATE.search(words) and not known.alternating:
        yield _ALTERNATING
    if "tool" in roles and _TOOL_ROLE.search(words) and known.tool_results == "tool":
        yield _TOOLS_AS_TEXT
    if any(message.get("tool_calls") for message in messages) and _CONTENT.search(words):
        yield from _empty_content(known)


def _system(known: Capabilities, *, developer: bool) -> Iterator[Remedy]:
    if developer and known.system == "system":
        yield Remedy(
            name="developer",
            change=lambda now: replace(now, system="developer"),
            sentence="instructions have the role developer",
        )
    if known.system != "folded":
        yield _FOLDED


def _empty_content(known: Capabilities) -> Iterator[Remedy]:
    if known.empty_content == "null":
        yield Remedy(
            name="empty_content",
            change=lambda now: replace(now, empty_content="empty"),
            sentence="the content of a message with tool calls must be a text",
        )
    if known.empty_content != "space":
        yield Remedy(
            name="space_content",
            change=lambda now: replace(now, empty_content="space"),
            sentence="the content of a message with tool calls must not be empty",
        )


_FOLDED = Remedy(
    name="folded_system",
    change=lambda now: replace(now, system="folded"),
    sentence="it has no system role; instructions begin the first message",
)
_ALTERNATING = Remedy(
    name="alternating",
    change=lambda now: replace(now, alternating=True),
    sentence="roles must alternate, so messages are joined",
)
_TOOLS_AS_TEXT = Remedy(
    name="tools_as_text",
    change=lambda now: replace(now, tool_results="text"),
    sentence="it has no role for results of tools; they are shown as messages of the user",
)

_NAMED: Final[tuple[Callable[[Failure, Mapping[str, Any], Capabilities], Iterator[Remedy]], ...]] = (
    _limit_name,
    _parameters,
    _named_guide,
    _roles,
    _streams,
)


def _blind(body: Mapping[str, Any], known: Capabilities) -> Iterator[Remedy]:
    """Yield what is worth a try where the server does not say what it refuses."""
    special = [name for name in ("vllm_xargs", *_QUIET_FIELDS, "stream_options") if name in body]
    for name in special:
        yield replace(_drop(name), blind=True)
    roles = [message.get("role") for message in body.get("messages") or ()]
    if "tool" in roles:
        if not known.short_ids:
            yield Remedy(
                name="short_ids",
                change=lambda now: replace(now, short_ids=True),
                sentence="ids of tool calls must be nine letters and digits",
                blind=True,
            )
        if known.tool_results == "tool":
            yield replace(_TOOLS_AS_TEXT, blind=True)
    elif "tools" in body:
        return  # more likely the tools than anything that follows; without them the request is written anew
    if "system" in roles and known.system == "system":
        yield replace(_FOLDED, blind=True)
    if "temperature" in body:
        yield replace(_drop("temperature"), blind=True)
    if known.limit_name == "max_tokens" and "max_tokens" in body and known.sends("max_completion_tokens"):
        yield Remedy(
            name="max_completion_tokens",
            change=lambda now: replace(
                now, limit_name="max_completion_tokens", refused=now.refused | {"max_tokens"}
            ),
            sentence="it wants max_completion_tokens in place of max_tokens",
            blind=True,
        )
