"""Settings of drafting are written once, for the operator and for the drafter."""

from dataclasses import fields

import pytest

from agentinfer_lg.errors import ConfigurationError
from agentinfer_lg.serving.sam.config import DraftSettings, SamConfig
from agentinfer_lg.serving.sam.draft.options import DrafterOptions


def test_the_drafter_gets_every_setting_of_the_operator() -> None:
    config = SamConfig(mode="paper", max_draft=5, marginal_cost=0.2, own=False, history=False, top_k=3)
    options = DrafterOptions.of(config, memory_tokens=7)
    for each in fields(DraftSettings):
        assert getattr(options, each.name) == getattr(config, each.name) != each.default
    assert options.history_tokens == 7


def test_the_history_is_bounded_whatever_the_memory_holds() -> None:
    assert DrafterOptions.of(SamConfig(), memory_tokens=10**12) == DrafterOptions()


@pytest.mark.parametrize("kind", [SamConfig, DrafterOptions])
@pytest.mark.parametrize("wrong", [{"max_draft": 0}, {"top_k": 9}, {"marginal_cost": -1.0}])
def test_both_refuse_the_same(kind: type[DraftSettings], wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        kind(**wrong)  # type: ignore[arg-type]
