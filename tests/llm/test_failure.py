"""What went wrong at a server, in all the forms in which servers say it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.llm.connection import Received
from agentinfer_lg.llm.failure import Failure, describe_failure, read_failure


def _read(status: int, body: Any, headers: dict[str, str] | None = None) -> Failure:
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    failure = read_failure(Received(status=status, headers=headers or {}, body=text.encode()))
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (400, {"error": {"message": "no such field", "type": "x", "code": None}}, "no such field"),
        (400, {"error": "no such field"}, "no such field"),
        (400, {"object": "error", "message": "no such field", "code": 400}, "no such field"),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}, "body.seed: not permitted"),
        (400, {"detail": "no such field"}, "no such field"),
        (400, [{"error": {"code": 400, "message": "no such field"}}], "no such field"),
        (400, "no such field", "no such field"),
        (502, "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway"),
        (500, "<p>it broke</p>", "it broke"),
        (400, {"errors": [{"message": "no such field"}]}, "no such field"),
        (400, {"code": "InvalidParameter", "message": "no such field", "request_id": "1"}, "no such field"),
        (400, json.dumps("no such field"), "no such field"),
        (200, {"error": {"message": "no such field", "code": 400}, "choices": None}, "no such field"),
        (200, {"base_resp": {"status_code": 1004, "status_msg": "no such field"}, "choices": None}, "no such field"),
    ],
)  # fmt: skip
def test_the_servers_own_sentence_is_found(status: int, body: Any, sentence: str) -> None:
    assert _read(status, body).sentence == sentence


OVERFLOWS = [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 4096 tokens and your "
    "request has 3900 input tokens",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Requested tokens (5000) exceed context window of 4096",
    "Please reduce the length of the messages or completion.",
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of "
    "only 4096 tokens",
    "Your input exceeds the context window of this model.",
    "Input is too long for requested model.",
    "Range of input length should be [1, 30720]; the input length exceeds the limit",
    "too many tokens: size limit exceeded by 2000 tokens",
    "The prompt (length 5000) is longer than the maximum model length of 4096.",
    "The decoder prompt (length 5000) exceeds max_model_len 4096",
    "输入长度超过模型上下文限制",
]


@pytest.mark.parametrize("words", OVERFLOWS)
@pytest.mark.parametrize("status", [400, 500])
def test_a_prompt_that_is_too_long_is_one_kind(words: str, status: int) -> None:
    assert describe_failure(status, words).kind == "overflow"


@pytest.mark.parametrize(
    ("words", "window"),
    [
        (OVERFLOWS[0], 4096),
        (OVERFLOWS[1], 4096),
        (OVERFLOWS[3], 4096),
        (OVERFLOWS[4], 4096),
        (OVERFLOWS[6], 1_048_576),
        (OVERFLOWS[7], 4096),
        ("Your input exceeds the context window of this model.", None),
    ],
)
def test_the_window_that_is_named_is_read(words: str, window: int | None) -> None:
    assert describe_failure(400, words).window == window


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (401, "Incorrect API key provided", "key"),
        (403, "you may not", "key"),
        (403, "blocked by the content policy", "filter"),
        (402, "Payment required", "quota"),
        (429, "You exceeded your current quota, please check your plan and billing details", "quota"),
        (429, "slow down", "rate"),
        (404, "The model `x` does not exist", "model"),
        (400, "model 'x' not found, try pulling it first", "model"),
        (400, "The response was filtered due to the prompt triggering content management policy", "filter"),
        (400, "Unknown parameter: 'seed'", "refused"),
        (422, "extra fields not permitted", "refused"),
        (501, "grammars are not supported", "refused"),
        (500, "Internal Server Error", "server"),
        (503, "Loading model", "server"),
        (529, "Overloaded", "server"),
        (413, "Payload too large", "overflow"),
        (413, "Rate limit reached: tokens per minute", "rate"),
    ],
)
def test_kinds(status: int, words: str, kind: str) -> None:
    assert describe_failure(status, words).kind == kind


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 429, "message": "Rate limit exceeded"}, "choices": None}, 429),
        ({"error": {"message": "Provider returned error", "code": 502}}, 502),
        ({"error": {"message": "too many requests, try again later"}}, 429),
        ({"choices": [{"error": {"code": 503, "message": "gone"}, "message": None}]}, 503),
        ({"error": "something"}, 500),
    ],
)
def test_an_error_inside_a_200_has_its_own_status(body: Any, status: int) -> None:
    failure = _read(200, body)
    assert failure.status == status
    assert failure.passes


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "x"}}]},
        {"choices": [{"message": {"content": "x"}}], "error": None},
        {"choices": None},
        {},
        "not json",
        {"choices": [{"message": {"content": "x"}}], "warnings": ["y"]},
    ],
)
def test_an_answer_is_no_failure(body: Any) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    assert read_failure(Received(status=200, headers={}, body=text.encode())) is None


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, "", 7.0),
        ({"retry-after-ms": "1500"}, "", 1.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "", 0.0),
        ({"Retry-After": "soon"}, "", None),
        ({}, "Please try again in 20s.", 20.0),
        ({}, "Please retry in 350ms", 0.35),
        ({}, "try again in 2 minutes", 120.0),
        ({}, "no time is named", None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], body: str, seconds: float | None) -> None:
    assert _read(429, {"error": {"message": body}}, headers).retry_after == seconds


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "detail", "choices", "status", "errors", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.integers(200, 599), _JSON)
def test_nothing_breaks_the_reading(status: int, body: Any) -> None:
    received = Received(status=status, headers={"retry-after": str(body)}, body=json.dumps(body).encode())
    failure = read_failure(received)
    assert (failure is not None) or status < 300
    if failure is not None:
        assert failure.sentence.isprintable()
        assert len(failure.sentence) <= 300


@given(st.binary(max_size=200))
def test_bytes_are_no_obstacle(body: bytes) -> None:
    assert read_failure(Received(status=500, headers={}, body=body)) is not None


@pytest.mark.parametrize(
    "question", ["Who pays the billing of content moderation?", "context window too long"]
)
@pytest.mark.parametrize("written", [False, True])
def test_what_the_user_wrote_and_a_report_repeats_is_no_cause(question: str, written: bool) -> None:
    item = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
    report = [item | {"input": {"messages": [{"role": "user", "content": question}]}}]
    body = {"error": {"message": str(report), "code": 400}} if written else {"detail": report}
    failure = _read(400 if written else 422, body)
    assert failure.kind == "refused"
    assert "seed" in failure.words
