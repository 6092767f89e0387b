"""Progress Checks with a known error rate: a proxy that puts the verdict of an oracle, or its opposite, into their answers.

Everything else passes as it is, requests and answers. The engine does the work of the check too, and its tokens and time
are counted; only the value that the agent reads is another one. What the model itself said is written down, so that its
own error rate comes out as well.

Which steps are flipped is a function of seed, question and turn alone: the step is flipped when a number drawn from them
is below the error rate. So a step that is flipped at 10% is flipped at 20% as well (common random numbers), and rates
differ by nothing but the steps between them.

A request does not say which question it belongs to, and the planner may word the task anew. So each question has
base URLs of its own, `/<question>/<tier>/v1`, and one proxy serves all of them. One seeker per question is assumed: two
of them would make the same turns.

An answer that is no verdict (cut off, or not the block) is replaced by a block too: what is studied are wrong verdicts,
and an unreadable one would be a third kind, which the controller takes for TRUE of the small model and for FALSE of the
large one. It is counted as UNREADABLE. Errors of the engine, and answers that it broke off, reach the agent as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from agentinfer_lg.collab.controller import Verdict
from agentinfer_lg.collab.progress_check import PROGRESS_REGEX, parse_verdict
from agentinfer_lg.evals.agent.self_evaluation.oracle_check import Seen, is_progress, seen_in
from agentinfer_lg.evals.common.proxy import Incoming, Proxy
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.settings import EndpointSettings, Settings, Tier

_VALUE = re.compile(r"<value>\w+</value>")
_NO_REASON = "no reason could be read"
_REASON_WORDS = 24
"""Most words of the reason, as `PROGRESS_REGEX` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedCheck:
    """One Progress Check, as it passed through."""

    turn: int
    tier: Tier
    oracle: bool
    """Whether the step was progress."""
    said: Verdict
    """What the model said."""
    told: Verdict
    """What the agent read."""
    flipped: bool
    """Whether that is the opposite of the oracle's verdict, on purpose."""


class ForcedChecks(Proxy):
    """The proxy, as a context manager.

    Args:
        engines: Base URL of the engine of each tier, ending in `/v1`.
        questions: All that are asked meanwhile, with their `evidence`.
        error_rate: Share of checks that are flipped, from 0 to 1. None: nothing is forced, only counted.
        seed: Of the flips.
    """

    def __init__(
        self,
        *,
        engines: Mapping[Tier, str],
        questions: Iterable[Question],
        error_rate: float | None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._roots = {tier: url.removesuffix("/v1") for tier, url in engines.items()}
        self._questions = {question.id: question for question in questions}
        self._error_rate = error_rate
        self._seed = seed
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], Seen] = {}
        self._checks: dict[tuple[str, str, int], ForcedCheck] = {}

    def settings(self, settings: Settings, question: str) -> Settings:
        """Return `settings` with the endpoints of one question in the place of the engines."""
        endpoints: dict[str, EndpointSettings] = {
            tier: getattr(settings, tier).model_copy(
                update={"base_url": f"{self.address}/{question}/{tier}/v1"}
            )
            for tier in self._roots
        }
        return settings.model_copy(update=endpoints)

    def checks(self, question: str) -> list[ForcedCheck]:
        """Return the checks of a question so far, by turn; one that was asked again counts once."""
        with self._lock:
            found = [check for (owner, _, _), check in self._checks.items() if owner == question]
        return sorted(found, key=lambda check: check.turn)

    def answer(self, incoming: Incoming) -> httpx.Response:
        """Pass on, watch the steps, and put verdicts into the answers to checks."""
        _, question_id, tier_name, *rest = [*incoming.path.split("/", 3), "", ""]
        question = self._questions.get(question_id)
        tier = next((tier for tier in self._roots if tier == tier_name), None)
        if question is None or tier is None:
            return httpx.Response(404, json={"error": {"message": f"there is no {incoming.path}"}})
        request: dict[str, Any] = json.loads(incoming.body) if incoming.is_chat else {}  # Any: JSON
        hints = request.get("vllm_xargs") or {}
        before = self._watch(question, request, hints)
        response = self.send(incoming, f"{self._roots[tier]}/{rest[0]}")
        if hints.get("agent_role") != "progress" or response.status_code != 200:
            return response
        oracle = is_progress(request["messages"], question.evidence, before=before)
        return self._judged(response, question, tier, hints, oracle=oracle)

    def _watch(self, question: Question, request: dict[str, Any], hints: dict[str, Any]) -> Seen:
        """Take in what a request shows; returns what was seen before it, for a check must not see its own step."""
        place = question.id, str(hints.get("session_id", ""))
        with self._lock:
            before = self._seen.get(place, Seen())
            if hints.get("agent_role") == "think":
                self._seen[place] = seen_in(request["messages"], question.evidence, before=before)
            return before

    def _judged(
        self, response: httpx.Response, question: Question, tier: Tier, hints: dict[str, Any], *, oracle: bool
    ) -> httpx.Response:
        content = response.json()
        choice: dict[str, Any] = next(iter(content.get("choices") or ()), {})
        if choice.get("finish_reason") == "abort" or "message" not in choice:
            return response
        turn = int(hints.get("agent_turn", 0))
        text = str(choice["message"].get("content") or "")
        said = parse_verdict(text).verdict
        told, flipped = said, False
        if self._error_rate is not None:
            flipped = draw(self._seed, question.id, turn) < self._error_rate
            told = "TRUE" if oracle != flipped else "FALSE"
            choice["message"]["content"] = forced_answer(text, told)
            response = httpx.Response(200, json=content)
        check = ForcedCheck(turn=turn, tier=tier, oracle=oracle, said=said, told=told, flipped=flipped)
        with self._lock:
            self._checks[question.id, str(hints.get("session_id", "")), turn] = check
        return response


def draw(seed: int, question: str, turn: int) -> float:
    """Return a number in [0, 1), uniform over questions and turns, the same whenever it is drawn."""
    digest = hashlib.blake2b(f"{seed}:{question}:{turn}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def forced_answer(text: str, verdict: Verdict) -> str:
    """Return the answer to a check with another value; one that is not the block becomes one."""
    text = text.strip()
    if re.fullmatch(PROGRESS_REGEX, text):
        return _VALUE.sub(f"<value>{verdict}</value>", text)
    words = parse_verdict(text).reason.replace("<", " ").split()
    block = _block(" ".join(words[:_REASON_WORDS]), verdict)
    return block if re.fullmatch(PROGRESS_REGEX, block) else _block(_NO_REASON, verdict)


def _block(reason: str, verdict: Verdict) -> str:
    return f"===PROGRESS===\n<reason>{reason}</reason> <value>{verdict}</value>\n===END_PROGRESS==="
