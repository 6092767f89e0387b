"""The model behind a stand-in server: it follows its prompts, knows nothing but them, and thinks at a given length."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from support.fake_openai import constraint, content_text, minimal_instance, minimal_match, render_prompt
from support.stand_in.exchange import Chat, Json, count_tokens

__all__ = (
    "ANSWER",
    "FACT",
    "MARKERS",
    "QUESTION",
    "SENTINEL",
    "Agent",
    "Thought",
    "beside",
    "inline",
    "silent_on",
)

QUESTION = "How deep is the Orlen reservoir?"
ANSWER = "42 metres"
FACT = f"The Orlen reservoir is {ANSWER} deep."
SENTINEL = "wombatic"
"""In every thought and nowhere else."""
MARKERS = (
    "<think", "</think", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|start|>", "<thought", "</thought",
    "◁think▷", "◁/think▷", "<|START_THINKING|>", "<|END_THINKING|>", "<seed:think>", "<reasoning>", "</reasoning>",
    "<reflection>", "<|begin_of_thought|>", "<|channel>",
)  # fmt: skip

_MUSING = f'Hmm, {SENTINEL}: is it 7 metres? {SENTINEL} {{"questions": ["{SENTINEL}?"]}} [1] I had {SENTINEL} say so. '

Place = Callable[["Thought"], Json]
"""Puts a thought and a text into one message."""
ToolForm = Callable[[str, Json], str]
"""Writes a tool call as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """What was thought and what was said."""

    thought: str
    text: str
    closed: bool
    """Whether the thought came to its end."""


def beside(*names: str) -> Place:
    """Return thoughts in fields of their own, as servers with a reasoning parser do."""

    def place(said: Thought) -> Json:
        content = said.text if said.closed else None
        return {"content": content, **(dict.fromkeys(names, said.thought) if said.thought else {})}

    return place


def inline(opening: str, closing: str, *, before: str = "", after: str = "") -> Place:
    """Return thoughts as a part of the content.

    Args:
        opening: Before the thought; empty where the chat template has written it into the prompt.
        closing: After it.
        before: At the very start of each message, thought or not.
        after: At its very end.
    """

    def place(said: Thought) -> Json:
        if not said.thought:
            return {"content": said.text}
        start = f"{before}{opening}{said.thought}"
        return {"content": f"{start}{closing}{said.text}{after}" if said.closed else start}

    return place


