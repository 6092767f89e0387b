"""Headers that keep the requests of a session where its cache is: on one replica, and there on one data-parallel rank.

A router in front of several servers sees headers, not what is inside a request, so the session id travels as a header
too; consistent hashing of it is all that such a router must do. A vLLM server with data parallel takes the rank itself
from a header. The rank follows from the session id alone: every process that continues a session finds the same one.
"""

from __future__ import annotations

import re
from hashlib import blake2b

SESSION_HEADER = "X-Session-ID"
"""Read by vLLM and by its router; any other router can hash it."""
RANK_HEADER = "X-data-parallel-rank"
"""Read by vLLM."""

_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def affinity_headers(session_id: str, *, ranks: int = 1) -> dict[str, str]:
    """Return the headers of a request of that session; none without a session.

    Args:
        session_id: Identity of the session. One that is no plain word, and may be a user's text, is sent as a digest.
        ranks: Data-parallel ranks of the server; with one, no rank is named.
    """
    if not session_id:
        return {}
    headers = {SESSION_HEADER: session_id if _PLAIN.fullmatch(session_id) else _digest(session_id).hex()}
    if ranks > 1:
        headers[RANK_HEADER] = str(session_rank(session_id, ranks))
    return headers


def session_rank(session_id: str, ranks: int) -> int:
    """Return the data-parallel rank, of `ranks`, that the session belongs to."""
    return int.from_bytes(_digest(session_id)) % ranks


def _digest(session_id: str) -> bytes:
    return blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
