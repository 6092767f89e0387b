"""Drafters under one Protocol, so that a replay can compare them.

Those of others are used exactly as vLLM uses them: a request per turn, the whole prompt given again, the tokens
that the engine emitted passed in after each step.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import Session
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.types import IntArray

if TYPE_CHECKING:
    from agentinfer_lg.serving.sam.draft.options import DrafterOptions


@dataclass(slots=True)
class Costs:
    """What a drafter has spent outside its steps, and what it holds."""

    build_seconds: float = 0.0
    """Time to take in prompts and finished sessions."""
    build_tokens: int = 0
    """Tokens taken in during that time."""
    held_bytes: int = 0
    held_tokens: int = 0
    """Tokens that `held_bytes` are for."""


class ReplayDrafter(Protocol):
    """What a replay asks of a drafter.

    Calls per session: `begin_session`; per turn `begin_turn`, then per step `accept` and `propose`, a last `accept`,
    `end_turn`; `end_session`.
    """

    def begin_session(self, session: Session) -> None:
        """A session begins. Only an oracle may look at its outputs."""

    def begin_turn(self, prompt: IntArray) -> None:
        """A request begins; `prompt` is the whole prompt, and stays as it is until the turn ends."""

    def accept(self, tokens: list[int]) -> None:
        """The engine emitted these tokens (the first time: the one that comes from the prefill)."""

    def propose(self, k: int) -> list[int]:
        """Draft at most `k` tokens that follow what was accepted."""

    def end_turn(self) -> None:
        """The request is over."""

    def end_session(self) -> None:
        """Nothing more comes in this session."""

    def costs(self) -> Costs:
        """What was spent and is held so far; asked for once, during the last turn of a replay."""


class _Idle:
    """Base of the drafters: nothing to do, nothing drafted."""

    def __init__(self) -> None:
        self._costs = Costs()

    def begin_session(self, session: Session) -> None:
        """See `ReplayDrafter`."""

    def begin_turn(self, prompt: IntArray) -> None:
        """See `ReplayDrafter`."""

    def accept(self, tokens: list[int]) -> None:
        """See `ReplayDrafter`."""

    def propose(self, k: int) -> list[int]:
        """See `ReplayDrafter`."""
        return []

    def end_turn(self) -> None:
        """See `ReplayDrafter`."""

    def end_session(self) -> None:
        """See `ReplayDrafter`."""

    def costs(self) -> Costs:
        """See `ReplayDrafter`."""
        return self._costs


class _Context:
    """Tokens of the running request, in one buffer as an engine keeps them."""

    def __init__(self) -> None:
        self._buffer: IntArray = np.empty(1 << 16, dtype=np.int32)
        self._length = 0

    def reset(self, prompt: IntArray) -> None:
        self._length = 0
        self.extend(prompt)

    def extend(self, tokens: Sequence[int] | IntArray) -> None:
        end = self._length + len(tokens)
        if end > len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty(end, dtype=np.int32)])
        self._buffer[self._length : end] = tokens
        self._length = end

    def last(self, count: int | None = None) -> IntArray:
        start = 0 if count is None else max(0, self._length - count)
        return self._buffer[start : self._length]


class NgramDrafter(_Idle):
    """Prompt lookup: what followed the earliest occurrence of the longest n-gram that the context ends with.

    Args:
        shortest: Tokens of the shortest n-gram to look for.
        longest: Tokens of the longest one.
    """

    def __init__(self, *, shortest: int, longest: int) -> None:
        super().__init__()
        from agentinfer_lg.evals.sam.replay.ngram import prompt_lookup

        self._lookup = prompt_lookup
        self._sizes = (shortest, longest)
        self._context = _Context()
        self._lookup(np.zeros(8, dtype=np.int32), shortest, longest, 1)  # compiles

    def begin_turn(self, prompt: IntArray) -> None:
        """See `ReplayDrafter`."""
        self._context.reset(prompt)

    def accept(self, tokens: list[int]) -> None:
        """See `ReplayDrafter`."""
        self._context.extend(tokens)

    def propose(self, k: int) -> list[int]:
        """See `ReplayDrafter`."""
        found: list[int] = self._lookup(self._context.last(), *self._sizes, k).tolist()
        return found


class ArcticDrafter(_Idle):
    """Suffix decoding of the package `arctic-inference`, used as vLLM's `SuffixDecodingProposer` does.

    Args:
        depth: vLLM's `suffix_decoding_max_tree_depth`.
        factor: vLLM's `suffix_decoding_max_spec_factor`.
        least: vLLM's `suffix_decoding_min_token_prob`.
        requests: vLLM's `suffix_decoding_max_cached_requests`.
    """

    def __init__(
        self, *, depth: int = 24, factor: float = 1.0, least: float = 0.1, requests: int = 10_000
    ) -> None:
        super().__init__()
        from arctic_inference.suffix_decoding import SuffixDecodingCache

        self._cache = SuffixDecodingCache(max_tree_depth=depth, max_cached_requests=requests)
        self._depth, self._factor, self._least = depth, factor, least
        self._context = _Context()
        self._request = self._prompt = self._responses = 0

    def begin_turn(self, prompt: IntArray) -> None:
        """See `ReplayDrafter`."""
        self._request += 1
        self._prompt = len(prompt)
        self._context.reset(prompt)
        start = time.perf_counter()
        self._cache.start_request(self._request, self._context.last())
        self._costs.build_seconds += time.perf_counter() - start
        self._costs.build_tokens += len(prompt)

    def accept(self, tokens: list[int]) -> None:
        """See `ReplayDrafter`."""
        self._context.extend(tokens)
        self._cache.add_active_response(self._request, tokens)

    def propose(self, k: int) -> list[int]:
        """See `ReplayDrafter`."""
        draft: list[int] = self._cache.speculate(
            self._request,
            self._context.last(self._depth),
            max_spec_tokens=k,
            max_spec_factor=self._factor,
            min_token_prob=self._least,
        ).token_ids
        return draft

    def end_turn(self) -> None:
        """See `ReplayDrafter`."""
        self._cache.stop_request(self._request)
        self._responses += len(self._context.last()) - self._prompt

    def costs(self) -> Costs:
        """See `ReplayDrafter`."""
        trees = (self._cache._global_tree, self._cache._local_trees[self._request])
        self._costs.held_bytes = sum(tree.estimate_memory() for tree in trees)
        running = len(self._context.last())
        self._costs.held_tokens = self._responses + (running - self._prompt) + running
        return self._costs


class SamDrafter(_Idle):
    """AgentSAM, building inline.

    Args:
        options: Of the drafter.
        across_turns: Whether the requests of a session share what is known of it; else each is a session of its own.
    """

    def __init__(self, options: DrafterOptions, *, across_turns: bool = True) -> None:
        super().__init__()
        from agentinfer_lg.serving.sam.draft.drafter import Drafter

        self._drafter = Drafter(options, background=False)
        self._across_turns = across_turns
        self._similar_too = options.top_k > 0
        self._sessions = self._turn = self._length = self._finished = 0
        self._pending: list[int] = []

    def begin_session(self, session: Session) -> None:
        """See `ReplayDrafter`."""
        self._sessions += 1
        self._turn = 0

    def begin_turn(self, prompt: IntArray) -> None:
        """See `ReplayDrafter`."""
        self._turn += 1
        name = f"session-{self._sessions}" if self._across_turns else self._request
        hints = SessionHints(session_id=name, turn=self._turn - 1, final=not self._across_turns)
        self._drafter.start(self._request, prompt, hints=hints)
        self._length = len(prompt)

    def accept(self, tokens: list[int]) -> None:
        """See `ReplayDrafter`."""
        self._pending = tokens
        self._length += len(tokens)

    def propose(self, k: int) -> list[int]:
        """See `ReplayDrafter`."""
        pending, self._pending = self._pending, []
        drafts: list[list[int]] = self._drafter.step([self._request], [pending], limits=[k])
        return drafts[0]

    def end_turn(self) -> None:
        """See `ReplayDrafter`."""
        self._drafter.step([self._request], [self._pending], limits=[0])
        self._drafter.finish(self._request)

    def end_session(self) -> None:
        """See `ReplayDrafter`."""
        self._drafter.end_idle()
        self._finished += self._length

    def costs(self) -> Costs:
        """See `ReplayDrafter`."""
        stats = self._drafter.stats()
        similar = self._finished if self._similar_too else 0  # their automata are held as well
        return Costs(
            build_seconds=stats.build_seconds,
            build_tokens=stats.built_tokens,
            held_bytes=stats.bytes,
            held_tokens=stats.live_tokens + stats.history_tokens + similar,
        )

    @property
    def _request(self) -> str:
        return f"session-{self._sessions}/{self._turn}"


Factory = Callable[[int, float], ReplayDrafter]
"""Makes a drafter for at most so many drafted tokens, and this marginal cost of verifying one."""


def _none(k: int, cost: float) -> ReplayDrafter:
    return _Idle()


def _ngram(shortest: int, longest: int) -> Factory:
    return lambda k, cost: NgramDrafter(shortest=shortest, longest=longest)


def _arctic(**options: Any) -> Factory:
    return lambda k, cost: ArcticDrafter(**options)


_GRID = "arctic@"
"""Begins the name of suffix decoding at given settings: `arctic@FACTOR/DEPTH/LEAST`."""
GRID = "arctic-grid"
"""Stands for suffix decoding at every setting that it is tuned over."""


def arctic_grid() -> tuple[str, ...]:
    """Return the names of suffix decoding at every setting that the rival is tuned over."""
    settings = itertools.product(
        (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0), (24, 64), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    )
    return tuple(f"{_GRID}{factor:g}/{depth}/{least:g}" for factor, depth, least in settings)


def _arctic_at(name: str) -> Factory:
    try:
        factor, depth, least = name.removeprefix(_GRID).split("/")
        return _arctic(factor=float(factor), depth=int(depth), least=float(least))
    except ValueError:
        msg = f"{name} is not of the form {_GRID}FACTOR/DEPTH/LEAST, such as {_GRID}2/64/0.2."
        raise UserInputError(msg) from None


TUNED: Mapping[float, str] = {
    0.01: "arctic@3/64/0.1",
    0.03: "arctic@2/64/0.3",
    0.1: "arctic@1/24/0.4",
    0.3: "arctic@0.5/24/0.5",
}
"""Suffix decoding at its best on the half of the sessions that is for tuning, by the marginal cost of verification.

