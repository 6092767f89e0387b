"""Which logits to raise so that an engine emits given tokens, drafts or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

FORCED_TOKENS = "forced_tokens"
"""Name among `vllm_xargs`: a list of token ids, the whole output of the request."""


def forced_positions(
    outputs: Sequence[Sequence[int] | None], emitted: Sequence[int], drafted: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield each row of logits that is forced, and the token it is forced to.

    Args:
        outputs: Per request, in the order of the rows, its whole output; None: not forced.
        emitted: Tokens that it has emitted so far.
        drafted: Draft tokens verified in this step. A request has one row more than that: row j decides on the token
            after `emitted + j` ones, and counts only if all drafts before it were right.
    """
    row = 0
    for output, done, drafts in zip(outputs, emitted, drafted, strict=True):
        if output is not None:
            yield from ((row + j, token) for j, token in enumerate(output[done : done + drafts + 1]))
        row += drafts + 1
