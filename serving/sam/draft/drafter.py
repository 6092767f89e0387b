"""AgentSAM's drafter: which sessions there are, what each request may draft from, and one step for a whole batch.

    start(request, prompt)      its automaton is brought up to date in the background; until then it gets no drafts
    step(requests, verified)    tokens that the engine emitted in, drafts out
    finish(request)             its output joins the outputs of all sessions; the session waits for its next turn

A session that is final, idle or in the way joins the history, goes to memory, and can be found as a similar one. Nothing
here knows vLLM. Tokens of one tenant are never drafted from another's text.

Source: the paper's AgentSAM (Algorithm 4), whose merge and fixed thresholds are replaced by a learned acceptance model and
a measured price of verification; `mode="paper"` drafts the paper's way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.draft.acceptance import KINDS, AcceptanceModel
from agentinfer_lg.serving.sam.draft.cost import DraftRate, VerificationCost
from agentinfer_lg.serving.sam.draft.options import DrafterOptions
from agentinfer_lg.serving.sam.draft.request import DraftedRequest
from agentinfer_lg.serving.sam.draft.session_ends import SessionEnds
from agentinfer_lg.serving.sam.draft.stats import DrafterStats, SourceStats
from agentinfer_lg.serving.sam.draft.step import HISTORY, OUTPUTS, OWN, SIMILAR, Rows, step
from agentinfer_lg.serving.sam.index.automaton import SuffixAutomaton
from agentinfer_lg.serving.sam.index.builder import Builder
from agentinfer_lg.serving.sam.index.histories import Histories
from agentinfer_lg.serving.sam.index.history import StepLock
from agentinfer_lg.serving.sam.index.live import LiveSessions
from agentinfer_lg.serving.sam.index.memory import SessionMemory
from agentinfer_lg.serving.sam.index.min_hash_index import MinHashIndex
from agentinfer_lg.serving.sam.index.session_index import SessionIndex
from agentinfer_lg.serving.sam.index.similar import SimilarSessions
from agentinfer_lg.serving.sam.types import IntArray, Source

_MATCH_TOKENS: Final = 256
"""Longest match looked for at the start of a request."""
_QUERY_TOKENS: Final = 4096
_SOURCE_NAMES: Final[tuple[Source, ...]] = ("own", "history", "outputs", "similar")


class Drafter:
    """Drafts for all requests of one engine. `start`, `step` and `finish` are called from one thread."""

    def __init__(
        self,
        options: DrafterOptions | None = None,
        *,
        memory: SessionMemory | None = None,
        make_index: Callable[[], SessionIndex] = MinHashIndex,
        background: bool = True,
    ) -> None:
        """Start, and read the memory in the background.

        Args:
            options: What to draft from.
            memory: Where finished sessions are kept; None: nowhere.
            make_index: Makes the index that finds the similar sessions of one tenant.
            background: With False everything is built at once, by the calls themselves.
        """
        self.options = options or DrafterOptions()
        self.make_index = make_index
        """Makes the index of similar sessions for a tenant."""
        self._lock = StepLock()
        self._rows = Rows(max_draft=self.options.max_draft)
        self._free = list(range(len(self._rows)))[::-1]
        self._model = AcceptanceModel()
        self._cost = VerificationCost(self.options.marginal_cost)
        self._rate = DraftRate()
        self._requests: dict[str, DraftedRequest] = {}
        self._live = LiveSessions()
        self._histories = Histories(tokens=self.options.history_tokens, lock=self._lock)
        self._similar = SimilarSessions(
            make_index, sessions=self.options.similar_sessions, tokens=self.options.history_tokens
        )
        self._counts = np.zeros((KINDS, 2), np.int64)
        self._passes = self._emitted = self._drafts = self._unready = 0
        self._build_seconds, self._built_tokens = 0.0, 0
        # Each is written by one thread only: what waits is the difference.
        self._queued_tokens = self._dequeued_tokens = 0
        self._ends = SessionEnds(
            self.options,
            live=self._live,
            histories=self._histories,
            similar=self._similar,
            memory=memory,
            submit_slow=lambda work: self._builder.submit_slow(work),
        )
        self._builder = Builder(background=background, idle=self._ends.tidy)
        if memory is not None and self.options.uses_history:
            self._builder.submit_slow(self._ends.remember(memory))

    def start(self, request: str, prompt: IntArray, *, hints: SessionHints | None = None) -> None:
        """Begin a request; its automaton is brought up to date in the background.

        Args:
            request: Its id; one that is known already begins anew.
            prompt: Token ids of the whole prompt; copied.
            hints: Session and tenant it belongs to. Without a session id, the session is found by the prompt.
        """
        if request in self._requests:
            self.finish(request)
        begun = DraftedRequest(request, np.array(prompt, np.int32), hints or SessionHints())
        self._requests[request] = begun
        self._queued_tokens += len(begun.prompt)
        self._builder.submit(lambda: self._build(begun))

    def step(
        self,
        requests: Sequence[str],
        verified: Sequence[Sequence[int]],
        *,
        limits: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Take in what the engine emitted since the last step, and draft.

        Args:
            requests: Ids of the batch.
            verified: Tokens emitted for each; empty: not decoding yet, gets no draft.
            limits: Most tokens to draft for each; default `max_draft`.

        Returns:
            One draft for each request, perhaps empty; empty for unknown requests.
        """
        drafts: list[list[int]] = [[] for _ in requests]
        full: list[DraftedRequest] = []
        drafted = 0
        with self._lock:
            active = self._take_in(requests, verified)
            if not active:
                return drafts
            most, threshold = self._price(requests)
            chosen: list[tuple[int, int, int]] = []
            tokens: list[int] = []
            for index, request in active:
                tokens.extend(verified[index])
                limit = most if limits is None else max(0, min(most, limits[index]))
                chosen.append((request.row, len(tokens), limit))
            results = step(
                self._rows,
                self._model,
                chosen=chosen,
                tokens=tokens,
                threshold=threshold,
                counts=self._counts,
                merged=self.options.mode == "paper",
            )
            for (index, request), (length, taken) in zip(active, results, strict=True):
                if length:
                    drafts[index] = self._rows.draft(request.row, length)
                    drafted += length
                    self._drafts += 1
                if taken < len(verified[index]):
                    full.append(request)
                    self._set_back(request, verified[index][taken:])
        for request in full:
            self._builder.submit(partial(self._resume, request))
        self._rate.note(steps=len(active), emitted=len(tokens), drafted=drafted)
        return drafts

    def observe(self, *, seconds: float, requests: int, tokens: int, drafted: int, context: int) -> None:
        """Note the time of one engine step that did nothing but decode.

        Args:
            seconds: Its time.
            requests: Size of the batch.
            tokens: Tokens computed, drafted ones included.
            drafted: Drafted tokens among them.
            context: Tokens of context, all requests together.
        """
        if tokens >= requests:
            self._cost.observe(seconds=seconds, requests=requests, drafted=drafted, context=context)

    def finish(self, request: str) -> None:
        """End a request, finished or aborted; unknown ones are ignored."""
        over = self._requests.pop(request, None)
        if over is None:
            return
        with self._lock:
            over.end()
            if over.row >= 0:
                over.tip = int(self._rows.matches[over.row, OWN, 1])
                self._release(over)
        self._builder.submit(lambda: self._retire(over))

    def end_idle(self, *, seconds: float = 0.0) -> None:
        """End the sessions that have been without a request for `seconds`; they join the history."""
        self._builder.submit(partial(self._ends.end_idle, seconds))

    def stats(self) -> DrafterStats:
        """Return counters and sizes; cheap enough for every second."""
        return DrafterStats(
            passes=self._passes,
            emitted=self._emitted,
            drafts=self._drafts,
            sources={
                name: SourceStats(int(self._counts[kind, 0]), int(self._counts[kind, 1]))
                for kind, name in enumerate(_SOURCE_NAMES)
            },
            unready=self._unready,
            backlog=self._builder.waiting,
            backlog_tokens=self._queued_tokens - self._dequeued_tokens,
            failures=self._builder.failures,
            build_seconds=self._build_seconds + self._histories.build_seconds,
            built_tokens=self._built_tokens + self._histories.built_tokens,
            live_sessions=len(self._live),
            live_tokens=self._live.tokens,
            history_tokens=self._histories.tokens,
            bytes=self._live.nbytes + self._histories.nbytes + self._similar.nbytes,
            marginal_cost=self._cost.measured(),
        )

    def drain(self) -> None:
        """Wait until the background thread has nothing left to do."""
        self._builder.drain()

    def close(self) -> None:
        """Write unsaved sessions to memory and stop; harmless when repeated."""
        for request in tuple(self._requests):
            self.finish(request)
        self._builder.submit(self._ends.save_all)
        self._builder.close()

    # The decode path; `_lock` is held.

    def _take_in(
        self, requests: Sequence[str], verified: Sequence[Sequence[int]]
    ) -> list[tuple[int, DraftedRequest]]:
        """Count the emitted tokens, and return places and requests of those that can be drafted for."""
        active = []
        for index, name in enumerate(requests):
            request = self._requests.get(name)
            tokens = verified[index]
            if request is None or not tokens:
                continue
            if request.outputs:
                self._passes += 1
                self._emitted += len(tokens)
            request.outputs.extend(tokens)
            if request.row >= 0:
                active.append((index, request))
            else:
                request.pending.extend(tokens)
                self._unready += 1
        return active

    def _price(self, requests: Sequence[str]) -> tuple[int, float]:
        """Return the most tokens to draft, and the least chance that a draft must have."""
        known, context = 0, 0
        for name in requests:
            request = self._requests.get(name)
            if request is not None:
                known += 1
                context += len(request.prompt) + len(request.outputs)
        options = self.options
        if options.mode == "paper":
            fits = len(requests) <= options.paper_max_batch and context <= options.paper_max_context * known
            return (min(options.paper_draft, options.max_draft) if fits else 0), 0.0
        cost = self._cost.marginal(requests=len(requests), context=context)
        if self._cost.due_for_trial(requests=len(requests)):
            return min(3, options.max_draft), 0.1
        return options.max_draft, self._rate.threshold(cost)

    def _set_back(self, request: DraftedRequest, left: Sequence[int]) -> None:
        """The automaton is full: take the request out until it has grown, in the background."""
        request.tip = int(self._rows.matches[request.row, OWN, 1])
        request.pending = list(left)
        self._release(request)

    def _release(self, request: DraftedRequest) -> None:
        self._rows.clear(request.row)
        self._free.append(request.row)
        request.row = -1

    # The background thread.

    def _build(self, request: DraftedRequest) -> None:
        """Bring the automaton of the request's session up to date, and let it draft."""
        began = time.perf_counter()
        self._dequeued_tokens += len(request.prompt)
        hints = request.hints
        live = self._live.find(request.prompt, tenant=hints.tenant, name=hints.session_id)
        if not self._ends.make_room(len(request.prompt), keep=live):
            return
        live.running = True
        request.live = live
        before = live.automaton.tokens
        if self.options.own:
            request.tip = live.take_in(request.prompt)
        self._built_tokens += live.automaton.tokens - before
        self._build_seconds += time.perf_counter() - began
        self._resume(request)

    def _resume(self, request: DraftedRequest) -> None:
        """Add the tokens that came in meanwhile, and publish the request to the decode path."""
        live = request.live
        if live is None or request.is_over():
            return
        live.automaton.reserve(_MATCH_TOKENS * 8)
        sources = self._sources(request)
        known = list(request.outputs)
        taken = len(known)
        context = np.concatenate([request.prompt[-_MATCH_TOKENS:], np.array(known, np.int32)])
        matches = [automaton.match(context[-_MATCH_TOKENS:]) for _, automaton, _ in sources]
        while True:
            with self._lock.background():
                if request.is_over():
                    return
                pending, request.pending = request.pending, []
                missed = np.array(request.outputs[taken:], np.int32)
                taken = len(request.outputs)
                if not pending and not len(missed):
                    self._publish(request, sources, matches)
                    return
            if self.options.own:
                request.tip = live.automaton.extend(np.array(pending, np.int32), tip=request.tip)
                live.automaton.reserve(_MATCH_TOKENS * 8)
            matches = [
                automaton.match(missed, state=state, length=length)
                for (_, automaton, _), (state, length) in zip(sources, matches, strict=True)
            ]

    def _publish(
        self,
        request: DraftedRequest,
        sources: list[tuple[int, SuffixAutomaton, float]],
        matches: list[tuple[int, int]],
    ) -> None:
        if not self._free:
            first = len(self._rows)
            self._rows.grow()
            self._free = list(range(first, len(self._rows)))[::-1]
        row = self._free.pop()
        self._rows.clear(row)
        if self.options.own and request.live is not None:
            self._rows.matches[row, OWN] = (request.live.automaton.address, request.tip, 0)
        for (source, automaton, weight), (state, length) in zip(sources, matches, strict=True):
            self._rows.matches[row, source] = (automaton.address, state, length)
            self._rows.weights[row, source] = weight
        request.automata = [automaton for _, automaton, _ in sources]
        request.row = row

    def _sources(self, request: DraftedRequest) -> list[tuple[int, SuffixAutomaton, float]]:
        """Return place, automaton and weight of each source but the own session."""
        found: list[tuple[int, SuffixAutomaton, float]] = []
        tenant = request.hints.tenant
        if self.options.uses_history:
            history = self._histories.of(tenant)
            for place, generations in ((HISTORY, history.text), (OUTPUTS, history.outputs)):
                found.append((place, generations.young, 1.0))
                if generations.old is not None:
                    found.append((place + 1, generations.old, 1.0))
        if self.options.top_k:
            query = request.prompt[-_QUERY_TOKENS:]
            for rank, (automaton, similarity) in enumerate(
                self._similar.nearest(tenant, query, k=self.options.top_k)
            ):
                found.append((SIMILAR + rank, automaton, similarity))
        return found

    def _retire(self, request: DraftedRequest) -> None:
        """Keep what a finished request wrote, and its session for the next turn."""
        live = request.live
        if live is None:
            return
        outputs = np.array(request.outputs, np.int32)
        if self.options.own and request.pending:
            request.tip = live.automaton.extend(np.array(request.pending, np.int32), tip=request.tip)
        live.running = False
        live.used = time.monotonic()
        own_context = not request.hints.final or not len(live.tokens)
        if own_context:
            live.keep(
                np.concatenate([request.prompt, outputs]), prompt_length=len(request.prompt), tip=request.tip
            )
            self._live.register(live)
        if len(outputs):
            live.outputs.append(outputs)
            if self.options.uses_history:
                self._histories.add(self._histories.of(live.tenant).outputs, outputs)
        if request.hints.final and own_context:
            self._ends.end(live)
