"""One sqlite file of finished sessions: opened, checked, set aside when it is corrupt, read and written row by row.

Errors are passed on as they come (`sqlite3.Error`, `OSError`); `agentinfer_lg.serving.sam.index.memory` decides what they mean
for the engine. Nothing here locks between threads: the caller does.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FORMAT_VERSION: Final = 1
"""Kept in `user_version`; a file of another version is set aside."""

MAX_INFLATION: Final = 1_032
"""Bytes that one byte of a deflate stream can stand for."""

_APPLICATION_ID: Final = 0x53414D31
_BUSY_SECONDS: Final = 5.0
"""How long a statement waits for another process to finish its own."""
_OPEN_SECONDS: Final = 10.0
"""How long opening waits for another process that is opening, checking or setting aside the same file."""
_SET_ASIDE_KEPT: Final = 3
"""Corrupt files kept for whoever wants to look: they hold text of users, and take room."""

_ENVIRONMENT: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
    }
)
"""Primary result codes that tell of the disk or of other processes, not of the content of the file."""

_COLUMNS: Final = "tenant, session, finished_at, length, tokens, digest"

_SCHEMA: Final = (
    """CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        tenant BLOB NOT NULL,
        session BLOB NOT NULL,
        finished_at REAL NOT NULL,
        length INTEGER NOT NULL CHECK (typeof(length) = 'integer' AND length > 0),
        tokens BLOB NOT NULL CHECK (typeof(tokens) = 'blob'),
        digest BLOB NOT NULL,
        UNIQUE (tenant, session)
    )""",
    "CREATE INDEX sessions_finished_at ON sessions (finished_at)",
    "CREATE TABLE totals (sessions INTEGER NOT NULL, tokens INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0, 0)",
    """CREATE TRIGGER sessions_added AFTER INSERT ON sessions BEGIN
        UPDATE totals SET sessions = sessions + 1, tokens = tokens + new.length;
    END""",
    """CREATE TRIGGER sessions_removed AFTER DELETE ON sessions BEGIN
        UPDATE totals SET sessions = sessions - 1, tokens = tokens - old.length;
    END""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)

logger = logging.getLogger(__name__)


class ForeignFileError(Exception):
    """The file is a sqlite file, but not one of ours, of another version, or damaged inside."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it is in the file, its values not yet trusted."""

    tenant: object
    session: object
    finished_at: object
    length: object
    tokens: object
    digest: object
    """Of all but the time; tells a row that a failing disk has changed, even if only the name of its tenant."""


def is_corruption(error: BaseException) -> bool:
    """Whether `error` says that the content of the file is wrong, rather than that the disk or the moment is."""
    if isinstance(error, ForeignFileError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.DatabaseError) and code is not None and code & 0xFF not in _ENVIRONMENT


