"""Servers whose window is full, each in words of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.stand_in.exchange import Chat, Http, Json, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import refuses_if
from support.stand_in.server import MODEL, Server, lists

WINDOW = 1600
"""Less than the prompts of a seeker that has read the long documents, more than those of one that reads less."""


def _too_long(chat: Chat) -> bool:
    return chat.prompt_tokens > WINDOW


def _too_long_with_its_answer(chat: Chat) -> bool:
    return chat.prompt_tokens + (chat.limit or 0) > WINDOW + 1000


def _full(refusal: Callable[[Chat], Http], *, counts_answer: bool = False) -> Server:
    too_long = _too_long_with_its_answer if counts_answer else _too_long
    return Server(checks=[lambda chat: refusal(chat) if too_long(chat) else None])


def _said(status: int, body: object) -> Callable[[Chat], Http]:
    return lambda chat: Http(status=status, body=body)


def _cut_silently(chat: Chat, completion: Json) -> Json:
    completion["usage"]["prompt_tokens"] = min(WINDOW, completion["usage"]["prompt_tokens"])
    return completion


class _CuttingServer(Server):
    """Drops the beginning of a prompt that is too long, and says nothing."""

    def answer(self, chat: Chat) -> Http:
        from dataclasses import replace

        room, kept = WINDOW * 4, []
        for message in reversed(chat.messages):
            text = message.get("content") or ""
            if isinstance(text, str):
                message = {**message, "content": text[-room:] if room > 0 else ""}
                room -= len(text)
            kept.append(message)
        return super().answer(replace(chat, body={**chat.body, "messages": kept[::-1]}))


_OPENAI = (
    f"This model's maximum context length is {WINDOW} tokens. However, your messages resulted in 2345 tokens. Please reduce the "
    "length of the messages."
)

PROFILES = (
    Profile(
        name="context_length_exceeded",
        report="https://github.com/orhanerday/ChatGPT/issues/17",
        server=_full(lambda chat: error(400, _OPENAI, param="messages", code="context_length_exceeded")),
        long=True,
    ),
    Profile(
        name="prompt and answer do not fit together",
        report="https://github.com/vllm-project/vllm/pull/36197",
        server=_full(
            lambda chat: error(
                400,
                f"'max_tokens' or 'max_completion_tokens' is too large: {chat.limit}. This model's maximum context length is "
                f"{WINDOW + 1000} tokens and your request has {chat.prompt_tokens} input tokens.",
                kind="BadRequestError",
                code=400,
            ),
            counts_answer=True,
        ),
        long=True,
        levels=(0, 600),
    ),
    Profile(
        name="the input is longer than the window",
        report="https://github.com/Alishahryar1/free-claude-code/issues/263",
        server=_full(
            _said(
                400,
                {
                    "object": "error",
                    "message": f"The input (2345 tokens) is longer than the model's context length ({WINDOW} tokens).",
                    "type": "BadRequestError",
                    "code": 400,
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="exceed_context_size_error with status 400",
        report="https://github.com/ggml-org/llama.cpp/issues/19774",
        server=_full(
            lambda chat: Http(
                status=400,
                body={
                    "error": {
                        "code": 400,
                        "message": f"request ({chat.prompt_tokens} tokens) exceeds the available context size ({WINDOW} tokens), "
                        "try increasing it",
                        "type": "exceed_context_size_error",
                        "n_prompt_tokens": chat.prompt_tokens,
                        "n_ctx": WINDOW,
                    }
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="context size exceeded with status 500",
        report="https://github.com/ggml-org/llama.cpp/issues/19774",
        server=_full(
            _said(
                500,
                {
                    "error": {
                        "code": 500,
                        "message": "Context size has been exceeded.",
                        "type": "server_error",
                    }
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="requested tokens exceed the window, from python",
        report="https://github.com/fedora-copr/logdetective/issues/100",
        server=_full(
            _said(
                500,
                {
                    "error": {
                        "message": f"Requested tokens (2345) exceed context window of {WINDOW}",
                        "type": "internal_server_error",
                        "param": None,
                        "code": None,
                    }
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="inputs and max_new_tokens together",
        report="https://github.com/huggingface/huggingface_hub/issues/2763",
        server=_full(
            lambda chat: Http(
                status=422,
                body={
                    "error": f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {WINDOW + 1000}. Given: "
                    f"{chat.prompt_tokens} `inputs` tokens and {chat.limit} `max_new_tokens`",
                    "error_type": "validation",
                },
            ),
            counts_answer=True,
        ),
        long=True,
    ),
    Profile(
        name="the initial prompt is greater than the window",
        report="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/546",
        server=_full(
            _said(
                400,
                {
                    "error": "Trying to keep the first 2345 tokens when context the overflows. However, the model is loaded with "
                    f"context length of only {WINDOW} tokens, which is not enough."
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="prompt is too long",
        report="https://github.com/entropy-research/Devon/issues/88",
        server=_full(
            _said(
                400,
                {
                    "type": "error",
                    "error": {
                        "type": "invalid_request_error",
                        "message": f"prompt is too long: 2345 tokens > {WINDOW} maximum",
                    },
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="input is too long for requested model",
        report="https://github.com/continuedev/continue/issues/9592",
        server=_full(_said(400, {"message": "Input is too long for requested model."})),
        long=True,
    ),
    Profile(
        name="input token count exceeds the maximum",
        report="https://github.com/google-gemini/gemini-cli/issues/6678",
        server=_full(
            _said(
                400,
                [
                    {
                        "error": {
                            "code": 400,
                            "message": "The input token count (2345) exceeds the maximum number of tokens allowed "
                            f"({WINDOW}).",
                            "status": "INVALID_ARGUMENT",
                        }
                    }
                ],
            )
        ),
        long=True,
    ),
    Profile(
        name="input validation of tokens and parameters",
        report="https://github.com/huggingface/text-generation-inference/issues/695",
        server=_full(
            lambda chat: error(
                422,
                f"Input validation error: `inputs` must have less than {WINDOW} tokens. Given: {chat.prompt_tokens}",
            )
        ),
        long=True,
    ),
    Profile(
        name="request entity too large",
        report="https://github.com/continuedev/continue/issues/10218",
        server=_full(
            lambda chat: error(
                413,
                f"Request too large for model `{MODEL}` on tokens per minute (TPM): Limit {WINDOW}, Requested "
                f"{chat.prompt_tokens}, please reduce your message size and try again.",
                kind="tokens",
                code="rate_limit_exceeded",
            )
        ),
        long=True,
    ),
    Profile(
        name="the endpoint's maximum, in the words of a router",
        report="https://github.com/Aider-AI/aider/issues/3721",
        server=_full(
            lambda chat: Http(
                status=400,
                body={
                    "error": {
                        "message": f"This endpoint's maximum context length is {WINDOW} tokens. However, you requested about "
                        f"{chat.prompt_tokens} tokens. Please reduce the length of either one.",
                        "code": 400,
                    }
                },
            )
        ),
        long=True,
    ),
    Profile(
        name="range of input length",
        report="https://github.com/QwenLM/qwen-code/issues/98",
        server=_full(
            lambda chat: error(
                400,
                f"<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, {WINDOW}]",
            )
        ),
        long=True,
    ),
    Profile(
        name="prompts cut silently",
        report="https://github.com/ollama/ollama/issues/3839",
        server=_CuttingServer(changes=[_cut_silently]),
        long=True,
    ),
    Profile(
        name="a window told by the list",
        report="https://github.com/danny-avila/LibreChat/issues/1698",
        server=Server(
            models=lists(MODEL, context_length=4096),
            checks=[
                refuses_if(
                    lambda chat: chat.prompt_tokens + (chat.limit or 0) > 4096,
                    error(
                        400,
                        "This model's maximum context length is 4096 tokens.",
                        code="context_length_exceeded",
                    ),
                )
            ],
        ),
        long=True,
        levels=(0, 600),
    ),
    Profile(
        name="a window told by the list in meta",
        report="https://github.com/ggml-org/llama.cpp/issues/19774",
        server=Server(
            models=lists(MODEL, meta={"n_ctx": 4096, "n_ctx_train": 131072}),
            checks=[
                refuses_if(
                    lambda chat: chat.prompt_tokens > 4096,
                    error(
                        400,
                        "the request exceeds the available context size",
                        kind="exceed_context_size_error",
                    ),
                )
            ],
        ),
        long=True,
        doctor="4,096",
    ),
    Profile(
        name="a window too small for anything",
        report="https://github.com/orhanerday/ChatGPT/issues/17",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: chat.prompt_tokens > 20,
                    error(
                        400,
                        "This model's maximum context length is 20 tokens.",
                        code="context_length_exceeded",
                    ),
                )
            ]
        ),
        says="context",
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
