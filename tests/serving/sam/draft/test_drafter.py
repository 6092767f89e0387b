"""The drafter as an engine sees it: requests of sessions, steps of batches, tenants, limits, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.hints import SessionHints
from agentinfer_lg.serving.sam.draft.drafter import Drafter
from agentinfer_lg.serving.sam.draft.options import DrafterOptions
from agentinfer_lg.serving.sam.index.memory import ProcessMemory, SqliteMemory

PHRASE = list(range(100, 140))


def ids(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, np.int32)


def unrelated(seed: int, size: int = 200) -> list[int]:
    return np.random.default_rng(seed).integers(1000, 50_000, size).tolist()


def inline(memory: ProcessMemory | None = None, **options: object) -> Drafter:
    return Drafter(DrafterOptions(marginal_cost=0.03, **options), memory=memory, background=False)  # type: ignore[arg-type]


def run_turn(drafter: Drafter, name: str, prompt: list[int], output: list[int], hints: SessionHints) -> None:
    drafter.start(name, ids(prompt), hints=hints)
    for token in output:
        drafter.step([name], [[token]])
    drafter.finish(name)


@pytest.fixture
def background() -> Iterator[Drafter]:
    drafter = Drafter(DrafterOptions(marginal_cost=0.01))
    yield drafter
    drafter.close()


def test_a_session_drafts_from_its_own_prompt() -> None:
    drafter = inline(history=False)
    drafter.start("r", ids(unrelated(0) + PHRASE + unrelated(1)))
    (draft,) = drafter.step(["r"], [PHRASE[:4]])
    assert draft
    assert draft == PHRASE[4 : 4 + len(draft)]


def test_a_session_drafts_from_its_earlier_turns_without_naming_itself() -> None:
    """The next prompt begins with the earlier one; nothing else tells that they belong together."""
    drafter = inline(history=False)
    first = unrelated(0)
    run_turn(drafter, "r0", first, PHRASE, SessionHints())
    assert drafter.stats().live_sessions == 1
    drafter.start("r1", ids(first + PHRASE + unrelated(1)))
    assert drafter.stats().live_sessions == 1
    (draft,) = drafter.step(["r1"], [PHRASE[:4]])
    assert draft == PHRASE[4 : 4 + len(draft)]
    assert draft


def test_a_continued_session_builds_only_what_is_new() -> None:
    drafter = inline()
    first = unrelated(0, 3000)
    run_turn(drafter, "r0", first, PHRASE, SessionHints(session_id="s"))
    before = drafter.stats().built_tokens
    drafter.start("r1", ids(first + PHRASE + [1, 2, 3]), hints=SessionHints(session_id="s"))
    assert drafter.stats().built_tokens - before == 3


def test_a_session_whose_context_was_rewritten_goes_on() -> None:
    drafter = inline(history=False)
    first = unrelated(0, 300)
    hints = SessionHints(session_id="s")
    run_turn(drafter, "r0", first + PHRASE, [7, 8], hints)
    drafter.start("r1", ids(first + unrelated(5)), hints=SessionHints(session_id="s", supersedes=True))
    (draft,) = drafter.step(["r1"], [PHRASE[:4]])
    assert draft == PHRASE[4 : 4 + len(draft)], "what the rewritten context held before is still known"
    assert draft


def test_outputs_of_other_sessions_are_drafted_from_at_once() -> None:
    drafter = inline(own=False)
    run_turn(drafter, "a", unrelated(0), PHRASE, SessionHints(session_id="one"))
    drafter.start("b", ids(unrelated(1)), hints=SessionHints(session_id="two"))
    (draft,) = drafter.step(["b"], [PHRASE[:4]])
    assert draft == PHRASE[4 : 4 + len(draft)]
    assert draft


def test_the_prompt_of_a_final_request_becomes_history() -> None:
    drafter = inline(own=False)
    run_turn(drafter, "a", unrelated(0) + PHRASE, [1], SessionHints(session_id="one", final=True))
    assert drafter.stats().live_sessions == 0
    drafter.start("b", ids(unrelated(1)), hints=SessionHints(session_id="two"))
    (draft,) = drafter.step(["b"], [PHRASE[:4]])
    assert draft == PHRASE[4 : 4 + len(draft)]
    assert draft


def test_a_final_request_does_not_end_a_session_that_goes_on() -> None:
    drafter = inline()
    run_turn(drafter, "a", unrelated(0), [1], SessionHints(session_id="s"))
    run_turn(drafter, "b", unrelated(1), [1], SessionHints(session_id="s", final=True))
    assert drafter.stats().live_sessions == 1


@pytest.mark.parametrize("top_k", [0, 4])
@pytest.mark.parametrize("named", [True, False])
def test_tenants_never_see_each_other(top_k: int, named: bool) -> None:
    memory = ProcessMemory()
    drafter = inline(memory, top_k=top_k)
    name = "s" if named else ""
    secret = unrelated(0) + PHRASE
    run_turn(drafter, "a", secret, PHRASE, SessionHints(session_id=name, tenant="one", final=True))
    run_turn(drafter, "a2", secret, PHRASE, SessionHints(session_id=name, tenant="one"))
    drafter.close()
    for again in (drafter, inline(memory, top_k=top_k)):
        again.start("b", ids(unrelated(0)), hints=SessionHints(session_id=name, tenant="two"))
        assert again.step(["b"], [PHRASE[:4]]) == [[]]
        again.finish("b")


def test_memory_is_drafted_from_after_a_restart(tmp_path: Path) -> None:
    memory = SqliteMemory(tmp_path, fingerprint="model")
    drafter = inline(memory)
    run_turn(drafter, "a", unrelated(0), PHRASE, SessionHints(session_id="one"))
    drafter.close()
    memory.close()
    again = inline(SqliteMemory(tmp_path, fingerprint="model"), own=False)
    again.start("b", ids(unrelated(1)))
    (draft,) = again.step(["b"], [PHRASE[:4]])
    assert draft == PHRASE[4 : 4 + len(draft)]
    assert draft


def test_memory_of_another_model_is_not_read(tmp_path: Path) -> None:
    drafter = inline(SqliteMemory(tmp_path, fingerprint="model"))
    run_turn(drafter, "a", unrelated(0), PHRASE, SessionHints(session_id="one"))
    drafter.close()
    again = inline(SqliteMemory(tmp_path, fingerprint="another"), own=False)
    again.start("b", ids(unrelated(1)))
    assert again.step(["b"], [PHRASE[:4]]) == [[]]


def test_no_draft_until_the_automaton_is_built_and_none_is_lost(background: Drafter) -> None:
    """Tokens that come in during the build are taken in afterwards."""
    prompt = unrelated(0, 60_000) + PHRASE + unrelated(1)
    background.start("r", ids(prompt))
    drafts = [background.step(["r"], [[token]])[0] for token in PHRASE[:8]]
    early = background.stats().unready
    background.drain()
    (draft,) = background.step(["r"], [[PHRASE[8]]])
    assert draft == PHRASE[9 : 9 + len(draft)]
    assert draft
    assert early == sum(not each for each in drafts)
    assert background.stats().backlog == 0


def test_a_request_may_end_while_it_is_built(background: Drafter) -> None:
    background.start("r", ids(unrelated(0, 100_000)))
    background.step(["r"], [[1]])
    background.finish("r")
    background.drain()
    assert background.stats().failures == 0
    assert background.step(["r"], [[2]]) == [[]]


def test_a_long_output_outgrows_the_automaton_and_goes_on() -> None:
    drafter = Drafter(DrafterOptions(marginal_cost=0.0, history=False), background=False)
    drafter.start("r", ids(PHRASE))
    output = np.random.default_rng(0).integers(0, 30_000, 40_000).tolist()
    for begin in range(0, len(output), 100):
        drafter.step(["r"], [output[begin : begin + 100]])
    (draft,) = drafter.step(["r"], [PHRASE[:6]])
    assert draft == PHRASE[6 : 6 + len(draft)]
    assert draft


def test_limits_are_kept() -> None:
    drafter = inline(max_draft=8, history=False)
    drafter.start("r", ids(unrelated(0) + PHRASE + unrelated(1) + PHRASE + unrelated(2)))
    for limit in (0, 1, 3, 100):
        draft = drafter.step(["r"], [PHRASE[:5]], limits=[limit])[0]
        assert len(draft) <= min(limit, 8)


def test_acceptance_is_counted_by_source() -> None:
    drafter = inline(history=False)
    drafter.start("r", ids(unrelated(0) + PHRASE + unrelated(1)))
    (draft,) = drafter.step(["r"], [PHRASE[:4]])
    right = PHRASE[4 : 4 + len(draft)]
    drafter.step(["r"], [[*right, 5]])
    stats = drafter.stats()
    assert stats.drafted == stats.accepted == len(right)
    assert stats.sources["own"].accepted == len(right)
    assert (stats.passes, stats.emitted, stats.drafts) == (1, len(right) + 1, 1)


def test_wrong_drafts_grow_rare() -> None:
    """A source that is always wrong is soon not believed any more."""
    drafter = inline(history=False)
    generator = np.random.default_rng(0)
    prompt = generator.integers(0, 50, 2000).tolist()
    drafter.start("r", ids(prompt))
    drafted = [len(drafter.step(["r"], [[token]])[0]) for token in generator.integers(0, 50, 3000).tolist()]
    assert sum(drafted[-500:]) < 0.5 * sum(drafted[:500])


def test_expensive_verification_silences_it() -> None:
    drafter = Drafter(DrafterOptions(marginal_cost=2.0, history=False), background=False)
    drafter.start("r", ids(unrelated(0) + PHRASE))
    assert drafter.step(["r"], [PHRASE[:4]]) == [[]]


def test_paper_mode_drafts_three_tokens_and_stops_at_its_limits() -> None:
    options = DrafterOptions(mode="paper", top_k=4, paper_max_context=1000, paper_max_batch=2)
    drafter = Drafter(options, background=False)
    drafter.start("r", ids(unrelated(0) + PHRASE))
    assert drafter.step(["r"], [PHRASE[:4]]) == [PHRASE[4:7]]
    assert drafter.step(["r", "x", "y"], [[PHRASE[4]], [], []]) == [[], [], []]
    drafter.start("long", ids(unrelated(1, 1200) + PHRASE))
    assert drafter.step(["long"], [PHRASE[:4]]) == [[]]


def test_paper_mode_drafts_from_similar_sessions() -> None:
    drafter = Drafter(DrafterOptions(mode="paper", top_k=2), background=False)
    shared = unrelated(9, 300)
    run_turn(drafter, "a", shared, PHRASE, SessionHints(session_id="one", final=True))
    drafter.start("b", ids(shared + unrelated(1, 20)), hints=SessionHints(session_id="two"))
    assert drafter.step(["b"], [PHRASE[:4]]) == [PHRASE[4:7]]
    assert drafter.stats().history_tokens == 0


def test_parallel_requests_of_one_session_do_not_disturb_each_other() -> None:
    drafter = inline(history=False)
    hints = SessionHints(session_id="s")
    drafter.start("a", ids(unrelated(0) + PHRASE), hints=hints)
    drafter.start("b", ids(unrelated(1)), hints=hints)
    first, second = drafter.step(["a", "b"], [PHRASE[:4], PHRASE[:4]])
    assert first == PHRASE[4 : 4 + len(first)]
    assert second == []


def test_live_sessions_are_bounded() -> None:
    drafter = inline(live_tokens=5000)
    for number in range(20):
        prompt = unrelated(number, 1000)
        run_turn(drafter, f"r{number}", prompt, [1, 2], SessionHints(session_id=f"s{number}"))
    stats = drafter.stats()
    assert stats.live_tokens <= 5000
    assert stats.history_tokens > 10_000, "sessions that made room are remembered"


def test_history_is_bounded_over_all_tenants() -> None:
    drafter = inline(history_tokens=8000)
    for number in range(40):
        hints = SessionHints(session_id=f"s{number}", tenant=f"t{number % 5}", final=True)
        run_turn(drafter, f"r{number}", unrelated(number, 1000), [1, 2], hints)
    assert drafter.stats().history_tokens <= 8000 + 2000


def test_a_prompt_that_finds_no_room_is_served_without_drafts() -> None:
    drafter = inline(live_tokens=1000)
    run_turn(drafter, "r", unrelated(0, 5000) + PHRASE, PHRASE, SessionHints(session_id="s"))
    assert drafter.stats().drafted == 0
    assert drafter.stats().failures == 0


def test_a_context_of_128k_tokens(background: Drafter) -> None:
    prompt = unrelated(0, 131_000) + PHRASE
    background.start("r", ids(prompt))
    background.drain()
    (draft,) = background.step(["r"], [PHRASE[:5]])
    assert draft == PHRASE[5 : 5 + len(draft)]
    assert draft


def test_a_thousand_sessions_at_once(background: Drafter) -> None:
    names = [f"r{number}" for number in range(1000)]
    phrases = [unrelated(number, 30) for number in range(1000)]
    for number, name in enumerate(names):
        hints = SessionHints(session_id=f"s{number}")
        background.start(name, ids(phrases[number] + unrelated(number + 5000, 50)), hints=hints)
    background.drain()
    drafts = background.step(names, [phrase[:4] for phrase in phrases])
    for phrase, draft in zip(phrases, drafts, strict=True):
        assert draft == phrase[4 : 4 + len(draft)]
    assert sum(map(len, drafts)) > 1000
    for name in names:
        background.finish(name)
    background.drain()
    assert background.stats().failures == 0
    assert background.stats().live_sessions == 1000


def test_random_bytes_as_tokens() -> None:
    generator = np.random.default_rng(1)
    drafter = inline()
    for number in range(30):
        raw = np.frombuffer(generator.bytes(4 * 500), np.int32)
        drafter.start(f"r{number}", raw)
        for _ in range(5):
            drafter.step([f"r{number}"], [np.frombuffer(generator.bytes(12), np.int32).tolist()])
        drafter.finish(f"r{number}")
    assert drafter.stats().failures == 0


def test_steps_while_history_is_written(background: Drafter) -> None:
    """Long sessions join the history while others are being drafted for."""
    text = np.random.default_rng(2).integers(0, 500, 40_000).tolist()
    background.start("busy", ids(text[:5000]))
    background.drain()
    for number in range(6):
        hints = SessionHints(session_id=f"s{number}", final=True)
        background.start(f"r{number}", ids(text[number * 5000 :]), hints=hints)
        background.finish(f"r{number}")
    for token in text[5000:7000]:
        background.step(["busy"], [[token]])
    background.drain()
    assert background.stats().failures == 0
    assert background.stats().history_tokens > 50_000
    (draft,) = background.step(["busy"], [text[7000:7004]])
    assert draft == text[7004 : 7004 + len(draft)]


@pytest.mark.parametrize(
    "wrong",
    [{"max_draft": 0}, {"max_draft": 65}, {"top_k": 9}, {"marginal_cost": -1.0}, {"history_tokens": -1}],
)
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        DrafterOptions(**wrong)  # type: ignore[arg-type]