Of `arctic_grid` that setting whose speed-up at this cost, averaged over the four sets at 16 drafted tokens, is highest.
"""


def _arctic_tuned(k: int, cost: float) -> ReplayDrafter:
    """Suffix decoding as tuned for the nearest cost; ours adapts to the cost by itself."""
    nearest = min(TUNED, key=lambda known: abs(math.log(known / cost)))
    return _arctic_at(TUNED[nearest])(k, cost)


def _sam(*, across_turns: bool = True, **options: Any) -> Factory:
    def make(k: int, cost: float) -> ReplayDrafter:
        from agentinfer_lg.serving.sam.draft.options import DrafterOptions

        chosen = DrafterOptions(max_draft=k, marginal_cost=cost, **options)
        return SamDrafter(chosen, across_turns=across_turns)

    return make


def _oracle(*, any_occurrence: bool) -> Factory:
    def make(k: int, cost: float) -> ReplayDrafter:
        from agentinfer_lg.evals.sam.replay.oracle import OracleDrafter

        return OracleDrafter(any_occurrence=any_occurrence)

    return make


DRAFTERS: Mapping[str, tuple[str, Factory]] = {
    "none": ("", _none),
    "ngram": ("numba", _ngram(2, 5)),
    "ngram-5": ("numba", _ngram(5, 5)),
    "arctic": ("arctic_inference", _arctic()),
    "arctic-tuned": ("arctic_inference", _arctic_tuned),
    "request-sam": ("numba", _sam(history=False, across_turns=False)),
    "paper": ("numba", _sam(mode="paper", top_k=4)),
    "ours": ("numba", _sam()),
    "ours-own": ("numba", _sam(history=False)),
    "ours-history-only": ("numba", _sam(own=False)),
    "ours-topk": ("numba", _sam(top_k=4)),
    "oracle": ("numba", _oracle(any_occurrence=False)),
    "oracle-any": ("numba", _oracle(any_occurrence=True)),
}
"""Names of the drafters: the package that each needs, and how it is made."""

_EXTRAS = {"numba": "sam", "arctic_inference": "arctic"}


def missing_package(name: str) -> str:
    """Why a drafter cannot run here, as a sentence; empty if it can.

    Raises:
        UserInputError: There is no drafter of this name.
    """
    if name not in DRAFTERS and not name.startswith(_GRID):
        msg = f"There is no drafter {name!r}. Drafters are {', '.join(DRAFTERS)}."
        raise UserInputError(msg)
    package, _ = _entry(name)
    if not package or importlib.util.find_spec(package) is not None:
        return ""
    return f"{name} is left out: it needs pip install 'agentinfer-lg[{_EXTRAS[package]}]'."


def make_drafter(name: str, *, k: int, marginal_cost: float = 0.03) -> ReplayDrafter:
    """Make a drafter.

    Args:
        name: One of `DRAFTERS`.
        k: Most drafted tokens per step.
        marginal_cost: Cost of verifying one more token, as a share of a step; only ours uses it.

    Raises:
        UserInputError: There is no such drafter, or its package is missing.
    """
    if sentence := missing_package(name):
        raise UserInputError(sentence)
    return _entry(name)[1](k, marginal_cost)


def _entry(name: str) -> tuple[str, Factory]:
    """Return the package that a drafter needs, and what makes it."""
    return ("arctic_inference", _arctic_at(name)) if name.startswith(_GRID) else DRAFTERS[name]
