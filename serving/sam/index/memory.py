"""Token ids of finished sessions, kept so that a restarted engine drafts from them at once.

Memory never stops the engine: a corrupt file is set aside, a disk that cannot be written costs persistence only, and each
is told once through `logging`. What is stored is text of users, so it is readable by the owner alone, bounded in size
and age, kept apart by tenant, and named by a hash: no text of a user ever becomes part of a path.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
import platformdirs

from agentinfer_lg.errors import AgentInferError, ConfigurationError
from agentinfer_lg.serving.sam.index.session_file import (
    MAX_INFLATION,
    ForeignFileError,
    SessionFile,
    StoredRow,
    files_set_aside,
    is_corruption,
    open_session_file,
)
from agentinfer_lg.serving.sam.types import IntArray

_T = TypeVar("_T")

_MAX_TOKENS: Final = 20_000_000
_MAX_AGE_DAYS: Final = 30.0
_RETRY_SECONDS: Final = 60.0
"""How long a disk that failed is left alone."""
_DAY: Final = 86_400.0

_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
"""Files that decide which id stands for which text; `*.tiktoken` counts too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StoredSession:
    """A finished session."""

    tenant: str
    session: str
    tokens: IntArray
    finished_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """What a memory holds, and what it would not take."""

    sessions: int
    tokens: int
    bytes: int
    """On disk, with the write-ahead log; in process, of the token ids."""
    persistent: bool
    """Whether what is put now outlives the process."""
    dropped: int = 0
    """Stored sessions that could not be read back, and were removed."""
    refused: int = 0
    """Sessions that `put` did not take: longer than the limit, or not token ids."""


class SessionMemory(Protocol):
    """Keeps finished sessions; may be called from any thread, and never raises for what the disk does."""

    def put(self, *, tenant: str, session: str, tokens: IntArray) -> None:
        """Insert the tokens of a session, or replace them; durable when it returns."""
        ...

    def sessions(self, *, max_tokens: int) -> Iterator[StoredSession]:
        """Yield sessions, the newest first, of at most `max_tokens` tokens in all; read one by one.

        A session that does not fit in what is left is passed over.
        """
        ...

    def forget(self, *, tenant: str) -> int:
        """Remove all sessions of a tenant; return their number.

        Raises:
            AgentInferError: Some may still be there.
        """
        ...

    def close(self) -> None:
        """Release files; what is put afterwards is lost."""
        ...


class ProcessMemory:
    """Sessions in this process only; nothing touches the disk.

    Args:
        max_tokens: Oldest sessions beyond so many tokens in all are removed.
        max_age_days: So are sessions older than this.

    Raises:
        ConfigurationError: A limit is negative.
    """

    def __init__(self, *, max_tokens: int = _MAX_TOKENS, max_age_days: float = _MAX_AGE_DAYS) -> None:
        self._limits = _Limits(max_tokens, max_age_days)
        self._kept: dict[tuple[str, str], StoredSession] = {}
        self._tokens = 0
        self._refused = 0
        self._lock = threading.RLock()

    def put(self, *, tenant: str, session: str, tokens: IntArray) -> None:
        """Insert or replace a session."""
        with self._lock:
            if not self._limits.allow(tokens):
                self._refused += 1
                return
            self.take(tenant, session)
            copy = np.array(tokens, dtype=np.int32)
            self._kept[tenant, session] = StoredSession(tenant, session, copy, time.time())
            self._tokens += len(copy)
            self._trim()

    def sessions(self, *, max_tokens: int) -> Iterator[StoredSession]:
        """Yield sessions, the newest first."""
        with self._lock:
            self._trim()
            newest_first = list(reversed(self._kept.values()))
        for stored in newest_first:
            if len(stored.tokens) <= max_tokens:
                max_tokens -= len(stored.tokens)
                yield stored

    def oldest(self) -> StoredSession | None:
        """The session that was put first."""
        with self._lock:
            return next(iter(self._kept.values()), None)

    def take(self, tenant: str, session: str) -> None:
        """Remove one session, if it is there."""
        with self._lock:
            stored = self._kept.pop((tenant, session), None)
            self._tokens -= len(stored.tokens) if stored else 0

    def forget(self, *, tenant: str) -> int:
        """Remove all sessions of a tenant; return their number."""
        with self._lock:
            keys = [key for key in self._kept if key[0] == tenant]
            for key in keys:
                self.take(*key)
            return len(keys)

    def stats(self) -> MemoryStats:
        """Counters of now."""
        with self._lock:
            return MemoryStats(
                sessions=len(self._kept),
                tokens=self._tokens,
                bytes=4 * self._tokens,
                persistent=False,
                refused=self._refused,
            )

    def close(self) -> None:
        """Drop all sessions."""
        with self._lock:
            self._kept.clear()
            self._tokens = 0

    def _trim(self) -> None:
        oldest = self._limits.oldest()
        while (first := self.oldest()) and (
            self._tokens > self._limits.max_tokens or first.finished_at < oldest
        ):
            self.take(first.tenant, first.session)


