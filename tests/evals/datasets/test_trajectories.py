from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.datasets.trajectories import (
    Chat,
    Message,
    Session,
    encode,
    in_half,
    load_sessions,
    load_tokenizer,
    read_chats,
)


def text(tokenizer: Tokenizer, ids: Any) -> str:
    letters = "".join(tokenizer.id_to_token(int(token)) for token in ids)
    return letters.replace("Ġ", " ").replace("Ċ", "\n")


def write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city":"Bern"}'}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "found"},
    {"role": "assistant", "content": [{"type": "text", "text": "In Bern."}]},
    {"role": "user", "content": "Thanks."},
]


def test_a_chat_is_cut_into_prompts_and_outputs(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    write(tmp_path / "chat.json", CHAT)
    (session,) = encode(read_chats(str(tmp_path)), byte_tokenizer)
    assert [
        (text(byte_tokenizer, turn.prompt), text(byte_tokenizer, turn.output)) for turn in session.turns
    ] == [
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n",
            '<tool_call>\n{"name": "find", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>',
        ),
        (
            "\n<|im_start|>tool\nfound<|im_end|>\n<|im_start|>assistant\n",
            "In Bern.<|im_end|>",
        ),
    ]
    assert session.tokens == sum(len(turn.prompt) + len(turn.output) for turn in session.turns)
    assert all(turn.prompt.dtype == np.int32 and turn.output.flags.c_contiguous for turn in session.turns)


@pytest.mark.parametrize("key", ["messages", "traj", "history"])
def test_a_folder_may_hold_objects_lists_and_lines(tmp_path: Path, key: str) -> None:
    write(tmp_path / "b" / "10.json", {key: CHAT, "task_id": 7})
    write(tmp_path / "b" / "9.json", [{key: CHAT}, {key: CHAT, "question_id": "q"}])
    lines = "\n".join(json.dumps(value) for value in (CHAT, {key: CHAT}))
    (tmp_path / "a.jsonl").write_text(lines + "\n", encoding="utf-8")
    chats = read_chats(str(tmp_path))
    assert [chat.id for chat in chats] == [
        "a.jsonl#0",
        "a.jsonl#1",
        "b/9.json#0",
        "b/9.json#1",
        "b/10.json#0",
    ]
    assert [chat.group for chat in chats] == ["a.jsonl#0", "a.jsonl#1", "b/9.json#0", "q", "7"]
    assert len({chat.messages for chat in chats}) == 1


def test_broken_arguments_of_a_tool_call_stay_as_the_model_wrote_them(tmp_path: Path) -> None:
    call = {"function": {"name": "find", "arguments": '{"city": '}}
    write(tmp_path / "chat.json", [{"role": "assistant", "content": "Look.", "tool_calls": [call]}])
    (chat,) = read_chats(str(tmp_path))
    (message,) = chat.messages
    assert message.text.startswith("Look.\n<tool_call>\n")
    assert json.loads(message.text.splitlines()[2])["arguments"] == '{"city": '


def test_tau_bench_keeps_the_order_of_trials_and_groups_them_by_task(tmp_path: Path) -> None:
    runs = [{"task_id": task, "trial": trial, "traj": CHAT} for trial in range(2) for task in range(3)]
    write(tmp_path / "tau-bench" / "gpt-4o-airline.json", runs)
    chats = read_chats("tau-airline", data=tmp_path)
    assert [chat.id for chat in chats] == ["0/0", "1/0", "2/0", "0/1", "1/1", "2/1"]
    assert [chat.group for chat in chats] == ["0", "1", "2"] * 2


def test_webdancer_groups_by_question_and_takes_tool_responses_as_prompt(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Search."},
        {"role": "user", "content": "User: who?"},
        {"role": "assistant", "content": "<think>hm</think>\n<tool_call>{}</tool_call>"},
        {"role": "user", "content": "<tool_response>nobody</tool_response>"},
        {"role": "assistant", "content": "<answer>nobody</answer>"},
    ]
    folder = tmp_path / "webdancer"
    folder.mkdir()
    (folder / "sample.jsonl").write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    (chat,) = read_chats("webdancer", data=tmp_path)
    assert chat.group == "User: who?"
    assert [message.generated for message in chat.messages] == [False, False, True, False, True]


