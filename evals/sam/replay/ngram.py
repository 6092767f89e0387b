"""Prompt lookup, with the results of vLLM's n-gram proposer."""

from __future__ import annotations

import numba

from agentinfer_lg.serving.sam.types import IntArray


@numba.njit(cache=True, nogil=True)
def prompt_lookup(tokens: IntArray, shortest: int, longest: int, k: int) -> IntArray:
    """What followed the earliest occurrence of the longest n-gram that `tokens` ends with.

    Args:
        tokens: The context.
        shortest: Tokens of the shortest n-gram that counts.
        longest: Tokens of the longest n-gram compared.
        k: Most tokens to return.

    Returns:
        A view of at most `k` tokens; empty if no n-gram of `shortest` or more occurs before.
    """
    total = tokens.shape[0]
    length, found = 0, 0
    for end in range(total - 1):
        same = 0
        while same < longest and same <= end and tokens[end - same] == tokens[total - 1 - same]:
            same += 1
        if same > length:
            length, found = same, end
        if length == longest:
            break
    if length < shortest:
        return tokens[:0]
    return tokens[found + 1 : min(found + 1 + k, total)]
