"""What went wrong at a model server, read from whatever it answered.

Servers tell a failure by a status, or by an `error` inside a 200; as an object, a string, a list, a validation report, or a
page of HTML. The kind of a failure decides what follows; the server's own sentence is what people see.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any, Final, Literal

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.connection import Received

FailureKind = Literal["overflow", "key", "quota", "rate", "model", "filter", "server", "refused"]
"""The prompt is too long; the key; no credit left; too many requests; no such model; content policy; the server; the request."""

_MOST_CHARS: Final = 300
_PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})

_OVERFLOW = re.compile(
    r"context[ _]?(?:length|window|size)|maximum (?:context|input|prompt|sequence|model)|max(?:imum)?[ _]?(?:model|seq|input)"
    r"[ _]?len|(?:prompt|input|request|conversation|messages?)\W*(?:\w+\W+){0,6}?(?:is |are )?too (?:long|large|many tokens)"
    r"|too many (?:input |prompt )?tokens|exceeds? (?:the )?(?:available |maximum |model'?s? |allowed )*"
    r"(?:context|number of (?:input )?tokens|token|input|prompt)|`?inputs?`? tokens? \+|"
    r"input(?:_| )token(?: count|s).{0,40}exceed"
    r"|reduce (?:the length|your prompt)|tokens? .{0,60}(?:exceeds?|greater than|larger than|more than) .{0,40}"
    r"(?:context|maximum|limit|n_ctx)|exceed_context_size|context_length_exceeded|string_above_max_length|prompt_too_long"
    r"|n_ctx|(?:prompt|input) (?:length|tokens?).{0,50}(?:exceed|maximum|limit|longer)|larger than the (?:max|context)"
    r"|上下文|(?:输入|提示词?|请求).{0,12}(?:过长|超(?:过|出|长))",
    re.IGNORECASE,
)
_OUTPUT_CAP = re.compile(
    r"max_(?:completion_|output_|new_)?tokens.{0,60}?"
    r"(?:must be|at most|maximum value|<=|cannot (?:exceed|be greater)|should be|less than|range)",
    re.IGNORECASE,
)
"""The output that was asked for is above what the server gives, whatever the prompt."""
_NO_FEATURE = re.compile(
    r"support.{0,40}(?:tool|parameter|response_format|value)|tool.{0,20}support", re.IGNORECASE
)
"""A router that has the model, and no server of it that takes the request."""
_RATE = re.compile(
    r"rate.?limit|too many requests|overloaded|try again (?:in|later)|quota.{0,20}per (?:minute|day)|throttl|resource_exhausted",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"insufficient.{0,12}(?:quota|credit|balance|fund)|billing|payment|out of credit|exceeded your current quota",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model.{0,80}(?:not (?:exist|found)|does not exist|unknown|unavailable|not supported|is not available|not loaded|"
    r"no longer|decommissioned|deprecated)|(?:unknown|invalid|no such|unrecognized|unsupported) model|model_not_found|"
    r"no (?:instances|endpoints?|deployment).{0,20}(?:model|found)|deploymentnotfound",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content.{0,3}(?:filter|management|policy)|moderation|safety|responsibleai|data_inspection|sensitive",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"(?:context (?:length|window|size)|maximum (?:context|model|input|allowed|number)[^.\d]{0,40}|max_model_len|n_ctx|"
    r"context|limit|maximum|<=?)\W{0,4}(?:is |of |only |at most |\(|=|:)*\W{0,3}(\d[\d,]{2,9})",
    re.IGNORECASE,
)
_ECHO = re.compile(r"""['"]input['"]: .*?(?=, ['"](?:ctx|url)['"]: |\}\]|$)""", re.DOTALL)
"""What was sent, in a validation report that is written as a text."""
_WAIT = re.compile(
    r"(?:try again|retry|wait)[^\d]{0,30}(\d+(?:\.\d+)?)\s*(ms|milliseconds?|m(?:in(?:utes?)?)?\b|s(?:ec(?:onds?)?)?\b|s)"
    r"|retryDelay\W{1,5}(\d+(?:\.\d+)?)s",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed request."""

    status: int
    """Of HTTP, or what the body says where the status was 200."""
    kind: FailureKind
    sentence: str
    """The server's own words on one line, without control characters; empty where it said nothing."""
    words: str = ""
    """All that the body says, names of parameters and codes included, for whoever looks for a cause."""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    window: int | None = None
    """Context window in tokens, where the sentence names it."""

    @property
    def passes(self) -> bool:
        """Whether the same request may work later."""
        return self.kind in ("rate", "server") and self.status in _PASSING


class ServerFailureError(EndpointError):
    """A server refused a request, or failed at it."""

    def __init__(self, failure: Failure, *, body: Mapping[str, Any]) -> None:
        super().__init__(failure.sentence)
        self.failure = failure
        self.body = body
        """What was sent."""


def read_failure(received: Received, *, hide: Callable[[str], str] = str) -> Failure | None:
    """Return what went wrong; None where the answer is no failure.

    Args:
        received: An answer with any status: a 200 may hold an error instead of choices.
        hide: Takes secrets out of a sentence that people will see.
    """
    value = received.value
    if received.ok and not _holds_error(value):
        return None
    words = _words(value) if value is not None else _page_text(received.text)
    status = received.status if not received.ok else _inner_status(value, words)
    return describe_failure(
        status, hide(_sentence(value, words)), words=words, retry_after=_retry_after(received.headers, words)
    )


def describe_failure(
    status: int, sentence: str, *, words: str = "", retry_after: float | None = None
) -> Failure:
    """Return the failure of a status and a sentence.

    Args:
        status: Of HTTP.
        sentence: What the server says.
        words: All that it says; default: the sentence.
        retry_after: Seconds that it asks to wait.
    """
    words = words or sentence
    kind = _kind(status, words)
    window = _named_window(words) if kind == "overflow" else None
    return Failure(
        status=status,
        kind=kind,
        sentence=one_line(sentence),
        words=words,
        retry_after=retry_after,
        window=window,
    )


def one_line(text: str) -> str:
    """Return `text` on one line, without control characters, and not too long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 20 * _MOST_CHARS]).split())[
        :_MOST_CHARS
    ]


def _kind(status: int, words: str) -> FailureKind:
    if status == 402 or (_QUOTA.search(words) and status in (400, 403, 429)):
        return "quota"
    if _OUTPUT_CAP.search(words) and not re.search(r"context length|inputs?`? tokens?", words, re.IGNORECASE):
        return "refused"
    if status not in (401, 403, 404, 429) and _OVERFLOW.search(words):
        return "overflow"
    if status == 413 and not _RATE.search(words):
        return "overflow"
    if status in (401, 403):
        return "filter" if status == 403 and _FILTERED.search(words) else "key"
    if status == 429 or (status in (400, 413, 498) and _RATE.search(words)):
        return "rate"
    if status == 404 and _NO_FEATURE.search(words):
        return "refused"
    if status == 404 or (status < 500 and _NO_MODEL.search(words)):
        return "model"
    if status in (400, 422) and _FILTERED.search(words):
        return "filter"
    if status in (408, 409, 425) or (status >= 500 and status != 501):
        return "server"
    return "refused"


def _named_window(words: str) -> int | None:
    """Return the window that the server names: the smallest of the limits, since a prompt's length is above it."""
    found = [int(number.replace(",", "")) for number in _WINDOW.findall(words)]
    fitting = [number for number in found if number >= 256]
    return min(fitting, default=None)


def _holds_error(value: Any) -> bool:  # Any: JSON of a foreign server
    if isinstance(value, list):
        return any(_holds_error(item) for item in value[:3])
    if not isinstance(value, Mapping):
        return False
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        first = choices[0]
        said = (
            isinstance(first, Mapping)
            and isinstance(first.get("message"), Mapping)
            and first["message"].get("content")
        )
        return isinstance(first, Mapping) and bool(first.get("error")) and not said
    base = value.get("base_resp")
    if isinstance(base, Mapping) and base.get("status_code"):
        return True
    named = any(value.get(key) for key in ("error", "errors", "error_msg", "error_code"))
    return named or value.get("object") == "error" or ("choices" not in value and bool(value.get("detail")))


def _inner_status(value: Any, words: str) -> int:
    """Return the status that an error inside a 200 stands for."""
    codes = re.findall(
        r"(?<![\d.])([45]\d\d)(?![\d.])", " ".join(_values(value, ("code", "status", "status_code")))
    )
    if codes:
        return int(codes[0])
    if _RATE.search(words):
        return 429
    if _OVERFLOW.search(words):
        return 400
    return 500


def _values(value: Any, names: tuple[str, ...], depth: int = 4) -> list[str]:
    """Return the scalars under any of `names`, outermost first."""
    if depth == 0:
        return []
    if isinstance(value, list):
        return [found for item in value[:5] for found in _values(item, names, depth - 1)]
    if not isinstance(value, Mapping):
        return []
    own = [str(value[name]) for name in names if isinstance(value.get(name), str | int | float)]
    inner = [
        found
        for key, item in list(value.items())[:50]
        if isinstance(item, Mapping | list)
        for found in _values(item, names, depth - 1)
    ]
    return own + inner


def _sentence(value: Any, words: str) -> str:
    """Return what a person should read of the body."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("detail"), list):  # a validation report
        items = [item for item in value["detail"] if isinstance(item, Mapping)]
        told = [f"{'.'.join(map(str, item.get('loc') or ()))}: {item.get('msg', '')}" for item in items[:3]]
        if told:
            return "; ".join(told)
    found = _values(value, ("message", "msg", "error_msg", "status_msg", "detail", "error", "raw"))
    return max(found[:4], key=len, default=words)


def _words(value: Any, depth: int = 6) -> str:
    """Return all text in `value`, keys of objects left out but for those of a validation report."""
    if depth == 0 or value is None:
        return ""
    if isinstance(value, Mapping):
        # A validation report repeats what was sent, with all that the user wrote.
        echo = "loc" in value and "msg" in value
        items = [
            item for key, item in list(value.items())[:50] if not (echo and key in ("input", "ctx", "url"))
        ]
        return " ".join(filter(None, (_words(item, depth - 1) for item in items)))
    if isinstance(value, list):
        return " ".join(filter(None, (_words(item, depth - 1) for item in value[:20])))
    return _ECHO.sub("", str(value)[:4000])


def _page_text(text: str) -> str:
    """Return the text of a page of HTML, or of anything else that is no JSON."""
    text = text[:20_000]
    if "<" not in text:
        return text
    title = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^<>]{0,2000}>", " ", text, flags=re.IGNORECASE | re.DOTALL)
    return unescape(title[1] if title else bare).strip()


def _retry_after(headers: Mapping[str, str], words: str) -> float | None:
    lowered = {key.lower(): value for key, value in headers.items()}
    if (milliseconds := _number(lowered.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    told = lowered.get("retry-after")
    if (seconds := _number(told)) is not None:
        return seconds
    if told:
        try:
            return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    found = _WAIT.search(words)
    if found is None:
        return None
    amount, unit = float(found[1] or found[3]), (found[2] or "s").lower()
    if unit.startswith("ms") or unit.startswith("milli"):
        return amount / 1000
    return amount * 60 if unit.startswith("m") else amount


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 1e6 else None
