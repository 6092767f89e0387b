"""A closed loop: N at the same time, the next one when one is done."""

import asyncio
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.context import Context
from agentinfer_lg.errors import EndpointError
from agentinfer_lg.evals.agent.closed_loop import Answered, Task, run_closed_loop
from agentinfer_lg.evals.datasets.question import Question
from agentinfer_lg.result import Result, build_result


class FakeAsker:
    """Needs as many turns of the event loop as the question says, or fails."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.running = 0
        self.running_at_starts: list[int] = []
        self.asked: list[str] = []
        self.seconds = seconds

    async def ask(self, question: str, context: Context, *, thread: str) -> Result:
        self.running += 1
        self.running_at_starts.append(self.running)
        self.asked.append(thread)
        try:
            for _ in range(int(question.split()[0])):
                await asyncio.sleep(self.seconds)
            if "fails" in question:
                msg = "no endpoint answers"
                raise EndpointError(msg)
            return build_result({"answer": f"to {question}"}, thread=thread, seconds=0.0)
        finally:
            self.running -= 1


def tasks(questions: Sequence[str], benchmark: str = "b") -> list[Task]:
    return [
        Task(benchmark=benchmark, question=Question(id=f"q{number}", question=text, answer="x"))
        for number, text in enumerate(questions)
    ]


def run(
    given: Sequence[Task], asker: FakeAsker, places: int, done: list[Answered] | None = None
) -> tuple[list[Answered], float]:
    seen: list[Answered] = [] if done is None else done
    return asyncio.run(run_closed_loop(given, {"b": asker}, Context(), places=places, on_done=seen.append))


@given(turns=st.lists(st.integers(1, 6), max_size=25), places=st.integers(1, 8))
def test_as_many_as_there_are_places_and_all_in_order(turns: list[int], places: int) -> None:
    asker, done = FakeAsker(), list[Answered]()
    answered, _ = run(tasks([f"{count} turns" for count in turns]), asker, places, done)
    assert max(asker.running_at_starts, default=0) == min(places, len(turns))
    assert asker.asked == [f"q{number}" for number in range(len(turns))]
    assert [each.task.question.id for each in answered] == asker.asked
    assert [each.result and each.result["answer"] for each in answered] == [
        f"to {count} turns" for count in turns
    ]
    assert sorted(each.task.question.id for each in done) == sorted(asker.asked)


def test_places_are_never_empty_while_tasks_wait() -> None:
    asker = FakeAsker()
    run(tasks([f"{1 + number % 3} turns" for number in range(20)]), asker, 4)
    assert asker.running_at_starts[3:] == [4] * 17


def test_a_failure_does_not_stop_the_others() -> None:
    answered, _ = run(tasks(["3 turns", "1 fails", "2 turns", "0 fails", "1 turn"]), FakeAsker(), 2)
    assert [each.failure for each in answered] == ["", "no endpoint answers", "", "no endpoint answers", ""]
    assert [each.result is None for each in answered] == [False, True, False, True, False]


def test_seconds_count_from_taking_a_task_up() -> None:
    answered, seconds = run(tasks(["1 turn"] * 4), FakeAsker(seconds=0.1), 1)
    assert all(each.seconds > 0.09 for each in answered)
    assert sum(each.seconds for each in answered) <= seconds  # waiting for a place does not count
    answered, seconds = run(tasks(["1 turn"] * 4), FakeAsker(seconds=0.1), 4)
    assert max(each.seconds for each in answered) <= seconds < sum(each.seconds for each in answered)


def test_each_benchmark_has_its_asker() -> None:
    one, two = FakeAsker(), FakeAsker()
    mixed = [*tasks(["0 a"], "one"), *tasks(["0 b", "0 c"], "two")]
    began = time.monotonic()
    answered, seconds = asyncio.run(run_closed_loop(mixed, {"one": one, "two": two}, Context(), places=3))
    assert seconds <= time.monotonic() - began
    assert (len(one.asked), len(two.asked)) == (1, 2)
    assert [each.task.benchmark for each in answered] == ["one", "two", "two"]
