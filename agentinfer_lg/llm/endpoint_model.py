"""A model at an OpenAI-compatible endpoint, as a LangChain chat model.

One call is one HTTP request. It is a chat model, so that LangGraph's streams and tracing see it as they see every other. What a
server refuses is raised as it is; `negotiation` decides what follows.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from agentinfer_lg.errors import EndpointError
from agentinfer_lg.llm.answer import Answer, Counts, join_pieces, read_answer, why_unreadable
from agentinfer_lg.llm.capabilities import Capabilities, Known
from agentinfer_lg.llm.connection import Connection, Received
from agentinfer_lg.llm.failure import ServerFailureError, one_line, read_failure
from agentinfer_lg.llm.reasoning import split_reasoning
from agentinfer_lg.llm.request import THOUGHTS, ModelRequest, encode, write_body

UNREADABLE = "unreadable"
"""Key of the response metadata: why there is no answer in what the server sent."""


class EndpointModel(BaseChatModel):
    """The chat model."""

    model_name: str
    """Its name at the server."""

    _connection: Connection = PrivateAttr()
    _known: Known = PrivateAttr()

    @classmethod
    def at(cls, connection: Connection, *, model: str, known: Known) -> EndpointModel:
        """Return the model called `model` at an endpoint.

        Args:
            connection: To the endpoint.
            model: Its name.
            known: What is known of it.
        """
        # LangChain's cache would answer what is asked again because it could not be read, and does not tell endpoints apart.
        made = cls(model_name=model, cache=False)
        made._connection, made._known = connection, known
        return made

    @property
    def _llm_type(self) -> str:
        return "agentinfer-endpoint"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        return asyncio.run(self._agenerate(messages, stop, None, **options))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        """Make one request.

        Raises:
            ServerFailureError: The server refuses, or fails.
            ConnectionLostError: It cannot be reached.
        """
        request: ModelRequest | None = options.get("request")
        if request is None:
            request = ModelRequest(messages=messages, max_tokens=1024)
        known: Capabilities = options.get("known") or self._known.capabilities
        timeout: float = options.get("timeout") or 600.0
        body = write_body(request, known, model=self.model_name)
        received = await self._send(body, request, timeout)
        failure = read_failure(received, hide=self._connection.secrets.hide)
        if failure is not None:
            raise ServerFailureError(failure, body=body)
        answer = read_answer(received)
        if answer is None:
            message = AIMessage("", response_metadata={UNREADABLE: why_unreadable(received)})
        else:
            message = as_message(answer, known, quiet=request.quiet)
        message.response_metadata |= {"model_name": self.model_name}
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def counts_tokens(self) -> bool:
        """Whether the server counts the tokens of a text when it is asked to, as vLLM does."""
        body = encode({"model": self.model_name, "prompt": "Say hello."})
        try:
            received = await self._connection.post(self._connection.root_url("/tokenize"), body, timeout=10.0)
        except EndpointError:
            return False
        value = received.value if received.ok else None
        return isinstance(value, dict) and isinstance(value.get("count"), int) and value["count"] > 0

    async def _send(self, body: dict[str, Any], request: ModelRequest, timeout: float) -> Received:
        url = self._connection.url("/chat/completions")
        if not body.get("stream"):
            return await self._connection.post(url, encode(body), timeout=timeout, headers=request.headers)
        async with self._connection.stream(
            url, encode(body), timeout=timeout, headers=request.headers
        ) as response:
            if not response.is_success:
                return Received(
                    status=response.status_code, headers=response.headers, body=await response.aread()
                )
            lines = [line async for line in response.aiter_lines()]
        whole = join_pieces(lines)
        return Received(
            status=response.status_code,
            headers=response.headers,
            body=encode(whole) if whole is not None else "\n".join(lines).encode("utf-8", "replace"),
        )


def as_message(answer: Answer, known: Capabilities, *, quiet: bool = False) -> AIMessage:
    """Return an answer as a message whose content is only what may be seen.

    Args:
        answer: What the server sent.
        known: What is known of the model: where its thoughts arrive.
        quiet: The model was asked not to think, so its template opened no thought.
    """
    inside = known.thought_place == "unopened" and not quiet and not answer.thoughts
    split = split_reasoning(answer.text, inside=inside, ended=not answer.is_cut)
    thoughts = "\n".join(filter(None, (answer.thoughts, split.thoughts)))
    calls = [
        {"name": call.name, "args": call.arguments, "id": f"call-{number}", "type": "tool_call"}
        for number, call in enumerate(answer.calls)
        if call.arguments is not None
    ]
    place = (
        "field"
        if answer.thoughts
        else "unopened"
        if split.unopened or inside
        else "inline"
        if thoughts
        else ""
    )
    return AIMessage(
        split.visible,
        tool_calls=calls,
        additional_kwargs={THOUGHTS: thoughts} if thoughts else {},
        usage_metadata=_usage(answer.counts),
        response_metadata={
            "finish_reason": answer.finish,
            "thought_place": place,
            "cut": answer.is_cut or split.cut,
            "broken_calls": len(answer.calls) - len(calls),
            **(
                {UNREADABLE: f"the model refused to answer: {one_line(answer.refusal)}"}
                if answer.refusal
                else {}
            ),
            "counts_cached": answer.counts.cached is not None,
        },
    )


def _usage(counts: Counts) -> UsageMetadata | None:
    if counts.prompt is None or counts.output is None:
        return None
    usage = UsageMetadata(
        input_tokens=counts.prompt, output_tokens=counts.output, total_tokens=counts.prompt + counts.output
    )
    if counts.cached is not None:
        usage["input_token_details"] = {"cache_read": counts.cached}
    if counts.thoughts is not None:
        usage["output_token_details"] = {"reasoning": counts.thoughts}
    return usage
