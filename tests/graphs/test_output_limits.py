"""How long an output may be is a knob, for every call that a run makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fake_openai import Brain, FakeOpenAI, Reply

from agentinfer_lg import Context, EndpointSettings, Settings, create_deep_research_graph

QUESTION = "When was Heron Point Light lit?"
BRAIN = Brain()
_LIMITS = {
    "max_plan_tokens": 301,
    "max_thought_tokens": 302,
    "max_check_tokens": 303,
    "max_answer_tokens": 304,
    "max_reading_tokens": 305,
    "max_report_tokens": 306,
}


def _asks_a_document_first(request: dict[str, Any], index: int) -> Reply:
    """Search, ask the document a question, answer."""
    hints = request["vllm_xargs"]
    if hints["agent_role"] != "think" or hints["agent_turn"] != 1:
        return BRAIN(request, index)
    return Reply(tool_calls=(("document_qa", {"source": 1, "question": "Who lit it?"}),))


def _has_the_answer_read(request: dict[str, Any], index: int) -> Reply:
    """Search, then ask for the answer to be read."""
    hints = request["vllm_xargs"]
    if hints["agent_role"] != "think" or hints["agent_turn"] == 0:
        return BRAIN(request, index)
    return BRAIN.act(request, "finish", {"answer": "", "sources": [1], "thought": "It is there."})


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "heron.md").write_text("# Heron Point\n\nHeron Point Light was lit in 1871 by Ada Winter.\n")
    return folder


@pytest.mark.parametrize(
    ("mode", "script", "reading"),
    [("native", _asks_a_document_first, 305), ("json", _has_the_answer_read, 304)],
)
async def test_every_call_has_the_limit_of_its_knob(docs: Path, mode: Any, script: Any, reading: int) -> None:
    """Natively a document is asked; in the other form an answer is read out of all that was found."""
    with FakeOpenAI(script) as server:
        small, large = (
            EndpointSettings(base_url=server.url, model=f"fake-{name}", tool_calling=mode)
            for name in ("small", "large")
        )
        settings = Settings(small=small, large=large, docs=docs, home=docs.parent / "home", _env_file=None)
        graph = create_deep_research_graph(settings=settings)
        context = Context.model_validate({"progress_checks": "all", **_LIMITS})
        await graph.ainvoke({"question": QUESTION}, context=context)
        seen = {(chat.role, chat.body["max_tokens"]) for chat in server.chats}
    assert seen == {
        ("plan", 301),
        ("think", 302),
        ("progress", 303),
        ("qa", reading),
        ("write", 306),
    }
