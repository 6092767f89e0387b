"""Which contexts fit together, without an engine."""

from __future__ import annotations

from dataclasses import dataclass

from agentinfer_lg.serving.sched.policy.cached_context import CachedContext
from agentinfer_lg.serving.sched.policy.kept_contexts import Kept, KeptContexts
from agentinfer_lg.serving.sched.policy.session import Session


@dataclass
class Block:
    block_id: int
    block_hash: str


def kept(text: str, worth: float) -> Kept:
    """A context of a block per letter; those that begin alike share the blocks of their beginning."""
    beginnings = [text[: n + 1] for n in range(len(text))]
    blocks = [Block(hash(each), each) for each in beginnings]
    context = CachedContext(blocks, beginnings)
    return Kept(worth, len(blocks), Session(("", text), context=context))


def names(contexts: KeptContexts) -> list[str]:
    return [each.session.key[1] for each in contexts]


def test_the_most_worthy_are_kept_in_the_order_of_their_worth() -> None:
    contexts = KeptContexts(room=7)
    contexts.replace([kept("abc", 1.0), kept("def", 3.0), kept("ghij", 2.0)])
    assert (names(contexts), contexts.blocks) == (["def", "ghij"], 7)


def test_a_less_worthy_one_gives_way() -> None:
    contexts = KeptContexts(room=6)
    contexts.add(kept("abc", 1.0))
    contexts.add(kept("def", 2.0))
    contexts.add(kept("ghi", 3.0))
    assert (names(contexts), contexts.blocks) == (["ghi", "def"], 6)


def test_one_without_worth_enough_changes_nothing() -> None:
    contexts = KeptContexts(room=3)
    contexts.add(kept("abc", 2.0))
    contexts.add(kept("def", 1.0))
    assert (names(contexts), contexts.blocks) == (["abc"], 3)


def test_a_common_beginning_counts_once() -> None:
    contexts = KeptContexts(room=5)
    contexts.replace([kept("abcx", 2.0), kept("abcy", 1.0)])
    assert (names(contexts), contexts.blocks) == (["abcx", "abcy"], 5)


def test_what_was_evicted_takes_no_room() -> None:
    gone = kept("abc", 5.0)
    del gone.session.context.blocks[:], gone.session.context.hashes[:]
    contexts = KeptContexts(room=3)
    contexts.replace([gone, kept("def", 1.0)])
    assert (names(contexts), contexts.blocks) == (["def"], 3)


def test_a_session_is_discarded_once() -> None:
    contexts = KeptContexts(room=9)
    one = kept("abc", 1.0)
    contexts.replace([one, kept("de", 2.0)])
    contexts.discard(one.session)
    contexts.discard(one.session)
    assert (names(contexts), contexts.blocks) == (["de"], 2)
