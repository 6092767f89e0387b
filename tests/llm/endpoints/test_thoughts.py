"""Models that think, and where servers leave the thought."""

from pathlib import Path

import pytest
from support.stand_in.agent import Agent, Thought, beside, inline, silent_on
from support.stand_in.exchange import Chat, Http, Json, error
from support.stand_in.profile import Profile, prove, rows
from support.stand_in.refusals import refuses_field
from support.stand_in.server import Server

LEVELS = (600, 150, 4000)


def _unparsed(opening: str, closing: str, **more: str) -> Server:
    return Server(agent=Agent(place=inline(opening, closing, **more), thinks_when_guided=False))


def _in_a_list(said: Thought) -> Json:
    """Mistral's own form: the content is a list of thought and text."""
    if not said.thought:
        return {"content": said.text}
    thinking = {
        "type": "thinking",
        "thinking": [{"type": "text", "text": said.thought}],
        "closed": said.closed,
    }
    return {"content": [thinking, *([{"type": "text", "text": said.text}] if said.closed else [])]}


def _in_details(said: Thought) -> Json:
    details = [{"type": "reasoning.text", "text": said.thought, "format": "unknown", "index": 0}]
    return {
        "content": said.text if said.closed else "",
        "reasoning": said.thought or None,
        "reasoning_details": details if said.thought else [],
    }


def _harmony(said: Thought) -> Json:
    if not said.thought:
        return {"content": f"<|channel|>final<|message|>{said.text}"}
    thought = f"<|channel|>analysis<|message|>{said.thought}"
    return {
        "content": f"{thought}<|end|><|start|>assistant<|channel|>final<|message|>{said.text}<|return|>"
        if said.closed
        else thought
    }


def _empty_block(said: Thought) -> Json:
    return {"content": f"<|channel>thought\n<channel|>{said.text}"}


def _nested(said: Thought) -> Json:
    if not said.thought:
        return {"content": said.text}
    half = len(said.thought) // 2
    thought = f"<think>{said.thought[:half]}<think>{said.thought[half:]}"
    return {"content": f"{thought}</think> so far.</think>\n\n{said.text}" if said.closed else thought}


def _answer_in_the_reasoning(chat: Chat, completion: Json) -> Json:
    """A parser that found no end of a thought takes all for one."""
    message = completion["choices"][0]["message"]
    if chat.number % 2 == 0 and message["content"] and not message.get("tool_calls"):
        message["reasoning_content"] = message["content"]
        message["content"] = None
    return completion


def _wants_thoughts_back(chat: Chat) -> Http | None:
    for message in chat.messages:
        if message.get("tool_calls") and not message.get("reasoning_content"):
            return error(
                400,
                "The `reasoning_content` in the thinking mode must be passed back to the API.",
                code="invalid_request_error",
            )
    return None


def _refuses_thoughts(chat: Chat) -> Http | None:
    for index, message in enumerate(chat.messages):
        extra = [name for name in ("reasoning_content", "reasoning", "reasoning_details") if name in message]
        if extra:
            location = ["body", "messages", index, "assistant", extra[0]]
            fault = {"type": "extra_forbidden", "loc": location, "msg": "Extra inputs are not permitted"}
            return Http(status=422, body={"object": "error", "message": {"detail": [fault]}})
    return None


def _calls_inside_the_thought(chat: Chat, completion: Json) -> Json:
    """The model calls a tool before it has ended its thought, and the parser does not see it."""
    choice = completion["choices"][0]
    message = choice["message"]
    if chat.number < 3 and message.get("tool_calls"):
        function = message.pop("tool_calls")[0]["function"]
        call = f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'
        thought = message.get("reasoning_content", "")
        message |= {"reasoning_content": f"{thought}\n<tool_call>\n{call}\n</tool_call>", "content": None}
        choice["finish_reason"] = "stop"
    return completion


def _effort(chat: Chat) -> Http | None:
    wanted = chat.body.get("reasoning_effort")
    if wanted is None or wanted in ("minimal", "low", "medium", "high"):
        return None
    message = (
        f"Unsupported value: 'reasoning_effort' does not support '{wanted}' with this model. Supported values are: 'minimal', "
        "'low', 'medium', and 'high'."
    )
    return error(400, message, param="reasoning_effort", code="unsupported_value")


