"""Write: findings become a report that cites only what was really retrieved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.runtime import Runtime

from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.events import emit
from agentinfer_lg.llm.calling import Caller
from agentinfer_lg.llm.chat import OutOfTimeError
from agentinfer_lg.nodes.plan import AGENT as PLANNER
from agentinfer_lg.nodes.seeker.budget import seconds_of_run
from agentinfer_lg.nodes.seeker.evidence import select_passages
from agentinfer_lg.nodes.seeker.read_answer import (
    answer_tier,
    closed_answer,
    has_sentence,
    is_unknown,
    short_answer,
)
from agentinfer_lg.prompts import PROMPTS, Prompts, number_passages
from agentinfer_lg.report.render import CitedText, resolve_citations, source_list
from agentinfer_lg.report.support import supporting_sources
from agentinfer_lg.resources import Resources
from agentinfer_lg.settings import Tier
from agentinfer_lg.state import CallRecord, Finding, ResearchState
from agentinfer_lg.text import clip

_AGENT = "writer"
_MIN_REPORT_CHARS = 20


async def write(state: ResearchState, runtime: Runtime[Context], *, resources: Resources) -> dict[str, Any]:
    """Write the answer and the report.

    The model's text is only a draft: citations are resolved against the registry of retrieved sources by code, and a
    writer that fails or writes nothing is replaced by the findings themselves.
    """
    context = runtime.context
    writer = _Writer(state, context, resources)
    answer = await writer.answer()
    body = await writer.report(answer) if context.report == "full" else None
    body = body or writer.assemble(answer)
    report = _finish(body, [*state.get("ran_out", []), *writer.failures], state)
    emit("report", _AGENT, text=report)
    return {
        "answer": answer,
        "report": report,
        "messages": [AIMessage(report, name="report")],
        "calls": writer.calls,
        "ran_out": writer.failures,
        "dropped_citations": body.dropped,
    }


class _Writer:
    """Calls the writing model, and knows what to do without it."""

    def __init__(self, state: ResearchState, context: Context, resources: Resources) -> None:
        self._state = state
        self._context = context
        self._prompts = PROMPTS[state["language"]]
        self._findings = state.get("findings", [])
        self._sources = state.get("sources", {})
        self._numbers = _numbers(self._findings, list(self._sources))
        self._caller = Caller(
            resources=resources, context=context, run_id=state["run_id"], agent=_AGENT, turn=0
        )
        self._models = resources.models
        self.calls: list[CallRecord] = []
        self.failures: list[str] = []

    async def answer(self) -> str:
        """Return the short answer to the whole question, empty when nothing was found.

        An answer that a smaller model read out of the passages is read once more by the writing model.
        """
        answered = [finding for finding in self._findings if finding["answer"]]
        if not answered:
            return ""
        question, passages = self._state["question"], self._passages()
        if len(self._findings) > 1:
            findings = _list(self._findings, self._prompts)
            prompt = self._prompts.combine.format(findings=findings, passages=passages, question=question)
        elif self._should_read(answered[0]):
            prompt = self._prompts.read_answer.format(passages=passages, question=question)
        else:
            return answered[0]["answer"]
        answer = closed_answer(
            short_answer(await self._call(prompt, self._context.max_answer_tokens, enough=has_sentence)),
            question,
        )
        return answered[0]["answer"] if is_unknown(answer) else answer

    def _should_read(self, finding: Finding) -> bool:
        """Whether the answer was read by another model than the one that writes."""
        calls = [call for call in self._state.get("calls", []) if call["agent"] == finding["agent"]]
        if not calls or calls[-1]["role"] != "qa" or self._out_of_time():
            return False
        reader, writer = (self._models.tier(tier) for tier in (calls[-1]["tier"], self._tier()))
        return reader.same_place != writer.same_place

    def _seconds_left(self) -> float:
        calls, tools = self._state.get("calls", []), self._state.get("tools", [])
        return self._context.max_seconds - seconds_of_run(
            [*calls, *self.calls], tools, planner=PLANNER, writer=_AGENT
        )

    def _out_of_time(self) -> bool:
        return self._seconds_left() <= 0

    async def report(self, answer: str) -> CitedText | None:
        """Return the model's report with resolved citations, None when there is none worth the name."""
        if not self._sources or not answer:
            return None
        prompt = self._prompts.report.format(
            question=self._state["question"],
            findings=_list(self._findings, self._prompts),
            passages=self._passages(),
        )
        text = await self._call(prompt, self._context.max_report_tokens)
        if len(text) < _MIN_REPORT_CHARS or is_unknown(text):
            return None
        cited = resolve_citations(text, numbers=self._numbers, sources=self._sources)
        return cited if cited.cited else None

    def assemble(self, answer: str) -> CitedText:
        """Put the report together without a model: the answer, each finding, and quotes where there is no answer."""
        lines = [line for finding in self._findings for line in self._lines(finding)]
        text = f"{self._head(answer)}\n\n## {self._prompts.heading_findings}\n\n" + "\n".join(lines)
        return resolve_citations(text, numbers=self._numbers, sources=self._sources, attribute=False)

    def _head(self, answer: str) -> str:
        if not answer:
            return self._prompts.no_answer
        keys = supporting_sources(answer, self._sources, self._numbers)
        keys = keys or [key for finding in self._findings for key in finding["sources"]]
        return f"{answer} {self._marks(keys)}".rstrip()

    def _lines(self, finding: Finding) -> list[str]:
        if finding["answer"]:
            marks = self._marks(finding["sources"])
            return [f"- {finding['question']} {finding['answer']} {marks}".rstrip()]
        return [f"- {finding['question']} {self._prompts.no_answer}", *self._quotes(finding)]

    def _marks(self, keys: Iterable[str]) -> str:
        numbers = (self._numbers.index(key) + 1 for key in dict.fromkeys(keys) if key in self._numbers)
        return "".join(f"[{number}]" for number in numbers)

    def _quotes(self, finding: Finding) -> list[str]:
        passages = select_passages(self._sources, self._numbers, [finding["question"]], tokens=300)
        return [f"  - {title}: “{clip(text, tokens=80)}” [{number}]" for number, title, text in passages[:3]]

    def _passages(self) -> str:
        queries = [self._state["question"], *(finding["answer"] for finding in self._findings)]
        return number_passages(
            select_passages(
                self._sources, self._numbers, queries, tokens=self._context.max_observation_tokens
            )
        )

    async def _call(
        self, prompt: str, max_tokens: int, *, enough: Callable[[str], bool] | None = None
    ) -> str:
        if self._out_of_time():
            return ""
        try:
            called = await self._caller.call(
                self._tier(),
                [HumanMessage(prompt)],
                role="write",
                max_tokens=max_tokens,
                timeout=self._seconds_left(),
                enough=enough,
            )
        except OutOfTimeError:
            limit = self._context.max_seconds
            self.failures.append(self._prompts.out_of_seconds.format(agent=_AGENT, limit=limit))
            return ""
        except EndpointError as error:
            self.failures.append(str(error))
            return ""
        self.calls.append(called.record)
        if called.warning:
            self.failures.append(called.warning)
        if called.reply.cut and enough is None:
            self.failures.append(self._prompts.report_cut)
        return called.reply.text

    def _tier(self) -> Tier:
        """The large model writes, unless the policy or an empty budget says otherwise."""
        return answer_tier(
            self._context, self._state.get("calls", []), large_tokens=self._context.max_large_tokens
        )


def _numbers(findings: list[Finding], registered: list[str]) -> list[str]:
    """Order of the sources for the writer: those of the findings first."""
    cited = [key for finding in findings for key in finding["sources"] if key in registered]
    return list(dict.fromkeys([*cited, *registered]))


def _list(findings: list[Finding], prompts: Prompts) -> str:
    return "\n".join(f"- {item['question']} {item['answer'] or prompts.unknown}" for item in findings)


def _finish(body: CitedText, ran_out: Sequence[str], state: ResearchState) -> str:
    """Return the whole report: the question, the body, its sources, and what ran out."""
    prompts, sources = PROMPTS[state["language"]], state.get("sources", {})
    parts = [f"# {' '.join(state['question'].split())}", body.text.strip()]
    if body.cited:
        parts.append(f"## {prompts.heading_sources}\n\n{source_list(body.cited, sources)}")
    elif not sources:
        parts.append(prompts.no_evidence)
    if ran_out:
        lines = "\n".join(f"- {item}" for item in dict.fromkeys(ran_out))
        parts.append(f"## {prompts.heading_incomplete}\n\n{lines}")
    return "\n\n".join(parts) + "\n"
