"""Sessions that are still going on, each with one automaton over its text, kept across turns."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agentinfer_lg.serving.sam.index.automaton import ROOT, SuffixAutomaton
from agentinfer_lg.serving.sam.types import IntArray

_BLOCK: Final = 64
"""Prompts are found again by the hash of whole blocks of tokens; shorter ones are not found."""
_MAX_LOOKUPS: Final = 4096


@dataclass(slots=True, eq=False)
class LiveSession:
    """One session: its automaton, and the context as it was after the latest turn."""

    tenant: str
    name: str
    named: bool = True
    """Whether requests name it; otherwise it is found by its prompt."""
    automaton: SuffixAutomaton = field(default_factory=SuffixAutomaton)
    tokens: IntArray = field(default_factory=lambda: np.empty(0, np.int32))
    prompt_length: int = 0
    """Length of the latest prompt in `tokens`."""
    tip: int = ROOT
    outputs: list[IntArray] = field(default_factory=list)
    running: bool = False
    """A request of the session is being decoded, and owns the automaton."""
    used: float = field(default_factory=time.monotonic)
    saved: bool = True
    digest: bytes = b""

    def take_in(self, prompt: IntArray) -> int:
        """Add what is new in `prompt` to the automaton, and return its tip."""
        known = common_prefix(self.tokens, prompt)
        if known == len(self.tokens):
            tip = self.tip
        else:
            tip, _ = self.automaton.match(prompt[:known])
        return self.automaton.extend(prompt[known:], tip=tip)

    def keep(self, tokens: IntArray, *, prompt_length: int, tip: int) -> None:
        """Make `tokens` the context that the next turn extends."""
        self.tokens, self.prompt_length, self.tip = tokens, prompt_length, tip
        self.saved = False


class LiveSessions:
    """Finds the session of a request: by its id, or by its prompt, which begins with an earlier one."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], LiveSession] = {}
        self._by_prompt: dict[bytes, list[LiveSession]] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(tuple(self._by_name.values()))

    @property
    def tokens(self) -> int:
        """Tokens in all automata."""
        return sum(session.automaton.tokens for session in tuple(self._by_name.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all automata and contexts."""
        return sum(
            session.automaton.nbytes + session.tokens.nbytes for session in tuple(self._by_name.values())
        )

    def find(self, prompt: IntArray, *, tenant: str, name: str) -> LiveSession:
        """Return the session that `prompt` belongs to, a new one if there is none.

        A session whose automaton is in use by another request is passed over: parallel requests share nothing.
        """
        session = self._by_name.get((tenant, name)) if name else self._by_content(prompt, tenant=tenant)
        if session is None or session.running:
            named = bool(name) and session is None
            session = LiveSession(tenant, name if named else f"~{uuid.uuid4().hex}", named)
            self._by_name[tenant, session.name] = session
        session.used = time.monotonic()
        return session

    def register(self, session: LiveSession) -> None:
        """Make a session without an id known by its latest prompt."""
        if session.named:
            return
        self._unregister(session)
        prompt = session.tokens[: session.prompt_length]
        session.digest = next(iter(_block_digests(prompt, tenant=session.tenant)), b"")
        if session.digest:
            self._by_prompt.setdefault(session.digest, []).append(session)

    def remove(self, session: LiveSession) -> None:
        """Forget a session."""
        self._by_name.pop((session.tenant, session.name), None)
        self._unregister(session)

    def _unregister(self, session: LiveSession) -> None:
        others = self._by_prompt.get(session.digest)
        if others and session in others:
            others.remove(session)
            if not others:
                del self._by_prompt[session.digest]
        session.digest = b""

    def _by_content(self, prompt: IntArray, *, tenant: str) -> LiveSession | None:
        for digest in _block_digests(prompt, tenant=tenant):
            for session in reversed(self._by_prompt.get(digest, [])[-_MAX_LOOKUPS:]):
                length = session.prompt_length
                if (
                    not session.running
                    and length <= len(prompt)
                    and common_prefix(session.tokens, prompt) >= length
                ):
                    return session
        return None


def common_prefix(one: IntArray, other: IntArray) -> int:
    """Return how many tokens both begin with."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _block_digests(prompt: IntArray, *, tenant: str) -> list[bytes]:
    """Return the hash of each beginning of whole blocks, the longest first."""
    running = hashlib.blake2b(tenant.encode(), digest_size=16)
    digests = []
    for begin in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
        running.update(prompt[begin : begin + _BLOCK].tobytes())
        digests.append(running.copy().digest())
    return digests[::-1]
