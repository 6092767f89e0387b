"""Where runs are saved: one SQLite database for checkpoints and one for the store, under `Settings.home`.

Several processes may use them at once (write-ahead log, busy timeout). A file that is not a database is set
aside, not deleted. When a run can no longer be saved (full disk, file gone read-only), `DurableSaver` copies
what the run has saved so far into memory and goes on there: the run ends in a report, and `failure` says why
it cannot be resumed.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.sqlite.aio import AsyncSqliteStore

from agentinfer_lg.errors import CheckpointError
from agentinfer_lg.settings import Settings

__all__ = ("DurableSaver", "open_checkpointer", "open_store")

_T = TypeVar("_T")

_BUSY_SECONDS: Final = 30.0
"""How long a write waits for another process to finish its own."""

_OUT_OF_ROOM: Final = ("full", "disk I/O error")

_CORRUPT: Final = ("not a database", "malformed", "file is encrypted")

logger = logging.getLogger(__name__)


class DurableSaver(AsyncSqliteSaver):
    """An `AsyncSqliteSaver` that goes on in memory when its database can no longer be written.

    Args:
        conn: Open connection to the database.
        path: Where the database is, for messages.
    """

    failure: str
    """Why the run is no longer saved; empty while it is."""
    set_aside: Path | None
    """Where a corrupt database was moved when this one was opened in its place."""

    def __init__(self, conn: aiosqlite.Connection, *, path: Path) -> None:
        super().__init__(conn)
        self.failure = ""
        self.set_aside = None
        self._path = path
        self._disk = conn
        self._threads: set[str] = set()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read a checkpoint, from memory once the database failed."""
        self._remember(config)
        return await super().aget_tuple(config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save a checkpoint, in memory once the database failed."""
        self._remember(config)
        save = super().aput
        return await self._saved(lambda: save(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Save the writes of one task, in memory once the database failed."""
        self._remember(config)
        save = super().aput_writes
        await self._saved(lambda: save(config, writes, task_id, task_path))

    async def aclose(self) -> None:
        """Close the database, and the memory that replaced it."""
        for connection in {self.conn, self._disk}:
            with suppress(sqlite3.Error, ValueError):  # ValueError: closed already
                await connection.close()

    def _remember(self, config: RunnableConfig) -> None:
        self._threads.add(str(config["configurable"]["thread_id"]))

    async def _saved(self, save: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await save()
        except (sqlite3.Error, OSError) as error:
            if self.failure or not _is_environmental(error):
                raise
            await self._move_to_memory(error)
        return await save()

    async def _move_to_memory(self, error: Exception) -> None:
        """Replace the connection by one to memory that holds what this process's threads have saved."""
        async with self.lock:
            if self.failure:  # a save that ran at the same time has moved already
                return
            with suppress(sqlite3.Error):
                await self._disk.rollback()
            memory = await aiosqlite.connect(":memory:")
            fresh = AsyncSqliteSaver(memory)
            await fresh.setup()
            for table in ("checkpoints", "writes"):
                await self._copy_rows(table, memory)
            await memory.commit()
            self.conn = memory
            self.is_setup = True
            self.failure = _failure_sentence(self._path, error)
        logger.warning("%s", self.failure)

    async def _copy_rows(self, table: str, memory: aiosqlite.Connection) -> None:
        """Copy the rows of this process's threads; what can no longer be read is left behind."""
        with suppress(sqlite3.Error):
            for thread in sorted(self._threads):
                async with self._disk.execute(
                    f"SELECT * FROM {table} WHERE thread_id = ?", (thread,)
                ) as rows:
                    names = [column[0] for column in rows.description]
                    marks = ", ".join("?" * len(names))
                    insert = f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})"
                    async for row in rows:
                        await memory.execute(insert, tuple(row))


def _is_environmental(error: Exception) -> bool:
    """Whether the machine is to blame (full disk, permissions, broken file) and not a wrong statement."""
    if isinstance(error, OSError | sqlite3.OperationalError):
        return True
    return type(error) is sqlite3.DatabaseError