class SqliteMemory:
    """Sessions in a sqlite file, one per fingerprint; several processes may use it at once.

    The file is opened by the first call, which checks it and applies the limits. A killed process loses at most the
    session that it was writing; a power cut may lose the last moments. While the disk is full or cannot be written,
    sessions are kept in this process, and move to the disk once it can be written again.

    Args:
        folder: Where the files are; made when missing. Files of models that nobody used for `max_age_days` are removed
            from it.
        fingerprint: What the token ids mean (see `fingerprint`); only its hash becomes part of a path.
        max_tokens: Oldest sessions beyond so many tokens in all are removed; about one byte of disk per token.
        max_age_days: So are sessions older than this; `math.inf` keeps them.
        vocab_size: Sessions with ids from this on are refused, and dropped when read back; None: not checked.

    Raises:
        ConfigurationError: A limit is negative.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        max_tokens: int = _MAX_TOKENS,
        max_age_days: float = _MAX_AGE_DAYS,
        vocab_size: int | None = None,
    ) -> None:
        name = hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self.path = folder / f"sessions-{name}.sqlite3"
        self._limits = _Limits(max_tokens, max_age_days)
        self._vocab_size = vocab_size
        self._file: SessionFile | None = None
        self._spare = ProcessMemory(max_tokens=max_tokens, max_age_days=max_age_days)
        self._resting = False
        self._retry_at = -math.inf
        self._dropped = 0
        self._refused = 0
        self._closed = False
        self._lock = threading.RLock()

    def put(self, *, tenant: str, session: str, tokens: IntArray) -> None:
        """Insert or replace a session; committed when it returns, unless the disk cannot be written."""
        if not self._limits.allow(tokens) or (self._vocab_size and int(tokens.max()) >= self._vocab_size):
            self._refused += 1
            return
        ids = np.array(tokens, dtype="<i4")
        with self._lock:
            if self._closed:
                return
            if self._resting and self._writable():
                self._release()  # a disk that failed is tried with a new handle
            self._return_to_disk()
            if not (self._writable() and self._write(tenant, session, ids, time.time())):
                self._spare.put(tenant=tenant, session=session, tokens=ids)

    def sessions(self, *, max_tokens: int) -> Iterator[StoredSession]:
        """Yield sessions, the newest first; one that cannot be read back is removed and counted."""
        unsaved = set()
        for stored in self._spare.sessions(max_tokens=max_tokens):
            max_tokens -= len(stored.tokens)
            unsaved.add((stored.tenant, stored.session))
            yield stored
        for key, length in self._use(SessionFile.keys) or []:
            if length > max_tokens:
                continue
            found = self._read(key)
            if found and len(found.tokens) <= max_tokens and (found.tenant, found.session) not in unsaved:
                max_tokens -= len(found.tokens)
                yield found

    def forget(self, *, tenant: str) -> int:
        """Remove all sessions of a tenant from this model's file; return their number.

        Files that were set aside may hold sessions of the tenant, and are removed too.

        Raises:
            AgentInferError: The file cannot be written, or the memory is closed: the sessions may still be there.
        """
        count = self._spare.forget(tenant=tenant)
        removed = self._use(lambda file: file.forget(_key(tenant)))
        try:
            for leftover in files_set_aside(self.path):
                leftover.unlink(missing_ok=True)
        except OSError:
            removed = None
        if removed is None:
            msg = f"Sessions could not be removed from {self.path}; make it writable and try again, or delete it."
            raise AgentInferError(msg)
        return count + removed

    def stats(self) -> MemoryStats:
        """Counters as of the last call, without waiting for the disk; all 0 before the first call."""
        file, spare = self._file, self._spare.stats()
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return MemoryStats(
            sessions=(file.sessions if file else 0) + spare.sessions,
            tokens=(file.tokens if file else 0) + spare.tokens,
            bytes=sum(map(_size, files)) + spare.bytes,
            persistent=file is not None and not file.read_only and not self._resting,
            dropped=self._dropped,
            refused=self._refused,
        )

    def close(self) -> None:
        """Close the file; what is put afterwards is lost."""
        with self._lock:
            if self._resting:
                self._release()
            self._retry_at = -math.inf
            self._return_to_disk()
            self._closed = True
            self._release()

    def _write(self, tenant: str, session: str, ids: IntArray, finished_at: float) -> bool:
        packed = zlib.compress(ids.tobytes(), 1)
        names = (_key(tenant), _key(session))
        row = StoredRow(*names, finished_at, len(ids), packed, _digest(*names, len(ids), packed))
        oldest, most = self._limits.oldest(), self._limits.max_tokens

        def write(file: SessionFile) -> bool:
            file.put(row, max_tokens=most, oldest=oldest)
            self._resting = False
            return True

        return bool(self._use(write))

    def _return_to_disk(self) -> None:
        """Write what had to stay in this process, the oldest first, for as long as the disk takes it."""
        moved = 0
        while self._writable() and (stored := self._spare.oldest()):
            if not self._write(stored.tenant, stored.session, stored.tokens, stored.finished_at):
                return
            self._spare.take(stored.tenant, stored.session)
            moved += 1
        if moved:
            logger.warning(
                "The session memory %s can be written again; %d sessions moved to it.", self.path, moved
            )

    def _read(self, key: int) -> StoredSession | None:
        row = self._use(lambda file: file.row(key))
        if row is None:
            return None
        found = _restore(row, vocab_size=self._vocab_size)
        if found is None:
            self._dropped += 1
            logger.warning("A session in %s cannot be read back, and is dropped.", self.path)
            self._use(lambda file: file.drop(key))
        return found

    def _writable(self) -> bool:
        return not self._closed and time.monotonic() >= self._retry_at

    def _use(self, use: Callable[[SessionFile], _T]) -> _T | None:
        """Return what `use` returns, or None if the file cannot be used now; a corrupt file is replaced by a new one."""
        suspect = None
        with self._lock:
            for _ in range(2):
                if self._closed:
                    return None
                try:
                    return use(self._opened(suspect))
                except (sqlite3.Error, ForeignFileError, OSError) as error:
                    if not is_corruption(error) or suspect is not None:
                        self._rest(error)
                        return None
                    suspect = self._file.identity if self._file else (0, 0)
                    self._release()
            return None

    def _opened(self, suspect: tuple[int, int] | None) -> SessionFile:
        if self._file is not None and not self._file.in_place:
            self._release()
        if self._file is None:
            self._file = open_session_file(self.path, suspect=suspect)
            if not self._file.read_only:
                self._tidy(self._file)
        return self._file

    def _tidy(self, file: SessionFile) -> None:
        try:
            oldest = self._limits.oldest()
            self._dropped += file.trim(max_tokens=self._limits.max_tokens, oldest=oldest, now=time.time())
            _remove_old_files(self.path, before=oldest)
        except (sqlite3.Error, OSError) as error:
            if is_corruption(error):
                raise
            self._rest(error)  # a full disk can still be read

    def _rest(self, error: Exception) -> None:
        """Leave the disk alone for a while; a file that is open stays open, and may be read."""
        if not self._resting:
            logger.warning(
                "The session memory %s cannot be used (%s). Sessions are kept in this process until it can.",
                self.path,
                error,
            )
        self._resting = True
        self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _release(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except sqlite3.Error:  # its last words do not matter: all that was committed is in the log
                logger.debug("closing %s failed", self.path, exc_info=True)
            self._file = None


def default_folder() -> Path:
    """Folder of session memory where none was given: in the user's cache, so that it may be deleted at any time."""
    return Path(platformdirs.user_cache_dir("agentinfer", appauthor=False)) / "sam"