def test_who_and_when_takes_what_models_wrote_as_output(tmp_path: Path) -> None:
    warning = "\n/usr/lib/orchestrator.py:216: UserWarning: Model mismatch.\n  more of it"
    plan = (
        "Initial plan:\n\nThe request:\n\nwho?\n\nHere is an initial fact sheet to consider:\n\nfacts\n\n"
        f"Here is the plan to follow as best as possible:\n\nplan\n{warning}"
    )
    magentic = [
        {"role": "human", "content": "who?"},
        {"role": "Orchestrator (thought)", "content": plan},
        {"role": "Orchestrator (thought)", "content": 'Updated Ledger:\n{"is_in_loop": {}}\n'},
        {"role": "Orchestrator (-> WebSurfer)", "content": "Look it up."},
        {"role": "Orchestrator (thought)", "content": "Next speaker WebSurfer"},
        {"role": "WebSurfer", "content": "I typed 'who'."},
        {"role": "Assistant", "content": "It was Bob."},
    ]
    group_chat = [
        {"role": "assistant", "name": "Expert", "content": "You are given: a task"},
        {"role": "user", "name": "Checker", "content": "Let us see."},
        {"role": "user", "name": "Computer_terminal", "content": "exitcode: 0"},
        {"role": "assistant", "name": "Web_Expert", "content": "Address: https://example.org"},
        {"role": "assistant", "name": "Expert", "content": "Done."},
    ]
    folder = tmp_path / "who-and-when"
    run = {
        "question_ID": "q1",
        "history": group_chat,
        "system_prompt": {"Expert": "Know.", "Checker": "Check."},
    }
    write(folder / "Algorithm-Generated" / "1.json", run)
    write(folder / "Hand-Crafted" / "2.json", {"question_ID": "q2", "history": magentic})
    chats = read_chats("who-and-when", data=tmp_path)
    assert [(chat.id, chat.group) for chat in chats] == [
        ("Algorithm-Generated/1", "q1"),
        ("Hand-Crafted/2", "q2"),
    ]
    outputs = [[message.text for message in chat.messages if message.generated] for chat in chats]
    assert outputs == [["Let us see.", "Done."], ["facts", "plan", '{"is_in_loop": {}}', "It was Bob."]]
    assert chats[0].messages[0] == Message("system", "Expert\nKnow.", generated=False)
    assert all("UserWarning" not in message.text for message in chats[1].messages)


def test_all_sessions_of_a_group_are_in_one_half_and_halves_are_even() -> None:
    sessions = [Session(str(number), str(number // 4), ()) for number in range(800)]
    report = [session for session in sessions if in_half(session, "report")]
    assert 300 < len(report) < 500
    assert {s.group for s in report}.isdisjoint(s.group for s in sessions if in_half(s, "tune"))
    assert sum(in_half(session, "tune") for session in sessions) == len(sessions) - len(report)
    assert all(in_half(session, "all") for session in sessions)


def test_a_chat_without_outputs_gives_no_session(byte_tokenizer: Tokenizer) -> None:
    silent = Chat("a", "a", (Message("user", "hello", generated=False),))
    assert encode([silent], byte_tokenizer) == []


def test_limit_takes_the_first_sessions(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    write(tmp_path / "chats" / "a.json", [{"messages": CHAT} for _ in range(5)])
    byte_tokenizer.save(str(tmp_path / "tokenizer.json"))
    sessions = load_sessions(str(tmp_path / "chats"), tokenizer=tmp_path, limit=2)
    assert [session.id for session in sessions] == ["a.json#0", "a.json#1"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "is not a chat"),
        ('{"other": 1}', "is not a chat"),
        ('[{"role": "user", "content": "hello"}]', "no chat in which a model said something"),
    ],
)
def test_files_that_hold_no_chat_are_named(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserInputError, match=sentence):
        read_chats(str(tmp_path))


def test_missing_data_and_tokenizers_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTINFER_DATA", raising=False)
    with pytest.raises(UserInputError, match="AGENTINFER_DATA"):
        read_chats("tau-airline")
    with pytest.raises(UserInputError, match="cannot be read"):
        read_chats("tau-airline", data=tmp_path)
    with pytest.raises(UserInputError, match="holds no chats"):
        read_chats(str(tmp_path / "nowhere"))
    with pytest.raises(UserInputError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserInputError, match="is not a tokenizer"):
        load_tokenizer(tmp_path)
