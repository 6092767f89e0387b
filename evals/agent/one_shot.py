"""Answering without an agent: one search, one reading by the large model.

What an agent costs only pays if it answers more than this does.
"""

from __future__ import annotations

import time

from langchain_core.messages import HumanMessage

from agentinfer_lg.context import Context
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.llm.calling import call_record
from agentinfer_lg.llm.models import Models
from agentinfer_lg.llm.tokens import estimate_tokens
from agentinfer_lg.nodes.seeker.evidence import select_passages
from agentinfer_lg.nodes.seeker.read_answer import closed_answer, short_answer
from agentinfer_lg.prompts import PROMPTS, number_passages
from agentinfer_lg.report.sources import source_key
from agentinfer_lg.result import Result, build_result
from agentinfer_lg.settings import Settings
from agentinfer_lg.state import RoundRecord, Source
from agentinfer_lg.text import detect_language
from agentinfer_lg.tools import SearchProvider

_ANSWER_TOKENS = 80
_AGENT = "reader"


class OneShot:
    """Search once with the question itself, read once.

    Args:
        settings: Endpoint of the large tier.
        search: Where to search.
    """

    def __init__(self, settings: Settings, search: SearchProvider) -> None:
        self._model = Models(settings).large
        self._search = search

    async def ask(self, question: str, context: Context, *, thread: str) -> Result:
        """Answer a question.

        Args:
            question: Also the query.
            context: `results_per_query` and `max_observation_tokens` say how much is read.
            thread: Name of the run.

        Returns:
            The same object that the agent gives.

        Raises:
            EndpointError: The model does not answer.
            ToolError: The search fails.
        """
        began = time.monotonic()
        hits = (await self._search.search([question], limit=context.results_per_query))[0]
        sources = {
            source_key(hit.uri): Source(
                key=source_key(hit.uri), uri=hit.uri, title=hit.title, passages=[hit.snippet], read=True
            )
            for hit in hits
        }
        numbers = list(sources)
        passages = select_passages(sources, numbers, [question], tokens=context.max_observation_tokens)
        prompts = PROMPTS[detect_language(question)]
        prompt = prompts.read_answer.format(passages=number_passages(passages), question=question)
        reply = await self._model.call(
            [HumanMessage(prompt)],
            hints=SessionHints(session_id=thread, role="qa", final=True),
            max_tokens=_ANSWER_TOKENS,
            temperature=context.temperature,
        )
        shown = {numbers[number - 1]: estimate_tokens(f"{title} {text}") for number, title, text in passages}
        answer = closed_answer(short_answer(reply.text), question)
        values = {
            "question": question,
            "answer": answer,
            "report": answer,
            "sources": sources,
            "calls": [call_record(reply, agent=_AGENT, turn=0, role="qa", tier="large")],
            "rounds": [
                RoundRecord(agent=_AGENT, turn=0, shown=shown, new_evidence=True, accepted=bool(answer))
            ],
        }
        return build_result(values, thread=thread, seconds=time.monotonic() - began)