def fingerprint(
    model: str, vocab_size: int, tokenizer_files: Path | None = None, *, revision: str = ""
) -> str:
    """Identity of a model and its tokenizer: sessions are shared between runs only where ids mean the same.

    The content of the tokenizer's files is hashed where they are in a local folder, so that a changed tokenizer begins a
    memory of its own, and a moved folder keeps its memory. Elsewhere name and revision have to do.

    Args:
        model: Name of the model, or its folder (of which only the last part counts).
        vocab_size: Number of token ids.
        tokenizer_files: Folder with `tokenizer.json`, `tokenizer.model` or `vocab.json`; None: `model`, if it is a folder.
        revision: Revision on the model hub; used only where there are no files to hash.
    """
    folder = tokenizer_files or Path(model)
    content = _hash_files(folder)
    name = Path(model).resolve().name if Path(model).is_dir() else model
    meaning = f"content {content}" if content else f"revision {revision}"
    return f"{name}\n{vocab_size}\n{meaning}"


def _hash_files(folder: Path) -> str:
    """Hash of the tokenizer's files in `folder`; empty where there are none, or they cannot be read."""
    digest = hashlib.sha256()
    found = False
    try:
        names = [*_TOKENIZER_FILES, *sorted(path.name for path in folder.glob("*.tiktoken"))]
        for name in names:
            if (folder / name).is_file():
                content = (folder / name).read_bytes()
                digest.update(f"{name}\0{len(content)}\0".encode())
                digest.update(content)
                found = found or name != "tokenizer_config.json"
    except OSError as error:
        logger.warning("The tokenizer in %s cannot be read (%s); its name has to do.", folder, error)
        return ""
    return digest.hexdigest() if found else ""