PROFILES = (
    Profile(
        name="thought in reasoning_content",
        report="https://github.com/deepseek-ai/DeepSeek-V3/issues/1610",
        levels=LEVELS,
    ),
    Profile(
        name="thought in reasoning",
        report="https://github.com/ollama/ollama/issues/12628",
        server=Server(agent=Agent(place=beside("reasoning"))),
        levels=LEVELS,
    ),
    Profile(
        name="thought in both fields",
        report="https://github.com/vllm-project/vllm/issues/27755",
        server=Server(agent=Agent(place=beside("reasoning", "reasoning_content"))),
        levels=LEVELS,
    ),
    Profile(
        name="thought in reasoning_details",
        report="https://github.com/aixplain/aiXplain/pull/1012",
        server=Server(agent=Agent(place=_in_details)),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline in think",
        report="https://github.com/langchain-ai/local-deep-researcher/issues/18",
        server=_unparsed("<think>\n", "\n</think>\n\n"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline without its opening",
        report="https://github.com/xorbitsai/inference/issues/3029",
        server=_unparsed("", "\n</think>\n\n"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline in thinking",
        report="https://github.com/QwenLM/qwen-code/issues/10791",
        server=_unparsed("<thinking>", "</thinking>\n"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline in reasoning",
        report="https://github.com/tinyhumansai/openhuman/issues/6184",
        server=_unparsed("<reasoning>", "</reasoning>\n"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline in brackets",
        report="https://github.com/NVIDIA/TensorRT-LLM/issues/9256",
        server=_unparsed("[THINK]", "[/THINK]"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline in thought",
        report="https://github.com/NousResearch/hermes-agent/pull/8991",
        server=_unparsed("<thought>\n", "</thought>\n"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline between triangles",
        report="https://github.com/MoonshotAI/Kimi-Dev/issues/6",
        server=_unparsed("◁think▷", "◁/think▷"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inline in a name space",
        report="https://github.com/anomalyco/opencode/issues/3703",
        server=_unparsed("<seed:think>", "</seed:think>"),
        levels=LEVELS,
    ),
    Profile(
        name="thought in a harmony channel",
        report="https://github.com/NVIDIA/TensorRT-LLM/issues/9256",
        server=Server(agent=Agent(place=_harmony, thinks_when_guided=False)),
        levels=LEVELS,
    ),
    Profile(
        name="thought in a channel of its own",
        report="https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/2013",
        server=_unparsed("<|channel>thought\n", "<channel|>"),
        levels=LEVELS,
    ),
    Profile(
        name="thought inside a thought",
        report="https://github.com/ggml-org/llama.cpp/issues/27661",
        server=Server(agent=Agent(place=_nested, thinks_when_guided=False)),
        levels=LEVELS,
    ),
    Profile(
        name="thought in a list of contents",
        report="https://github.com/simonw/llm-mistral/pull/39",
        server=Server(agent=Agent(place=_in_a_list)),
        levels=LEVELS,
    ),
    Profile(
        name="an answer now and then in reasoning_content only",
        report="https://github.com/vllm-project/vllm/issues/17609",
        server=Server(changes=[_answer_in_the_reasoning]),
        levels=(0, 600),
        extra_calls=2,
    ),
    Profile(
        name="tool calls inside the thought",
        report="https://github.com/vllm-project/vllm/issues/39056",
        server=Server(changes=[_calls_inside_the_thought]),
        levels=(150, 600),
        extra_calls=2,
    ),
    Profile(
        name="thoughts wanted back",
        report="https://github.com/bytedance/deer-flow/issues/3287",
        server=Server(checks=[_wants_thoughts_back]),
        levels=LEVELS,
        keeps_thoughts=True,
    ),
    Profile(
        name="thoughts refused in a request",
        report="https://github.com/BerriAI/litellm/issues/30835",
        server=Server(checks=[_refuses_thoughts]),
        levels=LEVELS,
    ),
    Profile(
        name="thinking switched off by the chat template",
        report="https://github.com/xorbitsai/inference/issues/3673",
        server=Server(
            agent=Agent(
                place=inline("<think>\n", "\n</think>\n\n"),
                silent=silent_on("template"),
                thinks_when_guided=False,
            )
        ),
        levels=LEVELS,
    ),
    Profile(
        name="an empty thought where thinking is off",
        report="https://github.com/qwersyk/Newelle/issues/427",
        server=Server(agent=Agent(place=_empty_block)),
        levels=(0,),
    ),
    Profile(
        name="reasoning_effort with other values",
        report="https://github.com/Kilo-Org/cloud/pull/3807",
        server=Server(agent=Agent(silent=silent_on("effort")), checks=[_effort]),
        levels=LEVELS,
    ),
    Profile(
        name="thinking switched off by a word in the prompt",
        report="https://github.com/omnimind-ai/OmniInfer/pull/56",
        server=Server(
            agent=Agent(
                place=inline("<think>\n", "\n</think>\n\n"),
                silent=silent_on("slash"),
                thinks_when_guided=False,
            ),
            checks=[refuses_field("chat_template_kwargs"), refuses_field("reasoning_effort")],
        ),
        levels=LEVELS,
    ),
)


@pytest.mark.parametrize(("profile", "thinking"), rows(PROFILES))
def test_profile(profile: Profile, thinking: int, tmp_path: Path) -> None:
    prove(profile, thinking, tmp_path)
