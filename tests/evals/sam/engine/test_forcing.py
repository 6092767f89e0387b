"""Which logits are raised: whatever is drafted, the named output comes out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentinfer_lg.evals.sam.engine.forcing import forced_positions

tokens = st.integers(0, 3)


def verify(drafts: list[int], choices: list[int]) -> list[int]:
    """Greedy verification: drafts as far as they agree with the choice of their row, and one choice more."""
    emitted: list[int] = []
    for draft, choice in zip([*drafts, -1], choices, strict=True):
        emitted.append(choice)
        if draft != choice:
            break
    return emitted


@given(
    outputs=st.lists(st.one_of(st.none(), st.lists(tokens, min_size=1, max_size=8)), min_size=1, max_size=4),
    draw=st.data(),
)
def test_a_batch_emits_what_was_named(outputs: list[list[int] | None], draw: st.DataObject) -> None:
    emitted: list[list[int]] = [[] for _ in outputs]
    for _ in range(8):
        drafts = [draw.draw(st.lists(tokens, max_size=3)) for _ in outputs]
        forced = dict(forced_positions(outputs, list(map(len, emitted)), list(map(len, drafts))))
        row = 0
        for number, draft in enumerate(drafts):
            choices = [forced.get(row + j, 9) for j in range(len(draft) + 1)]
            emitted[number] += verify(draft, choices)
            row += len(draft) + 1
        assert all(index < row for index in forced)
    for output, own in zip(outputs, emitted, strict=True):
        if output is None:
            assert set(own) == {9}  # nobody interferes
        else:
            assert own[: len(output)] == output
