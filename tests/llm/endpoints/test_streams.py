"""Servers that stream where nobody asked, only stream, or err inside of a stream."""

import json
from pathlib import Path

import pytest
from support.stand_in.exchange import Chat, Frames, Json, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import refuses_if
from support.stand_in.server import Server

STREAM_ONLY = refuses_if(
    lambda chat: chat.body.get("stream") is not True,
    error(
        400,
        "<400> InternalError.Algo.InvalidParameter: This model only support stream mode, please enable the stream parameter to "
        "access the model.",
        code="invalid_parameter_error",
    ),
)


def _comments(chat: Chat, frames: list[str]) -> list[str]:
    """Comments keep the connection open; `data:` of the next frame follows on a line of its own."""
    return [f"{frame}\n\n: PROCESSING" for frame in frames]


def _error_within(*, always: bool, event: str = "") -> Frames:
    fault = json.dumps(
        {"error": {"message": "The engine ran out of memory", "type": "server_error", "code": 500}}
    )

    def apply(chat: Chat, frames: list[str]) -> list[str]:
        return [*frames[:2], fault] if always or chat.number == 2 else frames

    return apply


def _broken(chat: Chat, frames: list[str]) -> list[str]:
    return [*frames[:2], '{"id": "chatcmpl-1", "choi', *frames[2:]] if chat.number == 2 else frames


def _without_indices(chat: Chat, frames: list[str]) -> list[str]:
    def strip(frame: str) -> str:
        if frame == "[DONE]":
            return frame
        event = json.loads(frame)
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                call.pop("index")
        return json.dumps(event)

    return [strip(frame) for frame in frames]


def _empty_unless_streamed(chat: Chat, completion: Json) -> Json:
    if chat.body.get("stream") is not True:
        completion["choices"][0]["message"] = {"role": "assistant", "content": ""}
    return completion


PROFILES = (
    Profile(
        name="streams only",
        report="https://github.com/bytedance/deer-flow/issues/856",
        server=Server(checks=[STREAM_ONLY]),
        doctor="stream",
        levels=(0, 600, 4000),
    ),
    Profile(
        name="streams only, with thoughts only there",
        report="https://github.com/bytedance/deer-flow/issues/856",
        server=Server(
            checks=[
                refuses_if(
                    lambda chat: (
                        chat.body.get("stream") is not True and chat.body.get("enable_thinking") is not False
                    ),
                    error(400, "parameter.enable_thinking must be set to false for non-streaming calls"),
                )
            ]
        ),
        levels=(600, 0),
    ),
    Profile(
        name="streams though nobody asked",
        report="https://github.com/kaito-project/kaito/issues/1880",
        server=Server(streams="always"),
        levels=(0, 600),
    ),
    Profile(
        name="answers nothing unless streamed",
        report="https://github.com/langchain-ai/openwiki/issues/655",
        server=Server(changes=[_empty_unless_streamed]),
        extra_calls=2,
    ),
    Profile(
        name="streams comments",
        report="https://github.com/microsoft/vscode-copilot-release/issues/7955",
        server=Server(checks=[STREAM_ONLY], frames=[_comments]),
    ),
    Profile(
        name="streams calls without indices",
        report="https://github.com/openai/openai-python/issues/2806",
        server=Server(checks=[STREAM_ONLY], frames=[_without_indices]),
    ),
    Profile(
        name="errs inside of a stream once",
        report="https://github.com/aaif-goose/goose/pull/8027",
        server=Server(checks=[STREAM_ONLY], frames=[_error_within(always=False)]),
        extra_calls=2,
    ),
    Profile(
        name="errs inside of a stream always",
        report="https://github.com/BerriAI/litellm/issues/40578",
        server=Server(checks=[STREAM_ONLY], frames=[_error_within(always=True)]),
        says="The engine ran out of memory",
        extra_calls=10,
    ),
    Profile(
        name="sends a broken event",
        report="https://github.com/james-6-23/codex2api/issues/696",
        server=Server(checks=[STREAM_ONLY], frames=[_broken]),
        extra_calls=2,
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
