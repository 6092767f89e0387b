"""Automata over what went before in other sessions: two generations each of all text, and of what the model wrote.

An automaton cannot forget, so text is kept in generations: the younger one takes all new text; when it is full, the
older one is dropped and the younger takes its place. Outputs have automata of their own because they are of one kind,
while prompts and tool results are not: after the same words a model goes on otherwise than a web page does.

One thread writes. Readers hold the lock for the length of one batch; the writer holds it for `_CHUNK` tokens at a time and
lets a waiting reader go first, so a reader never waits for more than some tens of microseconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

from agentinfer_lg.serving.sam.index.automaton import ROOT, SuffixAutomaton
from agentinfer_lg.serving.sam.types import IntArray

_CHUNK: Final = 64


class StepLock:
    """Lock between the engine's steps, which must not wait, and one background thread, which can."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = False

    def __enter__(self) -> None:
        """Hold the lock for a step; the background thread stands back."""
        self._waiting = True
        self._lock.acquire()
        self._waiting = False

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @contextlib.contextmanager
    def background(self) -> Iterator[None]:
        """Hold the lock for a short piece of background work."""
        while self._waiting:
            time.sleep(0.00002)
        with self._lock:
            yield


class Generations:
    """Two automata over texts of one kind."""

    def __init__(self, *, tokens: int, lock: StepLock) -> None:
        """Start empty.

        Args:
            tokens: Length of one generation.
            lock: Held while the automata change.
        """
        self._limit = tokens
        self._lock = lock
        self.young = SuffixAutomaton()
        self.old: SuffixAutomaton | None = None

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self.young.tokens + (self.old.tokens if self.old else 0)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self.young.nbytes + (self.old.nbytes if self.old else 0)

    def add(self, text: IntArray) -> None:
        """Add one text; of one that is longer than a generation, its end."""
        text = text[-self._limit :]
        if self.young.tokens and self.young.tokens + len(text) > self._limit:
            self.old, self.young = self.young, SuffixAutomaton()
        tip = ROOT
        for begin in range(0, len(text), _CHUNK):
            chunk = text[begin : begin + _CHUNK]
            self.young.reserve(len(chunk), guard=self._lock.background)
            with self._lock.background():
                tip = self.young.extend(chunk, tip=tip)

    def drop_oldest(self) -> None:
        """Forget the older generation, or, if there is none, everything."""
        if self.old is not None:
            self.old = None
        else:
            self.young = SuffixAutomaton()


class History:
    """What one tenant's sessions left behind."""

    def __init__(self, *, tokens: int, lock: StepLock) -> None:
        """Start empty.

        Args:
            tokens: Most tokens to hold; outputs are part of the text, and held once more, in a quarter of the room.
            lock: Held while the automata change.
        """
        self.text = Generations(tokens=max(tokens * 3 // 8, 1), lock=lock)
        self.outputs = Generations(tokens=max(tokens // 8, 1), lock=lock)
        self.used = time.monotonic()

    @property
    def tokens(self) -> int:
        """Tokens held in all automata."""
        return self.text.tokens + self.outputs.tokens

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self.text.nbytes + self.outputs.nbytes

    def drop_oldest(self) -> None:
        """Forget the older half."""
        self.text.drop_oldest()
        self.outputs.drop_oldest()