def open_session_file(path: Path, *, suspect: tuple[int, int] | None = None) -> SessionFile:
    """Open the file at `path`, or begin it; a corrupt one is set aside first, with a warning.

    On a read-only disk a file that is there already is opened for reading.

    Args:
        path: Its folder is made when missing, for the owner only.
        suspect: Identity (`SessionFile.identity`) of a file that turned out corrupt in use. It is set aside even if it
            looks sound, unless another process has done so by now.

    Raises:
        OSError: The folder or the file cannot be made or read.
        sqlite3.Error: It cannot be opened now.
        ForeignFileError: It is corrupt and on a read-only disk.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            return _open_writable(path, suspect)
    except (OSError, sqlite3.Error) as error:
        if not _is_read_only(error) or not path.is_file():
            raise
    return SessionFile(path, read_only=True)


def files_set_aside(path: Path) -> list[Path]:
    """Corrupt files that were at `path`, the oldest first, each followed by its log."""

    def order(found: Path) -> tuple[int, str]:
        number = found.name.removesuffix("-wal").rpartition("-")[2]
        return (int(number) if number.isdecimal() else 0, found.name)

    return sorted(path.parent.glob(f"{path.name}.corrupt-*"), key=order)


class SessionFile:
    """An open file of sessions.

    Every commit is in the write-ahead log before a method returns: a killed process loses nothing that was committed, a
    power cut may lose the last moments, and neither leaves a file that cannot be read.

    Args:
        path: Made with mode 0600 when missing.
        read_only: Open a file on a disk that cannot be written; what another process left in the log is not seen.
    """

    identity: tuple[int, int]
    """Device and inode."""
    sessions: int
    """Number of sessions after the last change made here."""
    tokens: int
    """Number of tokens in them."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.sessions = self.tokens = 0
        if not read_only:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{'mode=ro&immutable=1' if read_only else 'mode=rw'}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection.text_factory = bytes  # text in a damaged row need not be UTF-8
        try:
            self.identity = _identity(path) or (0, 0)
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    @property
    def in_place(self) -> bool:
        """Whether the path still leads to this file: it may have been deleted, or set aside by another process."""
        return _identity(self.path) == self.identity

    def put(self, row: StoredRow, *, max_tokens: int, oldest: float) -> None:
        """Insert `row` as the newest, in place of an older one of the same tenant and session, and apply the limits.

        Args:
            row: What to store.
            max_tokens: Oldest sessions beyond so many tokens in all are removed.
            oldest: Sessions finished before this time, in seconds since the epoch, are removed.
        """
        values = (row.tenant, row.session, row.finished_at, row.length, row.tokens, row.digest)
        with self._transaction():
            self._run("DELETE FROM sessions WHERE tenant = ? AND session = ?", values[:2])
            self._run(f"INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
            self._trim(max_tokens, oldest)

    def trim(self, *, max_tokens: int, oldest: float, now: float) -> int:
        """Apply the limits of `put`, and give freed room back to the disk; return how many rows told of an impossible length.

        Sessions from the future were stored by a clock that was wrong: their age counts from `now`. The totals, which
        decide what is removed, are counted anew, without rows that cannot be right or would push out all others.
        """
        with self._transaction():
            wrong = self._run(
                "DELETE FROM sessions WHERE 4 * length > ? * length(tokens)", (MAX_INFLATION,)
            ).rowcount
            self._run("DELETE FROM sessions WHERE length > ?", (max_tokens,))
            self._run("DELETE FROM totals")
            self._run("INSERT INTO totals SELECT count(*), coalesce(sum(length), 0) FROM sessions")
            self._run("UPDATE sessions SET finished_at = ? WHERE finished_at > ?", (now, now))
            self._trim(max_tokens, oldest)
        self._run("PRAGMA incremental_vacuum").fetchall()
        return wrong

    def keys(self) -> list[tuple[int, int]]:
        """Row ids and lengths in tokens of all sessions, the newest first."""
        return self._run("SELECT id, length FROM sessions ORDER BY id DESC").fetchall()

    def row(self, key: int) -> StoredRow | None:
        """The row with the id `key`, unless it has gone."""
        found = self._run(f"SELECT {_COLUMNS} FROM sessions WHERE id = ?", (key,)).fetchone()
        return StoredRow(*found) if found else None

    def drop(self, key: int) -> None:
        """Remove one row."""
        if not self.read_only:
            self._run("DELETE FROM sessions WHERE id = ?", (key,))
            self._count()

    def forget(self, tenant: bytes) -> int:
        """Remove all sessions of `tenant`, from the log too; return how many there were."""
        count = self._run("DELETE FROM sessions WHERE tenant = ?", (tenant,)).rowcount
        self._run("PRAGMA incremental_vacuum").fetchall()
        self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._count()
        return count

    def close(self) -> None:
        """Close the file; what is in the log moves into it, if no other process has it open."""
        self._connection.close()

    def _trim(self, max_tokens: int, oldest: float) -> None:
        self._run("DELETE FROM sessions WHERE finished_at < ?", (oldest,))
        self._count()
        surplus = self.tokens - max_tokens
        if surplus > 0:
            for key, length in self._run("SELECT id, length FROM sessions ORDER BY id"):
                surplus -= length
                if surplus <= 0:
                    self._run("DELETE FROM sessions WHERE id <= ?", (key,))
                    self._count()
                    break

    def _count(self) -> None:
        self.sessions, self.tokens = self._run("SELECT sessions, tokens FROM totals").fetchone()

    def _prepare(self) -> None:
        self._run("PRAGMA trusted_schema = OFF")
        self._run("PRAGMA cell_size_check = ON")
        if not self.read_only and self._is_empty():
            self._begin()
        if (self._pragma("application_id"), self._pragma("user_version")) != (
            _APPLICATION_ID,
            FORMAT_VERSION,
        ):
            msg = f"not a file of sessions in version {FORMAT_VERSION}"
            raise ForeignFileError(msg)
        problem = self._pragma("quick_check")
        if problem != b"ok":
            msg = f"damaged: {problem!r}"[:200]
            raise ForeignFileError(msg)
        if not self.read_only:
            self._configure()
        self._count()

    def _begin(self) -> None:
        self._run("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
        self._configure()
        with self._transaction():
            if self._is_empty():  # still, now that no other process can begin it
                for statement in _SCHEMA:
                    self._run(statement)

    def _configure(self) -> None:
        self._run("PRAGMA journal_mode = WAL")
        self._run("PRAGMA synchronous = NORMAL")
        self._run("PRAGMA secure_delete = ON")  # text that is removed is overwritten, not only unlinked

    def _is_empty(self) -> bool:
        tables = self._run("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return not (tables or self._pragma("application_id") or self._pragma("user_version"))

    def _pragma(self, name: str) -> object:
        row = self._run(f"PRAGMA {name}").fetchone()
        return row[0] if row else None

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except UnicodeDecodeError as error:  # the names of columns, or an error that quotes the schema
            msg = "damaged: names that are no text"
            raise ForeignFileError(msg) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # the first error is the one to report
                if self._connection.in_transaction:
                    self._run("ROLLBACK")
            raise


def _open_writable(path: Path, suspect: tuple[int, int] | None) -> SessionFile:
    if suspect is not None and _identity(path) == suspect:
        _set_aside(path, "an error while it was in use")
    try:
        return SessionFile(path)
    except (sqlite3.Error, ForeignFileError) as error:
        if not is_corruption(error):
            raise
        _set_aside(path, str(error))
    return SessionFile(path)


def _set_aside(path: Path, why: str) -> None:
    """Rename the file and its log; a new one can begin at `path`, whichever rename was the last before a crash."""
    older = files_set_aside(path)
    taken = [found.name.removesuffix("-wal").rpartition("-")[2] for found in older]
    number = 1 + max((int(name) for name in taken if name.isdecimal()), default=0)
    target = path.with_name(f"{path.name}.corrupt-{number}")
    path.rename(target)
    with suppress(FileNotFoundError):
        path.with_name(f"{path.name}-wal").rename(f"{target}-wal")
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    logger.warning(
        "The session memory %s cannot be read (%s). It is now %s; a new one begins.", path, why, target.name
    )
    for old in older:
        if int(old.name.removesuffix("-wal").rpartition("-")[2] or 0) <= number - _SET_ASIDE_KEPT:
            old.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`.

    Raises:
        TimeoutError: Another process has held it all the time.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _OPEN_SECONDS
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    msg = f"another process holds {path}"
                    raise TimeoutError(msg) from None
                time.sleep(0.02)
            except OSError as error:  # a network disk without locks: sqlite's own have to do
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                break
        yield
    finally:
        os.close(handle)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_read_only(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        codes = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes
    return isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
