"""The waiting queue: vLLM's first-come-first-served one, whose order can be replaced."""

from __future__ import annotations

from collections.abc import Iterable

from vllm.v1.core.sched.request_queue import FCFSRequestQueue
from vllm.v1.request import Request


class ScoreQueue(FCFSRequestQueue):  # type: ignore[misc]  # vLLM has no types for us
    """A queue in the order that it is given; requests that arrive later stand behind it until the next order."""

    def replace(self, requests: Iterable[Request]) -> None:
        """Let the queue contain exactly `requests`, in this order."""
        ordered = list(requests)
        self.clear()
        self.extend(ordered)
