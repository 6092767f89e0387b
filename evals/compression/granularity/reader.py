"""How the benchmark's reader answers: one plain question over the transcript, or first a few steps that may recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage

from agentinfer_lg.compression.distillate import Distillate
from agentinfer_lg.compression.lacking import lacking
from agentinfer_lg.compression.originals import recall_text
from agentinfer_lg.compression.view import Compaction
from agentinfer_lg.context import Context
from agentinfer_lg.evals.compression.granularity.session import DetailSession, Probe, contains
from agentinfer_lg.llm.calling import Caller
from agentinfer_lg.llm.chat import Guide
from agentinfer_lg.llm.protocol import Action, Choices, Step, action_regex, action_schema, parse_step
from agentinfer_lg.llm.transcript import step_message, write_transcript
from agentinfer_lg.nodes.seeker.compaction import seeker_view
from agentinfer_lg.nodes.seeker.evidence import select_passages
from agentinfer_lg.prompts import PROMPTS, number_passages
from agentinfer_lg.state import CallRecord, SeekerState, Source

RecallBy = Literal["model", "guided", "code"]
"""`model`: it recalls or answers as it likes. `guided`: where the notes lack what a distilled result says about the question
(`compression.lacking`), the first step must recall that result. `code`: such a result is recalled without asking the
model."""

MAX_RECALLS = 2
_ANSWER_TOKENS = 80


@dataclass(frozen=True, slots=True)
class Recall:
    """One use of the tool."""

    number: int
    about: str
    held: bool
    """Whether what came back contains the detail."""


@dataclass(slots=True)
class Asked:
    """An answer and what it took."""

    answer: str = ""
    thoughts: list[str] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)


async def ask(
    caller: Caller,
    session: DetailSession,
    probe: Probe,
    *,
    notes: Distillate | None,
    recall: RecallBy | None = None,
) -> Asked:
    """Ask one probe.

    Args:
        caller: Calls the reader (the large tier).
        session: Where it is asked, after the last round.
        probe: The question.
        notes: What stands for the old results; None leaves the transcript whole.
        recall: Who decides to recall up to `MAX_RECALLS` results first; None: nobody.

    Raises:
        EndpointError: No endpoint answers.
    """
    asked = Asked()
    messages = list(session.messages)
    needed = _needed(session, probe, notes) if notes is not None and recall not in (None, "model") else None
    if recall == "code" and needed:
        messages += _recall(caller.context, session, probe, _step_of_code(needed, probe), asked)
    known = notes.numbers if notes is not None and recall in ("model", "guided") else ()
    for attempt in range(MAX_RECALLS):
        left = tuple(number for number in known if number not in {r.number for r in asked.recalls})
        if not left:
            break
        must = needed is not None and not attempt
        possible = Choices(
            search=False, recall=(needed,) if needed and must else left, answer=not must, results=True
        )
        step = await _step(caller, session, probe, messages, notes, possible, asked)
        if step is None:
            break
        messages += _recall(caller.context, session, probe, step, asked)
    written = _written(session, probe, messages, notes, caller.context, recall=recall is not None)
    written[-1] = HumanMessage(_instead(str(written[-1].content), session, probe))
    called = await caller.call("large", written, role="qa", max_tokens=_ANSWER_TOKENS)
    asked.calls.append(called.record)
    asked.answer = called.reply.text
    return asked


async def read(caller: Caller, session: DetailSession, probe: Probe) -> Asked:
    """Ask as the seeker's reading call does when a step says `answer`: over the originals that match the question best.

    Raises:
        EndpointError: No endpoint answers.
    """
    prompts = PROMPTS[session.language]
    originals = {str(original.number): original for original in session.originals}
    sources = {
        key: Source(key=key, uri=key, title=original.title, passages=[original.text], read=True)
        for key, original in originals.items()
    }
    numbers = [str(number) for number in range(1, max(map(int, originals)) + 1)]
    passages = select_passages(
        sources, numbers, [probe.question], tokens=caller.context.max_observation_tokens
    )
    prompt = prompts.read_answer.format(passages=number_passages(passages), question=probe.question)
    called = await caller.call("large", [HumanMessage(prompt)], role="qa", max_tokens=_ANSWER_TOKENS)
    return Asked(answer=called.reply.text, calls=[called.record])


async def _step(
    caller: Caller,
    session: DetailSession,
    probe: Probe,
    messages: Sequence[AnyMessage],
    notes: Distillate | None,
    possible: Choices,
    asked: Asked,
) -> AIMessage | None:
    """Let the model choose; None: it wants to answer."""
    called = await caller.call(
        "large",
        _written(session, probe, messages, notes, caller.context, recall=True),
        role="think",
        max_tokens=caller.context.max_thought_tokens,
        guide=Guide(schema=action_schema(possible), regex=action_regex(possible)),
    )
    asked.calls.append(called.record)
    asked.thoughts.append(called.reply.text)
    step = parse_step(called.reply.text)
    if not step.actions or step.actions[0].tool != "recall":
        return None
    return step_message(step, message_id=f"ask-{len(asked.recalls)}", raw=called.reply.text)


def _needed(session: DetailSession, probe: Probe, notes: Distillate) -> int | None:
    # Without the strings that are only listed: nothing tells what each of them is, so they answer no question.
    found = lacking(session.originals, notes.text(PROMPTS[session.language], recall=False), [probe.question])
    return found[0].number if found else None


def _recall(
    context: Context, session: DetailSession, probe: Probe, step: AIMessage, asked: Asked
) -> list[AnyMessage]:
    """What the tool `recall` of the seeker gives back."""
    arguments = step.tool_calls[0]["args"]
    number, about = arguments["ticket"], arguments.get("query", "") or probe.question
    text = recall_text(session.originals, number, about, tokens=context.max_observation_tokens)
    asked.recalls.append(Recall(number, about, contains(text, probe.answer)))
    name = f"recalled-{len(asked.recalls)}"
    return [step, ToolMessage(text, tool_call_id=step.tool_calls[0]["id"], id=name)]


def _step_of_code(number: int, probe: Probe) -> AIMessage:
    """The step with which a model would have recalled a result for the question."""
    action = Action(tool="recall", arguments={"ticket": number, "query": probe.question})
    return step_message(Step(thought=probe.question, actions=(action,)), message_id="ask-0", raw=None)


def _written(
    session: DetailSession,
    probe: Probe,
    messages: Sequence[AnyMessage],
    notes: Distillate | None,
    context: Context,
    *,
    recall: bool,
) -> list[BaseMessage]:
    """The transcript as the model sees it; only its end speaks of the probe, as if it had just come up."""
    prompts = PROMPTS[session.language]
    compaction = None if notes is None else _compaction(session, notes.text(prompts, recall=recall))
    state = cast(
        SeekerState,
        {"messages": list(messages), "compression": {"swap": compaction}, "language": session.language},
    )
    written = write_transcript(
        seeker_view(state, context), mode="json", prompts=prompts, question=session.task
    )
    last = str(written[-1].content).removesuffix("\n" + prompts.next_step.format(question=session.task))
    written[-1] = HumanMessage(f"{last}\n{prompts.next_step.format(question=probe.question)}")
    return written


def _compaction(session: DetailSession, text: str) -> Compaction:
    return Compaction(
        ticket="notes", upto=session.upto, folded="", text=text, turn=0, tokens_before=0, tokens_after=0
    )


def _instead(last: str, session: DetailSession, probe: Probe) -> str:
    """End with the plain question, in the words in which the seeker's reading call puts it."""
    prompts = PROMPTS[session.language]
    last = last.removesuffix(prompts.next_step.format(question=probe.question)).rstrip()
    question = prompts.read_answer.format(passages="", question=probe.question).rpartition("\n\n")[2]
    return f"{last}\n\n{question}"
