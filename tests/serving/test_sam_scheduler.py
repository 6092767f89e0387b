"""Steps that compute a prompt verify no drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from agentinfer_lg.serving.sam.config import SamConfig
from agentinfer_lg.serving.sam.flags import sam_flags
from agentinfer_lg.serving.sam.scheduler import SCHEDULER, drop_drafts_before_prefill


@dataclass
class Request:
    num_computed_tokens: int
    num_prompt_tokens: int = 10
    spec_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])


def scheduler(running: Sequence[Request], *, waiting: int = 0, seats: int = 4) -> SimpleNamespace:
    return SimpleNamespace(running=list(running), waiting=[object()] * waiting, max_num_running_reqs=seats)


def test_decoding_alone_keeps_its_drafts() -> None:
    made = scheduler([Request(12), Request(10)])
    assert drop_drafts_before_prefill(made) == 0
    assert [request.spec_token_ids for request in made.running] == [[1, 2, 3], [1, 2, 3]]


def test_drafts_are_dropped_when_a_request_will_be_let_in() -> None:
    made = scheduler([Request(12), Request(15)], waiting=1)
    assert drop_drafts_before_prefill(made) == 6
    assert [request.spec_token_ids for request in made.running] == [[], []]


def test_drafts_are_dropped_while_a_long_prompt_is_computed_in_parts() -> None:
    made = scheduler([Request(12), Request(4, spec_token_ids=[])])
    assert drop_drafts_before_prefill(made) == 3


def test_drafts_stay_while_nobody_can_be_let_in() -> None:
    made = scheduler([Request(12)] * 4, waiting=3, seats=4)
    assert drop_drafts_before_prefill(made) == 0


@pytest.mark.parametrize(
    ("config", "extra", "ours"),
    [
        (SamConfig(), (), True),
        (SamConfig(prefill_first=False), (), False),
        (SamConfig(), ("--scheduler-cls", "their.Scheduler"), False),
    ],
)
def test_the_scheduler_can_be_switched_off_or_replaced(
    config: SamConfig, extra: tuple[str, ...], ours: bool
) -> None:
    flags = sam_flags(config, extra_args=extra, environ={}).flags
    assert (("scheduler-cls", SCHEDULER) in flags) is ours
