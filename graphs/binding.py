"""Binding nodes to the resources that they share."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from langgraph.runtime import Runtime

from agentinfer_lg.collab.effective_policy import effective_context
from agentinfer_lg.context import Context, as_context
from agentinfer_lg.resources import Resources

_State = TypeVar("_State", contravariant=True)


class _Node(Protocol[_State]):
    def __call__(
        self, state: _State, runtime: Runtime[Context], *, resources: Resources
    ) -> Awaitable[dict[str, Any]]: ...


class _Bound(Protocol[_State]):
    def __call__(self, state: _State, *, runtime: Runtime[Context]) -> Awaitable[dict[str, Any]]: ...


def bind(node: _Node[_State], resources: Resources, *, prepare: bool = True) -> _Bound[_State]:
    """Return `node` as LangGraph calls it; a closure, because LangGraph reads the signature.

    The node finds its own knobs in `runtime.context`, whatever application it is embedded in, with the policy that the models
    allow.

    Args:
        node: The node.
        resources: Passed to each call.
        prepare: Make the resources ready before the node runs; off for a node that does so itself.
    """

    async def bound(state: _State, *, runtime: Runtime[Context]) -> dict[str, Any]:
        if prepare:
            context, chosen = await run_of(runtime, resources)
        else:
            context, chosen = as_context(runtime.context), resources
        return await node(state, runtime.override(context=context), resources=chosen)

    return bound


async def run_of(runtime: Runtime[Context], resources: Resources) -> tuple[Context, Resources]:
    """Return the knobs that hold in this run and the resources that it uses, ready.

    Args:
        runtime: With the knobs as the caller set them.
        resources: Of the graph.

    Raises:
        ConfigurationError: Something needed is not configured.
    """
    knobs = as_context(runtime.context)
    chosen = await resources.for_run(knobs)
    return effective_context(knobs, one_model=chosen.models.one_model), chosen
