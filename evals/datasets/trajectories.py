"""Recorded agent sessions as token ids, turn by turn, the way a server would see them.

A session is rendered as plain ChatML (`<|im_start|>speaker`, text, `<|im_end|>`); tool calls are JSON in the
assistant's text (`<tool_call>`), as models write them. What a model wrote, and its end-of-turn token, is an output;
all else is prompt. Each piece is tokenised on its own, so that the prompt of a turn is exactly all that came before:
this is what chat templates do, because they separate pieces by special tokens.

Sets, under the folder of recorded data:

* `tau-airline`, `tau-retail`: tau-bench, in the order of the file (airline: trial by trial, so the same task comes
  again only after all other tasks). The task is the group.
* `webdancer`: deep-research sessions of a reasoning model; tool responses are user messages there. The question is
  the group.
* `who-and-when`: multi-agent runs, one session per run, in the order of the files' numbers. Every text that a model
  wrote is an output. In the runs of Magentic-One, programs around the models wrote the frame of the plans, the
  instructions (copied from the ledger) and what the browser shows: these are prompt. The question is the group.

Any other name is a folder of chats: `*.json` and `*.jsonl` at any depth, in the order of their names. A file (or
line) holds one chat or a list of chats; a chat is a list of messages or an object that has one under `messages`,
`traj` or `history`. A message is `{"role", "content", "tool_calls"}` as in the OpenAI API; the content is a text, a list
of parts with `text`, or null. Messages of the role `assistant` are outputs. Chats with the same `task_id`,
`question_id` or `question_ID` form a group; without one, a chat is its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.serving.sam.types import IntArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Half = Literal["tune", "report", "all"]
"""Parameters are chosen on `tune`; figures are reported on `report`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a recorded chat."""

    speaker: str
    text: str
    generated: bool
    """Whether a model wrote it."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One recorded session as text."""

    id: str
    group: str
    """What sessions on the same task or question share."""
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: its prompt is everything before in the session, and `prompt`."""

    prompt: IntArray
    """Token ids that came since the last output."""
    output: IntArray
    """Token ids that the model generated, with its end-of-turn token."""


@dataclass(frozen=True, slots=True)
class Session:
    """One recorded session as token ids."""

    id: str
    group: str
    turns: tuple[Turn, ...]

    @property
    def tokens(self) -> int:
        """Number of tokens, prompts and outputs."""
        return sum(len(turn.prompt) + len(turn.output) for turn in self.turns)


def load_sessions(
    name: str, *, data: Path | None = None, tokenizer: Path | None = None, limit: int | None = None
) -> list[Session]:
    """Read the sessions of a set, or of a folder of chats, in their order.

    Args:
        name: One of `SETS`, or a folder.
        data: Folder of recorded data; default: the environment variable AGENTINFER_DATA.
        tokenizer: A `tokenizer.json` or a model folder that holds one; default: the demo model's.
        limit: The first so many sessions only.

    Raises:
        UserInputError: No such set, folder or tokenizer, or a file that cannot be read as described above.
    """
    return encode(read_chats(name, data=data)[:limit], load_tokenizer(tokenizer))


def in_half(session: Session, half: Half) -> bool:
    """Whether a session counts in a half. All sessions of a group are in the same one."""
    is_tune = hashlib.sha256(session.group.encode()).digest()[0] % 2 == 0
    return half == "all" or is_tune == (half == "tune")


def read_chats(name: str, *, data: Path | None = None) -> list[Chat]:
    """Read the chats of a set or folder as text.

    Raises:
        UserInputError: No such set or folder, or a file that cannot be read as described above.
    """
    if name in SETS:
        folder, read = SETS[name]
        chats = list(read(_data_folder(data) / folder))
    else:
        chats = list(_folder(Path(name)))
    if not any(message.generated for chat in chats for message in chat.messages):
        msg = f"{name} holds no chat in which a model said something. Sets are {', '.join(SETS)}, or give a folder."
        raise UserInputError(msg)
    return chats


def load_tokenizer(path: Path | None = None) -> Tokenizer:
    """Load a tokenizer.

    Raises:
        UserInputError: The library `tokenizers` is not installed, or the file cannot be read.
    """
    try:
        from tokenizers import Tokenizer as Loader
    except ImportError as error:
        msg = "The replay needs the library `tokenizers`: pip install 'agentinfer-lg[evals]'."
        raise UserInputError(msg) from error
    file = tokenizer_file(path)
    try:
        return Loader.from_file(str(file))
    except Exception as error:  # its failures have no type of their own
        msg = f"{file} is not a tokenizer ({error}). Give a tokenizer.json, or a model folder that holds one."
        raise UserInputError(msg) from error


def tokenizer_file(path: Path | None = None) -> Path:
    """The file of a tokenizer: `path` itself, the one in the model folder `path`, or the demo model's.

    Raises:
        UserInputError: There is no such file.
    """
    if path is None:
        from agentinfer_lg.serving.engine.demo_model import demo_model

        path = demo_model()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        msg = f"There is no tokenizer {file}. Give a tokenizer.json, or a model folder that holds one."
        raise UserInputError(msg)
    return file


def encode(chats: Sequence[Chat], tokenizer: Tokenizer) -> list[Session]:
    """Render chats as ChatML and turn them into token ids. Chats in which no model says anything are left out."""
    pieces = [list(_pieces(chat.messages)) for chat in chats]
    flat = [text for own in pieces for text, _ in own]
    ids = iter(tokenizer.encode_batch(flat, add_special_tokens=False))
    sessions = []
    for chat, own in zip(chats, pieces, strict=True):
        turns = tuple(_turns([(next(ids).ids, generated) for _, generated in own]))
        if turns:
            sessions.append(Session(chat.id, chat.group, turns))
    return sessions


def _pieces(messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
    """Texts that are tokenised on their own, each with whether a model wrote it."""
    for message in messages:
        if message.generated:
            yield f"<|im_start|>{message.speaker}\n", False
            yield f"{message.text}<|im_end|>", True
            yield "\n", False
        else:
            yield f"<|im_start|>{message.speaker}\n{message.text}<|im_end|>\n", False


def _turns(pieces: Sequence[tuple[Sequence[int], bool]]) -> Iterator[Turn]:
    prompt: list[int] = []
    for ids, generated in pieces:
        if generated and len(ids) > 0:
            yield Turn(np.asarray(prompt, dtype=np.int32), np.asarray(ids, dtype=np.int32))
            prompt = []
        else:
            prompt.extend(ids)


def _data_folder(data: Path | None) -> Path:
    name = data or os.environ.get("AGENTINFER_DATA")
    if not name:
        msg = "Say where the recorded data is: --data FOLDER, or the environment variable AGENTINFER_DATA."
        raise UserInputError(msg)
    return Path(name)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file} cannot be read ({error})."
        raise UserInputError(msg) from error


def _read_json(file: Path) -> list[Any]:  # Any: whatever the file holds
    """The JSON values of a file: one, or one per line."""
    text = _read_text(file)
    try:
        lines = text.splitlines() if file.suffix == ".jsonl" else [text]
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        msg = f"{file} is not JSON ({error})."
        raise UserInputError(msg) from error


def _json_files(folder: Path) -> list[Path]:
    files = [file for kind in ("*.json", "*.jsonl") for file in folder.rglob(kind)] if folder.is_dir() else []
    if not files:
        msg = f"{folder} holds no chats. Sets are {', '.join(SETS)}; or give a folder with .json or .jsonl files."
        raise UserInputError(msg)
    return sorted(files, key=lambda file: (file.parent, _number(file), file.name))


def _number(file: Path) -> int:
    return int(file.stem) if file.stem.isdigit() else -1


def _folder(folder: Path) -> Iterator[Chat]:
    for file in _json_files(folder):
        name = file.relative_to(folder).as_posix()
        for number, chat in enumerate(_chats_in(_read_json(file))):
            yield _read_chat(chat, default_id=f"{name}#{number}", where=file)


def _chats_in(values: Sequence[Any]) -> Iterator[Any]:
    """Single chats in the JSON values of a file; a list of messages is one chat, any other list holds several."""
    for value in values:
        messages = isinstance(value, list) and all(
            isinstance(each, dict) and "role" in each for each in value
        )
        if isinstance(value, list) and not messages:
            yield from value
        else:
            yield value


_MESSAGE_KEYS = ("messages", "traj", "history")
_GROUP_KEYS = ("task_id", "question_id", "question_ID")


def _read_chat(chat: Any, *, default_id: str, where: Path) -> Chat:
    fields: Mapping[str, Any] = chat if isinstance(chat, dict) else {}
    messages = next((fields[key] for key in _MESSAGE_KEYS if key in fields), chat)
    try:
        read = tuple(_openai_message(message) for message in messages)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = (
            f"{where} is not a chat ({type(error).__name__}: {error}). Expected a list of messages with role and "
            f"content, or an object that has one under {', '.join(_MESSAGE_KEYS)}."
        )
        raise UserInputError(msg) from error
    group = next((str(fields[key]) for key in _GROUP_KEYS if key in fields), default_id)
    return Chat(default_id, group, read)


def _openai_message(message: Mapping[str, Any]) -> Message:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    calls = [_tool_call(call) for call in message.get("tool_calls") or ()]
    text = "\n".join([*([str(content)] if content else []), *calls])
    role = str(message["role"])
    return Message(role, text, role == "assistant")


def _tool_call(call: Mapping[str, Any]) -> str:
    function = call.get("function", call)
    arguments = function["arguments"]
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # models write broken JSON now and then; it stays as it was
            arguments = json.loads(arguments)
    body = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def _tau(file: Path) -> Iterator[Chat]:
    for entry in _chats_in(_read_json(file)):
        trial = f"{entry.get('task_id')}/{entry.get('trial')}" if isinstance(entry, dict) else "?"
        yield _read_chat(entry, default_id=trial, where=file)


def _webdancer(folder: Path) -> Iterator[Chat]:
    for file in _json_files(folder):
        for number, entry in enumerate(_chats_in(_read_json(file))):
            chat = _read_chat(entry, default_id=str(number), where=file)
            question = next((message.text for message in chat.messages if message.speaker == "user"), chat.id)
            yield Chat(chat.id, question, chat.messages)


def _who_and_when(folder: Path) -> Iterator[Chat]:
    for file in _json_files(folder):
        for run in _read_json(file):
            try:
                messages = tuple(_run_messages(run))
                group = str(run["question_ID"])
            except (KeyError, TypeError, AttributeError) as error:
                msg = f"{file} is not a run of Who&When ({type(error).__name__}: {error})."
                raise UserInputError(msg) from error
            yield Chat(file.relative_to(folder).with_suffix("").as_posix(), group, messages)


def _run_messages(run: Mapping[str, Any]) -> Iterator[Message]:
    for name, prompt in (run.get("system_prompt") or {}).items():
        yield Message("system", f"{name}\n{prompt}", generated=False)
    for number, step in enumerate(run["history"]):
        speaker, text = str(step.get("name") or step["role"]), str(step["content"])
        if speaker == "Orchestrator (thought)":
            yield from _orchestrator(speaker, text)
        else:
            # In a group chat the first message is the task; browsers report the address that they show.
            fixed = number == 0 or _is_program(speaker) or text.startswith("Address: ")
            yield Message(speaker, text, generated=not fixed)


def _is_program(speaker: str) -> bool:
    """Whether messages of this name come from a program or a person; of those who remain, a model wrote them."""
    plain = speaker.replace("_", "").lower()
    return plain in {"computerterminal", "websurfer", "filesurfer", "human"} or plain.startswith(
        "orchestrator"
    )


_FACTS = "Here is an initial fact sheet to consider:\n"
_PLAN = "Here is the plan to follow as best as possible:\n"
_LOG_LINES = re.compile(r"\n/(?:usr|workspace)/\S+:\d+: \w*Warning: .*\Z", re.DOTALL)
"""Warnings of the program that got into the record after a message."""


def _orchestrator(speaker: str, text: str) -> Iterator[Message]:
    """Cut what models wrote (facts, plan, ledger) out of the frame that the program put around it."""
    text = _LOG_LINES.sub("", text)
    if text.startswith("Updated Ledger:") and "{" in text:
        yield Message(speaker, text[text.index("{") :].rstrip(), generated=True)
    elif _FACTS in text and _PLAN in text.partition(_FACTS)[2]:
        frame, _, rest = text.partition(_FACTS)
        facts, _, plan = rest.partition(_PLAN)
        yield Message("user", frame + _FACTS, generated=False)
        yield Message(speaker, facts.strip(), generated=True)
        yield Message("user", _PLAN, generated=False)
        yield Message(speaker, plan.strip(), generated=True)
    else:
        yield Message(speaker, text, generated=False)


_Reader = Callable[[Path], Iterator[Chat]]
SETS: Mapping[str, tuple[str, _Reader]] = {
    "tau-airline": ("tau-bench/gpt-4o-airline.json", _tau),
    "tau-retail": ("tau-bench/retail-tool-calling-none-0.1_range_0-100_user-none-llm_06232025.json", _tau),
    "webdancer": ("webdancer", _webdancer),
    "who-and-when": ("who-and-when", _who_and_when),
}
"""Names of the sets: where each is, and how it is read."""
