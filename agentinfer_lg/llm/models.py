"""Both tiers of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentinfer_lg.events import emit
from agentinfer_lg.llm.chat import ChatTier
from agentinfer_lg.llm.given_model import check_model
from agentinfer_lg.settings import EndpointSettings, Settings, Tier

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


class Models:
    """Both tiers of a run."""

    def __init__(
        self, settings: Settings, *, small: BaseChatModel | None = None, large: BaseChatModel | None = None
    ) -> None:
        small, large = check_model(small, tier="small"), check_model(large, tier="large")
        small = small or (large if not settings.small.configured and not settings.large.configured else None)
        large = large or (small if not settings.small.configured and not settings.large.configured else None)
        self.small = ChatTier(
            "small", _endpoint(settings, "small", given=small), model=small, on_wait=_tell_wait
        )
        self.large = ChatTier(
            "large", _endpoint(settings, "large", given=large), model=large, on_wait=_tell_wait
        )

    @property
    def one_model(self) -> bool:
        """Whether both tiers are the same model at the same endpoint, or the same object."""
        return self.small.same_place == self.large.same_place

    def tier(self, name: Tier) -> ChatTier:
        """Return the model of tier `name`."""
        return self.small if name == "small" else self.large


def _tell_wait(sentence: str) -> None:
    emit("wait", "models", text=sentence)


def _endpoint(settings: Settings, tier: Tier, *, given: BaseChatModel | None) -> EndpointSettings:
    return settings.endpoint(tier) if given is None else getattr(settings, tier)