def _failure_sentence(path: Path, error: Exception) -> str:
    return (
        f"This run is no longer saved and cannot be resumed from here: writing {path} failed ({error}). "
        "Free some space there, or set AGENTINFER_HOME to another folder."
    )


@asynccontextmanager
async def open_checkpointer(settings: Settings) -> AsyncIterator[DurableSaver]:
    """Open `checkpoints.sqlite` under `settings.home`, creating both where needed.

    Yields:
        A saver for `compile(checkpointer=...)`. Its `failure` is not empty when the disk was full from the
        start.

    Raises:
        CheckpointError: The folder or the database cannot be written.
    """
    path = _prepare_home(settings) / "checkpoints.sqlite"
    saver, set_aside = await _open_saver(path), None
    if saver is None:
        set_aside = _set_aside(path)
        saver = await _open_saver(path)
    if saver is None:  # not even a new file can be read back
        msg = f"{path} cannot be used as a database. Set AGENTINFER_HOME to another folder."
        raise CheckpointError(msg)
    saver.set_aside = set_aside
    try:
        yield saver
    finally:
        await saver.aclose()


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[AsyncSqliteStore]:
    """Open `store.sqlite` under `settings.home`, creating both where needed.

    Raises:
        CheckpointError: The folder or the database cannot be written.
    """
    path = _prepare_home(settings) / "store.sqlite"
    connection = await _connect(path, isolation_level=None)
    try:
        store = AsyncSqliteStore(connection)
        try:
            await connection.execute("PRAGMA journal_mode=WAL")
            await store.setup()
        except sqlite3.Error as error:
            raise _cannot_use(path, error) from error
        yield store
    finally:
        await connection.close()


def _prepare_home(settings: Settings) -> Path:
    home = settings.home.expanduser()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_use(home, error) from error
    return home


async def _connect(path: Path, *, isolation_level: str | None = "") -> aiosqlite.Connection:
    try:
        # Tried first without aiosqlite: when its connect fails, its thread may outlive the event loop and complain.
        await asyncio.to_thread(lambda: sqlite3.connect(path, timeout=_BUSY_SECONDS).close())
        return await aiosqlite.connect(path, timeout=_BUSY_SECONDS, isolation_level=isolation_level)
    except (sqlite3.Error, OSError) as error:
        raise _cannot_use(path, error) from error


async def _open_saver(path: Path) -> DurableSaver | None:
    """Open and set up the database; None if the file is no database."""
    connection = await _connect(path)
    saver = DurableSaver(connection, path=path)
    try:
        await _set_up(saver)
    except sqlite3.Error as error:
        if any(sign in str(error) for sign in _OUT_OF_ROOM):
            await saver._move_to_memory(error)
            return saver
        await saver.aclose()
        if any(sign in str(error) for sign in _CORRUPT):
            return None
        raise _cannot_use(path, error) from error
    except BaseException:
        await saver.aclose()
        raise
    return saver


async def _set_up(saver: DurableSaver) -> None:
    """Create the tables and check that the file can be written.

    Turning on the write-ahead log does not wait for other processes as writes do, so it is tried again.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            await saver.setup()
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    await saver.conn.execute("PRAGMA synchronous=NORMAL")  # with a write-ahead log this survives kill -9
    await saver.conn.execute("BEGIN IMMEDIATE")
    await saver.conn.rollback()


def _set_aside(path: Path) -> Path:
    target = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.rename(target)
        for suffix in ("-wal", "-shm"):
            side = path.with_name(path.name + suffix)
            if side.exists():
                side.rename(target.with_name(target.name + suffix))
    except OSError as error:
        raise _cannot_use(path, error) from error
    logger.warning("%s is not a readable database: it was moved to %s, a new one was begun.", path, target)
    return target


def _cannot_use(path: Path, error: Exception) -> CheckpointError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return CheckpointError(
        f"Runs cannot be saved in {path} ({reason}). Set AGENTINFER_HOME to a folder that you can write, "
        "or pass --no-checkpoint."
    )