def silent_on(*ways: str) -> Callable[[Chat], bool]:
    """Return whether a request asks for no thinking in one of `ways`.

    Args:
        ways: `template` (`chat_template_kwargs`), `effort` (`reasoning_effort`), `slash` (`/no_think` in the prompt),
            `field` (`enable_thinking` of the body), `thinking` (`thinking: {type: disabled}`).
    """

    def asked(chat: Chat) -> bool:
        body = chat.body
        found = {
            "template": False in (body.get("chat_template_kwargs") or {}).values(),
            "effort": body.get("reasoning_effort") in ("none", "minimal", "low"),
            "slash": "/no_think" in render_prompt(body),
            "field": body.get("enable_thinking") is False,
            "thinking": (body.get("thinking") or {}).get("type") == "disabled",
        }
        return any(found[way] for way in ways)

    return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One model, with its manners."""

    thinking: int = 0
    """Tokens that it thinks before each answer."""
    place: Place = field(default_factory=lambda: beside("reasoning_content"))
    silent: Callable[[Chat], bool] | None = None
    """Whether it does not think on a request."""
    thinks_when_guided: bool = True
    """Without a reasoning parser a grammar begins with the first token, and leaves no room for a thought."""
    guided: Literal["obeyed", "ignored"] = "obeyed"
    tools: Literal["called", "ignored"] = "called"
    tool_form: ToolForm | None = None
    """How it writes tool calls as text; None: the server parses them."""

    def complete(self, chat: Chat) -> Json:
        """Answer a request."""
        text, calls = self._say(chat)
        if calls and self.tool_form:
            text, calls = "\n".join([text, *(self.tool_form(name, values) for name, values in calls)]), ()
        said, left = self._think(chat, text)
        message = {"role": "assistant", **self.place(said)}
        written = count_tokens(said.thought) + count_tokens(said.text)
        finish = "length" if left is not None and left < count_tokens(text) + _size(calls) else "stop"
        if calls and said.closed:
            message["tool_calls"] = [
                _call(chat.number, i, name, values, None if left is None else left * 4)
                for i, (name, values) in enumerate(calls)
            ]
            written += _size(calls)
            finish = "length" if finish == "length" else "tool_calls"
        return {
            "id": f"chatcmpl-{chat.number}",
            "object": "chat.completion",
            "created": 1_767_225_600,
            "model": chat.body.get("model", ""),
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": chat.prompt_tokens,
                "completion_tokens": written,
                "total_tokens": chat.prompt_tokens + written,
                "completion_tokens_details": {"reasoning_tokens": count_tokens(said.thought)},
            },
        }

    def _think(self, chat: Chat, text: str) -> tuple[Thought, int | None]:
        """Return what is thought and said within the limit, and the tokens that the thought leaves."""
        limit = chat.limit
        wanted = 0 if self._is_silent(chat) else self.thinking
        thought = (_MUSING * (wanted * 4 // len(_MUSING) + 1))[: wanted * 4]
        if limit is None:
            return Thought(thought=thought, text=text, closed=True), None
        if wanted and wanted >= limit:
            return Thought(thought=thought[: limit * 4], text="", closed=False), 0
        left = limit - wanted
        return Thought(thought=thought, text=text[: left * 4], closed=True), left

    def _is_silent(self, chat: Chat) -> bool:
        if self.guided == "obeyed" and not self.thinks_when_guided and constraint(chat.body):
            return True
        return self.silent is not None and self.silent(chat)

    def _say(self, chat: Chat) -> tuple[str, tuple[tuple[str, Json], ...]]:
        body, prompt = chat.body, "\n".join(content_text(message) for message in chat.messages)
        if body.get("tools") and self.tools == "called" and body.get("tool_choice") != "none":
            if (found := _call_tool(body, prompt)) is not None:
                return found
        elif found := self._guide(body):
            return _guided(*found, prompt), ()
        return _free(prompt, content_text(chat.messages[-1]) if chat.messages else ""), ()

    def _guide(self, body: Json) -> tuple[str, Any] | None:
        found = constraint(body)
        if self.guided == "ignored" or (found and found[1] == {"type": "object", "properties": {}}):
            return None
        return found


def _size(calls: tuple[tuple[str, Json], ...]) -> int:
    return sum(count_tokens(name + json.dumps(values)) for name, values in calls)


def _call(request: int, index: int, name: str, values: Json, characters: int | None) -> Json:
    arguments = json.dumps(values)[:characters]
    return {
        "id": f"call_{request}_{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _wanted(prompt: str) -> Json:
    """What the agent would fill into any form."""
    known, number = FACT in prompt, _source(prompt)
    return {
        "thought": "The results say it." if known else "I will search.",
        "known": FACT if known else "nothing yet",
        "missing": "nothing" if known else "the depth",
        "action": "answer" if known else "search",
        "query": "Orlen reservoir depth",
        "queries": ["Orlen reservoir depth"],
        "questions": [QUESTION],
        "answer": FACT,
        "sources": [number],
        "source": number,
    }


def _source(prompt: str) -> int:
    found = re.findall(r"\[(\d+)\][^\[]*?" + re.escape(ANSWER), prompt)
    return int(found[-1]) if found else 1


def _call_tool(body: Json, prompt: str) -> tuple[str, tuple[tuple[str, Json], ...]] | None:
    tools = {item["function"]["name"]: item["function"] for item in body["tools"]}
    asked_for = (body.get("tool_choice") or {}) if isinstance(body.get("tool_choice"), dict) else {}
    last = (body.get("messages") or [{}])[-1]
    values = _wanted(prompt)
    if QUESTION not in prompt:  # somebody tries the tools out
        if last.get("role") == "tool":
            return None
        name = asked_for.get("function", {}).get("name") or next(
            (n for n in tools if n in prompt), next(iter(tools))
        )
    else:
        name = "finish" if FACT in prompt and "finish" in tools else next(iter(tools))
    arguments = minimal_instance(tools[name].get("parameters") or {"type": "object"}, wanted=values)
    return str(values["thought"]), ((name, arguments),)


def _guided(kind: str, value: Any, prompt: str) -> str:
    if kind == "json":
        return json.dumps(minimal_instance(value, wanted=_wanted(prompt)), ensure_ascii=False)
    if kind == "choice":
        return next((str(choice) for choice in value if "TRUE" in str(choice)), str(value[0]))
    for text in (_VERDICT, json.dumps(_wanted(prompt))):
        if re.fullmatch(value, text):
            return text
    return minimal_match(value)


_VERDICT = "===PROGRESS===\n<reason>the step brings news</reason> <value>TRUE</value>\n===END_PROGRESS==="


def _free(prompt: str, last: str) -> str:
    """Answer without a form to fill in, as the words of the prompt ask."""
    if "===PROGRESS===" in last:
        return _VERDICT
    values = _wanted(prompt)
    if '"questions"' in last:
        return json.dumps({"questions": [QUESTION]})
    if re.search(r"JSON object per step|\"action\"", prompt):
        names = ("known", "missing") if FACT in prompt else ("thought",)
        told = {name: values[name] for name in (*names, "action")}
        return json.dumps(told | ({} if FACT in prompt else {"query": values["query"]}))
    if FACT in prompt:
        return f"{FACT} [{_source(prompt)}]" if re.search(r"report|cite", last) else ANSWER
    return "It is not known." if QUESTION in prompt else "Hello."
