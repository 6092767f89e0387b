"""What it costs to find similar sessions and to draft from them, as history grows: retrieval, attachment, disk.

The sessions are synthetic, so that there can be 100,000 of them. Like sessions of one agent they consist of a prompt that
all users of an application share, chunks that many sessions share (tool results, pages), and tokens of their own; four
sessions each work on the same task. A query is the first part of a fifth session on a task. Their ids repeat less than
those of text, so they take more room on the disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session, in_half, load_sessions
from agentinfer_lg.serving.sam.index.automaton import SuffixAutomaton
from agentinfer_lg.serving.sam.index.memory import SqliteMemory
from agentinfer_lg.serving.sam.index.min_hash_index import MinHashIndex
from agentinfer_lg.serving.sam.types import IntArray

RetrievalRow = dict[str, int | float]
"""One size of the history; times are in the unit that the key names, `_p50` and `_p99` are percentiles."""

RecallRow = dict[str, str | int | float]
"""Recall on one recorded set."""

_TRIALS: Final = 4
"""Sessions per task."""
_VOCABULARY: Final = 150_000
_CHUNK: Final = 45
_MEAN_FACTOR: Final = 1.08
"""Mean of two to the power of -1 to 1."""
_POOL: Final = 20_000
"""Chunks that sessions share."""
_APPLICATIONS: Final = 20
_KNOWN: Final = 0.6
"""Share of a session that is known when it looks for similar ones."""
_NEIGHBOURS: Final = 8
_FOLLOWED: Final = 4
"""Similar sessions that a request drafts from."""
_REPLAYED: Final = 256
"""Tokens that find the place in an automaton when a request begins to follow it."""
_COLD_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class SyntheticSessions:
    """Sessions that can be made one by one, in any order.

    Args:
        seed: Decides everything.
        tokens: Mean length of a session; lengths vary by a factor of two either way.
    """

    seed: int = 0
    tokens: int = 1_000

    def __post_init__(self) -> None:
        if self.tokens < 100:
            msg = (
                f"Sessions of {self.tokens} tokens are too short to share anything; at least 100 are needed."
            )
            raise UserInputError(msg)

    def session(self, number: int) -> IntArray:
        """The session with this number; numbers from `4 * task` on work on `task`."""
        return self._attempt(number // _TRIALS, 1 + number % _TRIALS)

    def query(self, task: int) -> IntArray:
        """The first 60% of another session on `task`."""
        tokens = self._attempt(task, 0)
        return tokens[: max(1, int(_KNOWN * len(tokens)))]

    def _attempt(self, task: int, trial: int) -> IntArray:
        plan = np.random.default_rng((self.seed, 1, task))
        length = int(
            0.875 * self.tokens * 2.0 ** plan.uniform(-1.0, 1.0) / _MEAN_FACTOR
        )  # the rest: the prompt
        chunks = self._draw(plan, max(1, length // _CHUNK))
        own = np.random.default_rng((self.seed, 2, task, trial))
        kept = chunks[own.random(len(chunks)) < 0.75]
        other = self._draw(own, max(1, len(chunks) // 6))
        noise = _zipf(own, max(1, length // 12))
        parts = [
            self._prompts[task % _APPLICATIONS],
            self._pool[kept].ravel(),
            self._pool[other].ravel(),
            noise,
        ]
        tokens: IntArray = np.concatenate(parts).astype(np.int32)
        return tokens

    def _draw(self, random: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """Chunks, the popular ones more often."""
        return (_POOL * random.random(count) ** 2).astype(np.int64)

    @cached_property
    def _pool(self) -> IntArray:
        return _zipf(np.random.default_rng((self.seed, 3)), _POOL * _CHUNK).reshape(_POOL, _CHUNK)

    @cached_property
    def _prompts(self) -> IntArray:
        random = np.random.default_rng((self.seed, 4))
        return _zipf(random, _APPLICATIONS * (self.tokens // 8)).reshape(_APPLICATIONS, -1)


def _zipf(random: np.random.Generator, count: int) -> IntArray:
    """Token ids whose frequencies fall with their rank, as those of text do."""
    return (_VOCABULARY ** random.random(count)).astype(np.int32) - 1


@dataclass(slots=True)
class _Times:
    """Seconds of repeated work, each time timed by `with`."""

    seconds: list[float] = field(default_factory=list)
    _began: float = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds.append(time.perf_counter() - self._began)

    def percentiles(self, name: str, *, unit: float) -> RetrievalRow:
        p50, p99 = np.percentile(self.seconds, (50, 99)) if self.seconds else (0.0, 0.0)
        return {f"{name}_p50": float(p50) / unit, f"{name}_p99": float(p99) / unit}


def measure(
    sizes: Sequence[int],
    *,
    sessions: SyntheticSessions | None = None,
    queries: int = 200,
    disk: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Iterator[RetrievalRow]:
    """Yield one row per size, with one history that grows from each size to the next.

    Args:
        sizes: Numbers of sessions.
        sessions: Where they come from.
        queries: Queries, and attachments, per size.
        disk: Also write all sessions to a file of session memory, and load them; in a temporary folder.
        on_progress: Called with what is being done, how much of it is done, and how much there is.

    Raises:
        UserInputError: A size is smaller than a task, or there are no queries.
    """
    if not sizes or min(sizes) < _TRIALS or queries < 1:
        msg = f"Name at least one number of sessions, none below {_TRIALS}, and at least one query."
        raise UserInputError(msg)
    source = sessions or SyntheticSessions()
    index = MinHashIndex()
    _warm_up()
    with tempfile.TemporaryDirectory(prefix="agentinfer-") as folder:
        store = _Store(Path(folder)) if disk else None
        size = 0
        for target in sorted(set(sizes)):
            grown = _grow(index, store, source, range(size, target), on_progress)
            size = target
            row: RetrievalRow = {"sessions": size, "tokens_per_session": source.tokens, **grown}
            row["bytes_per_session"] = index.bytes / size
            found = _query(index, source, size, queries, row, on_progress)
            _attach(source, found, row, on_progress)
            if store is not None:
                on_progress("loading from disk", 0, 1)
                row |= store.load()
            yield row


def recall(name: str, *, data: Path | None = None, tokenizer: Path | None = None) -> RecallRow:
    """How many of the other sessions on its task a session of a recorded set finds, when 60% of it are known.

    All sessions are in the index. Queries are the sessions of the half on which figures are reported, if another session
    has the same task; the session itself does not count as found.

    Args:
        name: A set, or a folder of chats (see `load_sessions`).
        data: Folder of recorded data; default: the environment variable AGENTINFER_DATA.
        tokenizer: A `tokenizer.json` or a model folder; default: the demo model's.

    Raises:
        UserInputError: No such set or tokenizer, or no task with two sessions.
    """
    sessions = load_sessions(name, data=data, tokenizer=tokenizer)
    texts = [
        np.concatenate([part for turn in one.turns for part in (turn.prompt, turn.output)])
        for one in sessions
    ]
    alike = {key: _same_task(sessions, key) for key, one in enumerate(sessions) if in_half(one, "report")}
    queries = {key: others for key, others in alike.items() if others}
    if not queries:
        msg = f"No two sessions of {name} are on the same task, so there is nothing to find."
        raise UserInputError(msg)
    row: RecallRow = {"set": name, "sessions": len(sessions), "queries": len(queries)}
    for figure, skip_common in (("recall_at_8", True), ("recall_at_8_common_kept", False)):
        index = MinHashIndex(skip_common=skip_common)
        for key, text in enumerate(texts):
            index.add(key, text)
        row[figure] = float(
            np.mean([_share_found(index, texts[key], key, others) for key, others in queries.items()])
        )
    return row


def _same_task(sessions: Sequence[Session], key: int) -> set[int]:
    return {other for other, one in enumerate(sessions) if one.group == sessions[key].group and other != key}


def _share_found(index: MinHashIndex, text: IntArray, key: int, others: set[int]) -> float:
    known = text[: max(1, int(_KNOWN * len(text)))]
    best = [similar.key for similar in index.similar(known, k=_NEIGHBOURS + 1) if similar.key != key]
    return len(others.intersection(best[:_NEIGHBOURS])) / min(_NEIGHBOURS, len(others))


def _grow(
    index: MinHashIndex,
    store: _Store | None,
    source: SyntheticSessions,
    numbers: range,
    on_progress: Callable[[str, int, int], None],
) -> RetrievalRow:
    adds, puts = _Times(), _Times()
    for done, number in enumerate(numbers):
        tokens = source.session(number)
        with adds:
            index.add(number, tokens)
        if store is not None:
            with puts:
                store.put(number, tokens)
        if done % 100 == 0:
            on_progress("adding sessions", done, len(numbers))
    row = adds.percentiles("add_us", unit=1e-6)
    return row | puts.percentiles("put_ms", unit=1e-3) if store is not None else row


def _query(
    index: MinHashIndex,
    source: SyntheticSessions,
    size: int,
    queries: int,
    row: RetrievalRow,
    on_progress: Callable[[str, int, int], None],
) -> list[tuple[IntArray, list[int]]]:
    """Time queries into `row`; return each with the keys of the sessions to follow."""
    random = np.random.default_rng((source.seed, 5, size))
    times, recalled, found = _Times(), 0, []
    for done in range(queries):
        task = int(random.integers(0, size // _TRIALS))
        tokens = source.query(task)
        with times:
            similar = index.similar(tokens, k=_NEIGHBOURS)
        best = [one.key for one in similar]
        recalled += sum(key // _TRIALS == task for key in best)
        found.append((tokens, best[:_FOLLOWED]))
        on_progress("looking up", done, queries)
    row |= times.percentiles("query_ms", unit=1e-3)
    row["recall_at_8"] = recalled / (_TRIALS * queries)
    return found


def _attach(
    source: SyntheticSessions,
    found: Sequence[tuple[IntArray, list[int]]],
    row: RetrievalRow,
    on_progress: Callable[[str, int, int], None],
) -> None:
    """Time building the automata of found sessions, and finding the place of a request in four of them."""
    builds, attachments, cold = _Times(), _Times(), np.zeros(_COLD_BYTES // 8)
    for done, (tokens, keys) in enumerate(found):
        texts = [source.session(key) for key in keys]
        with builds:
            followed = [_automaton(text) for text in texts]
        cold += 1.0  # automata of earlier turns are not in the processor's caches any more
        recent = tokens[-_REPLAYED:]
        with attachments:
            for automaton in followed:
                automaton.match(recent)
        on_progress("attaching", done, len(found))
    row |= builds.percentiles("build_ms", unit=1e-3)
    row |= attachments.percentiles("attach_ms", unit=1e-3)


def _automaton(tokens: IntArray) -> SuffixAutomaton:
    automaton = SuffixAutomaton(tokens=len(tokens))
    automaton.extend(tokens)
    return automaton


def _warm_up() -> None:
    """Compile, or load, everything that is timed."""
    tokens = np.arange(100, dtype=np.int32)
    index = MinHashIndex()
    index.add(0, tokens)
    index.similar(tokens, k=1)
    _automaton(tokens).match(tokens)


class _Store:
    """A file of session memory, without limits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = self._open()

    def put(self, number: int, tokens: IntArray) -> None:
        self._memory.put(tenant="", session=str(number), tokens=tokens)

    def load(self) -> RetrievalRow:
        """Close the file, open it again and read all sessions, as a restarted engine does."""
        self._memory.close()
        began = time.perf_counter()
        self._memory = self._open()
        count = sum(len(stored.tokens) for stored in self._memory.sessions(max_tokens=2**62))
        seconds = time.perf_counter() - began
        return {
            "load_seconds": seconds,
            "load_us_per_token": 1e6 * seconds / count,
            "disk_bytes_per_token": self._memory.stats().bytes / count,
        }

    def _open(self) -> SqliteMemory:
        return SqliteMemory(self._folder, fingerprint="synthetic", max_tokens=2**62)