class _Limits:
    """What may be kept."""

    def __init__(self, max_tokens: int, max_age_days: float) -> None:
        if max_tokens < 0 or not max_age_days >= 0:
            msg = f"The limits of session memory must not be negative: max_tokens={max_tokens}, {max_age_days=}."
            raise ConfigurationError(msg)
        self.max_tokens = max_tokens
        self.max_age_days = max_age_days

    def oldest(self) -> float:
        """Time before which a session is too old."""
        return time.time() - self.max_age_days * _DAY

    def allow(self, tokens: IntArray) -> bool:
        """Whether `tokens` are token ids, and not too many."""
        return (
            tokens.ndim == 1
            and np.issubdtype(tokens.dtype, np.integer)
            and 0 < len(tokens) <= self.max_tokens
            and int(tokens.min()) >= 0
            and int(tokens.max()) <= np.iinfo(np.int32).max
        )


def _restore(row: StoredRow, *, vocab_size: int | None) -> StoredSession | None:
    """The session in `row`, or None if any of its values is not what was once written."""
    length, finished_at = row.length, row.finished_at
    if not (
        isinstance(row.tenant, bytes) and isinstance(row.session, bytes) and isinstance(row.tokens, bytes)
    ):
        return None
    if not (isinstance(length, int) and isinstance(finished_at, float) and math.isfinite(finished_at)):
        return None
    if row.digest != _digest(row.tenant, row.session, length, row.tokens):
        return None
    ids = _unpack(row.tokens, length)
    if ids is None or int(ids.min()) < 0 or (vocab_size is not None and int(ids.max()) >= vocab_size):
        return None
    try:
        tenant = row.tenant.decode("utf-8", "surrogatepass")
        session = row.session.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return StoredSession(tenant, session, ids, finished_at)


def _digest(tenant: bytes, session: bytes, length: int, packed: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in (tenant, session, str(length).encode(), packed):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _unpack(packed: bytes, length: int) -> IntArray | None:
    """Exactly `length` ids; a stream that goes on after them, or never ends, is not followed."""
    if length <= 0 or 4 * length > MAX_INFLATION * len(
        packed
    ):  # nothing is allocated for a length that is a lie
        return None
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, 4 * length + 1)
    except zlib.error:
        return None
    if len(content) != 4 * length or not unpacker.eof or unpacker.unused_data:
        return None
    return np.frombuffer(content, dtype="<i4").astype(np.int32)


def _remove_old_files(path: Path, *, before: float) -> None:
    """Remove files of other models, and files set aside, that nobody has written since `before`."""
    groups: dict[str, list[Path]] = {}
    for found in path.parent.glob("sessions-*.sqlite3*"):
        base = found.name.removesuffix("-wal").removesuffix("-shm")
        if base != path.name:
            groups.setdefault(base, []).append(found)
    for group in groups.values():
        if max((found.stat().st_mtime for found in group), default=before) < before:
            for found in group:
                found.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _key(text: str) -> bytes:
    """Names come from clients, and may hold what is not valid UTF-8."""
    return text.encode("utf-8", "surrogatepass")
