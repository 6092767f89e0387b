"""Binding nodes to the resources that they share."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from langgraph.runtime import Runtime

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

    The node finds its own knobs in `runtime.context`, whatever application it is embedded in.

    Args:
        node: The node.
        resources: Passed to each call.
        prepare: Make the resources ready before the node runs; off for a node that does so itself.
    """

    async def bound(state: _State, *, runtime: Runtime[Context]) -> dict[str, Any]:
        runtime = runtime.override(context=as_context(runtime.context))
        if prepare:
            await resources.ready()
        return await node(state, runtime, resources=resources)

    return bound
