"""External verifier: sees without a model that an agent makes no progress.

A model that always answers TRUE to its own Progress Check never asks for help. These detectors look at what
it did instead: the same action again, rounds that bring nothing unseen, the same thought again. Pure; a round
costs time in proportion to its own size, plus the copy of a memory of bounded size.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard
from urllib.parse import urlsplit

from agentinfer_lg.errors import CheckpointError

MAX_ACTIONS = 512
"""Distinct actions counted; the ones first made are forgotten first."""
MAX_SEEN = 4096
"""Fingerprints of evidence kept; the oldest are forgotten first."""
THOUGHTS_KEPT = 4
"""Last thoughts that a new one is compared with."""
SKETCH_SIZE = 48
"""Fingerprints kept of one thought: the smallest, so that the share in common estimates the similarity."""
SAME_THOUGHT = 0.8
"""Similarity (Jaccard) from which two thoughts count as the same."""
NEW_SHARE = 0.5
"""Share of a text's fingerprints that must be unseen for the text to be new evidence."""
_MAX_VALUE = 2000
_MAX_KEY = 200
_MIN_SENTENCE = 12
_MAX_SENTENCE = 200
_MIN_THOUGHT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierState:
    """What the verifier remembers of one agent."""

    actions: Mapping[str, int] = field(default_factory=dict)
    """How often each normalised action was made, in the order of the first time."""
    stalled_rounds: int = 0
    """Rounds in a row without new evidence."""
    seen: tuple[int, ...] = ()
    """32-bit fingerprints of the evidence seen, oldest first."""
    thoughts: tuple[tuple[int, ...], ...] = ()
    """Sketches of the last thoughts, oldest first."""

    def to_json(self) -> dict[str, object]:
        """Return the state as a JSON object."""
        return {
            "actions": dict(self.actions),
            "stalled_rounds": self.stalled_rounds,
            "seen": list(self.seen),
            "thoughts": [list(sketch) for sketch in self.thoughts],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> VerifierState:
        """Read what `to_json` wrote; keys that are not known are ignored.

        Raises:
            CheckpointError: A field is missing or malformed.
        """
        actions, stalled = data.get("actions"), data.get("stalled_rounds")
        thoughts = data.get("thoughts")
        if not isinstance(actions, Mapping) or not all(isinstance(key, str) for key in actions):
            raise _unusable("actions")
        if not _is_list(thoughts):
            raise _unusable("thoughts")
        return cls(
            actions=dict(zip(actions, _integers(list(actions.values()), "actions"), strict=True)),
            stalled_rounds=_integers([stalled], "stalled_rounds")[0],
            seen=_integers(data.get("seen"), "seen"),
            thoughts=tuple(_integers(sketch, "thoughts") for sketch in thoughts),
        )


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """One closed round: what the agent thought, did, and got."""

    actions: tuple[str, ...]
    """Actions made, as `normalise_action` writes them."""
    evidence: tuple[str, ...]
    """Texts that the tools returned; errors and empty results are left out."""
    thought: str
    errors: int
    """Tool calls that failed."""


def normalise_action(tool: str, arguments: Mapping[str, object]) -> str:
    """Return a key that is equal for calls that ask for the same thing.

    Case, spaces, punctuation, full-width forms, the order of words and of list items, tracking parameters and
    empty arguments make no difference; numbers and everything else do. Long keys end in a hash.

    Args:
        tool: Name of the tool.
        arguments: Arguments of the call, as JSON values.
    """
    values = ((str(name)[:64].strip().casefold(), _value_key(arguments[name], 0)) for name in arguments)
    parts = sorted(f"{name}={value}" for name, value in values if value)
    key = f"{tool[:64].strip().casefold()}({'; '.join(parts)})"
    return key if len(key) <= _MAX_KEY else f"{key[:_MAX_KEY]}…{_fingerprint(key):08x}"


def observe(
    state: VerifierState, round: RoundEvidence, *, repeat_limit: int, stall_limit: int
) -> tuple[VerifierState, str]:
    """Take in one round.

    Args:
        state: What is remembered of the rounds before.
        round: The round, closed: its actions have returned.
        repeat_limit: How often one action may be made.
        stall_limit: Rounds in a row without new evidence that count as no progress.

    Returns:
        The new state, and the objection with its causes; empty when there is none.
    """
    counts, repeat = _count_actions(state.actions, round.actions, repeat_limit)
    seen, fresh = _remember(state.seen, round.evidence)
    without_news = 0 if fresh else state.stalled_rounds + 1
    sketch = _sketch(round.thought)
    causes = [repeat]
    if without_news >= stall_limit:
        failed = f", {round.errors} failed tool calls in the last" if round.errors else ""
        rounds = "1 round" if without_news == 1 else f"{without_news} rounds"
        causes.append(f"no new evidence for {rounds}{failed}")
    if sketch and any(_similarity(sketch, other) >= SAME_THOUGHT for other in state.thoughts):
        causes.append("repeated thought: nearly the same as one of the last ones")
    thoughts = (*state.thoughts, sketch)[-THOUGHTS_KEPT:] if sketch else state.thoughts
    after = VerifierState(actions=counts, stalled_rounds=without_news, seen=seen, thoughts=thoughts)
    return after, "; ".join(cause for cause in causes if cause)


def objects_already(state: VerifierState, round: RoundEvidence, *, repeat_limit: int) -> bool:
    """Whether what was thought and done is an objection whatever comes back; for a round that is still open."""
    return bool(observe(state, round, repeat_limit=repeat_limit, stall_limit=sys.maxsize)[1])


def _count_actions(
    counts: Mapping[str, int], actions: Sequence[str], limit: int
) -> tuple[Mapping[str, int], str]:
    after = dict(counts)
    for action in actions:
        after[action] = after.get(action, 0) + 1
    for action in list(after)[: max(0, len(after) - MAX_ACTIONS)]:
        del after[action]
    worst = max(actions, key=lambda action: after.get(action, 0), default="")
    if after.get(worst, 0) <= limit:
        return after, ""
    return after, f"repeat: {worst[:120]} made {after[worst]} times"


def _remember(seen: tuple[int, ...], texts: Iterable[str]) -> tuple[tuple[int, ...], bool]:
    """Add the fingerprints of `texts`; also tell whether at least one of them is mostly unseen."""
    known = dict.fromkeys(seen)
    fresh = False
    for text in texts:
        prints = {_fingerprint(sentence) for sentence in _sentences(text)}
        unseen = prints - known.keys()
        fresh = fresh or len(unseen) > NEW_SHARE * len(prints)
        known.update(dict.fromkeys(sorted(unseen)))
    return tuple(known)[-MAX_SEEN:], fresh


_BREAK = re.compile(r"[\n\r。！？；]|[.!?;](?=\s)")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+[+#]*")
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of `text` as their words alone; a text of short lines is yielded as a whole."""
    long_enough = False
    for sentence in _BREAK.split(text):
        words = "".join(_TOKEN.findall(_fold(sentence)))
        if len(words) >= _MIN_SENTENCE:
            long_enough = True
            yield from (words[at : at + _MAX_SENTENCE] for at in range(0, len(words), _MAX_SENTENCE))
    whole = "" if long_enough else "".join(_TOKEN.findall(_fold(text)))
    if whole:
        yield whole


def _sketch(thought: str) -> tuple[int, ...]:
    """Return the smallest fingerprints of the thought's three-word runs; empty for a very short thought."""
    words = _TOKEN.findall(_CJK.sub(r" \1 ", _fold(thought)))
    if len(words) < _MIN_THOUGHT:
        return ()
    runs = {_fingerprint(" ".join(words[start : start + 3])) for start in range(len(words) - 2)}
    return tuple(sorted(runs)[:SKETCH_SIZE])


def _similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """Estimate the Jaccard similarity of two sets from their smallest members (exact for short thoughts)."""
    one, other = set(first), set(second)
    smallest = sorted(one | other)[:SKETCH_SIZE]
    return sum(member in one and member in other for member in smallest) / len(smallest)


def _value_key(value: object, depth: int) -> str:
    if isinstance(value, str):
        return _text_key(value[:_MAX_VALUE])
    if isinstance(value, Mapping) and depth < 4:
        items = sorted((str(name), _value_key(item, depth + 1)) for name, item in value.items())
        return ",".join(f"{name}:{item}" for name, item in items if item)
    if isinstance(value, list | tuple) and depth < 4:
        return " | ".join(sorted(filter(None, (_value_key(item, depth + 1) for item in value))))
    return "" if value is None else _text_key(str(value)[:_MAX_VALUE])


def _text_key(text: str) -> str:
    folded = _fold(text).strip()
    if folded.startswith(("http://", "https://")):
        return _url_key(folded)
    return " ".join(sorted(_TOKEN.findall(folded))) or folded


def _url_key(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # an unbalanced bracket where the host should be
        return url
    query = sorted(item for item in parts.query.split("&") if item and not item.startswith("utm_"))
    return f"{parts.netloc.removeprefix('www.')}{parts.path.rstrip('/')}{'?' * bool(query)}{'&'.join(query)}"


def _fold(text: str) -> str:
    # In pieces: NFKC sorts each run of combining marks, in time quadratic in the length of the run.
    pieces = (unicodedata.normalize("NFKC", text[at : at + 500]) for at in range(0, len(text), 500))
    return "".join(pieces).casefold()


def _fingerprint(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _integers(values: object, name: str) -> tuple[int, ...]:
    if not _is_list(values):
        raise _unusable(name)
    numbers = tuple(value for value in values if type(value) is int and value >= 0)
    if len(numbers) < len(values):
        raise _unusable(name)
    return numbers


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple)


def _unusable(name: str) -> CheckpointError:
    return CheckpointError(
        f"Saved verifier state is unusable: {name} is missing or malformed. Start the run anew."
    )
