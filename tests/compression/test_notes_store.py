"""The notes store: a store that fails costs a distillate, never a run."""

from typing import Any

from langgraph.store.memory import InMemoryStore

from agentinfer_lg.compression.notes_store import NotesStore

_SPACE = ("agentinfer", "notes", "session")


class _Broken(InMemoryStore):
    async def aget(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("the store is gone")

    async def aput(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("the store is gone")


class _Full(InMemoryStore):
    async def aput(self, *_: Any, **__: Any) -> None:
        raise OSError("no space left")


async def test_the_store_keeps_it() -> None:
    store, spare = InMemoryStore(), InMemoryStore()
    notes = NotesStore(store, spare, _SPACE)
    assert await notes.get("a") is None
    await notes.put("a", {"notes": 1})
    assert await notes.get("a") == {"notes": 1}
    await notes.forget("a")
    assert await spare.aget(_SPACE, "a") is None
    assert await notes.get("a") == {"notes": 1}, "only this process forgets it"
    assert await NotesStore(store, InMemoryStore(), _SPACE).get("a") == {"notes": 1}, (
        "another process finds it"
    )
    assert await NotesStore(store, spare, ("agentinfer", "notes", "other")).get("a") is None
    assert notes.problem == ""


async def test_without_a_store_the_spare_does() -> None:
    spare = InMemoryStore()
    await NotesStore(None, spare, _SPACE).put("a", {"notes": 1})
    assert await NotesStore(None, spare, _SPACE).get("a") == {"notes": 1}


async def test_a_failing_store() -> None:
    for store in (_Broken(), _Full()):
        notes = NotesStore(store, InMemoryStore(), _SPACE)
        assert await notes.get("a") is None
        await notes.put("a", {"notes": 1})
        assert await notes.get("a") == {"notes": 1}
        assert notes.problem


async def test_a_store_that_takes_what_it_does_not_keep() -> None:
    class Forgetful(InMemoryStore):
        async def aput(self, *_: Any, **__: Any) -> None:
            return

    notes = NotesStore(Forgetful(), InMemoryStore(), _SPACE)
    await notes.put("a", {"notes": 1})
    assert await notes.get("a") == {"notes": 1}
    assert "does not keep" in notes.problem


async def test_both_stores_fail() -> None:
    notes = NotesStore(_Broken(), _Broken(), _SPACE)
    await notes.put("a", {"notes": 1})
    assert await notes.get("a") is None
    assert "the store is gone" in notes.problem
