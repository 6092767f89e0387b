"""One step of an agent under escalation: which models it calls, in which order, and what comes of it.

Nothing here waits: a step says which call it wants, and is told what came of it. So the synchronous and the
asynchronous edge of the middleware share all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from langchain.agents.middleware.types import ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from agentinfer_lg.collab.controller import (
    CollabSettings,
    CollabState,
    Transition,
    advance,
    needs_check,
    start,
)
from agentinfer_lg.collab.progress_check import ParsedVerdict, parse_verdict
from agentinfer_lg.collab.verifier import RoundEvidence, VerifierState, normalise_action, observe
from agentinfer_lg.middleware.requests import CallRole
from agentinfer_lg.middleware.session import text_of
from agentinfer_lg.settings import Tier
from agentinfer_lg.text import Language, detect_language

_log = logging.getLogger(__name__)
_SKIPPED = ParsedVerdict("SKIPPED", "")

Outcome: TypeAlias = ModelResponse[Any] | ExtendedModelResponse[Any]
"""Answer of the model, for a step with the change of the state."""


class Call(NamedTuple):
    """A call of a model that a step wants."""

    tier: Tier
    role: CallRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How steps are judged."""

    collab: CollabSettings
    verifier: bool
    """Whether steps are also judged without a model."""
    repeat_limit: int
    stall_limit: int


class EscalationStep:
    """One step of the agent, from the judgement on the one before to the answer of the model.

    Args:
        request: The call that the agent makes.
        judgement: How steps are judged.
        role: What the call is for; only a `think` is judged, others are passed on.
    """

    def __init__(self, request: ModelRequest[Any], judgement: Judgement, *, role: CallRole) -> None:
        self.request = request
        self._judgement = judgement
        state = request.state
        memory = state.get("agentinfer_escalation") or {}
        self.session: str = state.get("agentinfer_session") or ""
        saved = memory.get("collab")
        self._collab = CollabState.from_json(saved) if saved else start(judgement.collab)
        self._verifier = (
            VerifierState.from_json(memory["verifier"]) if memory.get("verifier") else VerifierState()
        )
        self._messages: list[AnyMessage] = state["messages"]
        last = next((m for m in reversed(self._messages) if isinstance(m, AIMessage)), None)
        self._judged = last if memory.get("made") else None
        self._objection = ""
        self._verdict = _SKIPPED
        self.turn = sum(isinstance(message, AIMessage) for message in self._messages)
        self._course = self._think() if role == "think" else self._pass_on(role)
        self._outcome: Outcome | None = None
        self.call: Call | None = None
        """The call that the step wants now; None: it is over."""
        self._go_on(partial(next, self._course))

    @property
    def outcome(self) -> Outcome:
        """What the step came to, once it is over."""
        assert self._outcome is not None
        return self._outcome

    def answered(self, response: ModelResponse[Any]) -> None:
        """Go on with the answer to `call`."""
        self._go_on(partial(self._course.send, response))

    def failed(self, error: Exception) -> None:
        """Go on after `call` failed.

        Raises:
            Exception: The error itself, where the step cannot go on without an answer.
        """
        self._go_on(partial(self._course.throw, error))

    def _go_on(self, resume: Callable[[], Call]) -> None:
        try:
            self.call = resume()
        except StopIteration as end:
            self.call, self._outcome = None, end.value

    def _pass_on(self, role: CallRole) -> Generator[Call, ModelResponse[Any], Outcome]:
        return (yield Call(self._collab.tier, role))

    def _think(self) -> Generator[Call, ModelResponse[Any], Outcome]:
        if self._observed():
            self._verdict = yield from self._check()
        self._decide()
        try:
            response = yield Call(self._collab.tier, "think")
        except GraphBubbleUp:
            raise
        except Exception as error:
            if self._collab.tier == "small":
                raise
            self._lost(error)
            response = yield Call("small", "think")
        memory = {"collab": self._collab.to_json(), "verifier": self._verifier.to_json(), "made": 1}
        return ExtendedModelResponse(response, Command(update={"agentinfer_escalation": memory}))

    def _check(self) -> Generator[Call, ModelResponse[Any], ParsedVerdict]:
        """Ask the model of the last step about it."""
        try:
            response = yield Call(self._collab.tier, "progress")
            return _read(response)
        except GraphBubbleUp:
            raise
        except Exception as error:
            return ParsedVerdict("UNREADABLE", f"the check failed: {type(error).__name__}")

    def _observed(self) -> bool:
        """Take in what the last step led to, and tell whether its model is to be asked about it."""
        if self._judged is None:
            return False
        judgement = self._judgement
        if judgement.verifier:
            self._verifier, self._objection = observe(
                self._verifier,
                _evidence(self._judged, _results(self._messages, self._judged)),
                repeat_limit=judgement.repeat_limit,
                stall_limit=judgement.stall_limit,
            )
        return needs_check(judgement.collab) and self._collab.phase != "warmup" and not self._objection

    def _decide(self) -> None:
        """Account for the last step, and choose the model of this one."""
        if self._judged is None:
            return
        failed = any(result.status == "error" for result in _results(self._messages, self._judged))
        transition = advance(
            self._collab,
            self._judgement.collab,
            verdict=self._verdict.verdict,
            objection=self._objection,
            tool_error=failed,
        )
        self._collab = transition.state
        self._tell(transition)

    def _lost(self, error: Exception) -> None:
        """Say that the large model does not answer, and that the small one goes on."""
        sentence = f"The large model failed ({type(error).__name__}). The small model goes on instead."
        _log.warning(sentence)
        self._emit("warning", text=sentence)

    def _tell(self, transition: Transition) -> None:
        self._emit(
            "progress", verdict=self._verdict.verdict, text=self._verdict.reason, stall=self._objection
        )
        if transition.event == "escalate":
            self._emit("escalation", cause=transition.cause)
        elif transition.event in ("deescalate", "guardrail"):
            self._emit("deescalation", cause=transition.cause)

    def _emit(self, kind: str, **values: object) -> None:
        self.request.runtime.stream_writer({"event": kind, "agent": "agent", "turn": self.turn, **values})


def language_of(messages: Sequence[AnyMessage]) -> Language:
    """Return the language of the question."""
    asked = next((message for message in messages if isinstance(message, HumanMessage)), None)
    return detect_language(text_of(asked)) if asked is not None else "en"


def _results(messages: Sequence[AnyMessage], step: AIMessage) -> list[ToolMessage]:
    after = messages[messages.index(step) + 1 :]
    return [message for message in after if isinstance(message, ToolMessage)]


def _evidence(step: AIMessage, results: Sequence[ToolMessage]) -> RoundEvidence:
    return RoundEvidence(
        actions=tuple(normalise_action(call["name"], call["args"]) for call in step.tool_calls),
        evidence=tuple(text for result in results if result.status != "error" and (text := text_of(result))),
        thought=text_of(step),
        errors=sum(result.status == "error" for result in results),
    )


def _read(response: ModelResponse[Any]) -> ParsedVerdict:
    return parse_verdict(
        "\n".join(text_of(message) for message in response.result if isinstance(message, AIMessage))
    )
