"""Search over a folder of documents: SQLite FTS5, BM25, English and Chinese, no model and no network.

Text is cut into passages; a passage is found by any word of the query and a document ranks by its best passage.
English words are stemmed (porter). Chinese, Japanese and Korean text is indexed as overlapping pairs of characters,
because the tokenizers of SQLite either take a whole sentence for one word or find nothing for two characters.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from agentinfer_lg.errors import AgentInferError, ConfigurationError, ToolError, UserInputError
from agentinfer_lg.settings import Settings
from agentinfer_lg.text import clip, content_terms, detect_language, sentence_spans, terms, word_runs
from agentinfer_lg.tools.formats import clean_text, decode_text, html_text, markdown_title, pdf_text
from agentinfer_lg.tools.passages import passage_spans
from agentinfer_lg.tools.search import Document, ProviderEntry, SearchCheck, SearchHit

T = TypeVar("T")

_MARKDOWN, _HTML = (".md", ".markdown"), (".html", ".htm", ".xhtml")
_EXTENSIONS = frozenset((".txt", *_MARKDOWN, *_HTML, ".pdf"))
_MAX_FILE_BYTES = 50_000_000
_MAX_QUERY_TERMS = 64
"""FTS5 limits the depth of an expression; a longer query adds nothing to the ranking."""
_MAX_QUERY_CHARACTERS = 20_000
_SNIPPET_CHARACTERS = {"en": 1000, "zh": 400}
"""About as many tokens in both languages; a whole passage mostly, since what a snippet cuts off is often the answer."""
_RESCAN_SECONDS = 30.0
_TITLE_WEIGHT = 2.0
_SCHEMA_VERSION = "1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE, title TEXT NOT NULL, modified INTEGER NOT NULL,
    size INTEGER NOT NULL, truncated INTEGER NOT NULL, problem TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS passages (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents (id), text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS passages_document ON passages (document);
CREATE VIRTUAL TABLE IF NOT EXISTS passage_index USING fts5(
    title, body, tokenize = "porter unicode61 remove_diacritics 2");
"""


class LocalFolder:
    """Documents of a folder and its sub-folders: txt, md, html and pdf.

    The index is built at the first search, in a worker thread, and brought up to date when files change. A document's
    URI is its path inside the folder, with slashes: `notes/rain.md`.

    Args:
        folder: Hidden files, links that lead out of it, and files over 50 MB are left out (see `skipped`).
        index_file: Where to keep the index between processes; in memory when None.
    """

    name = "local"

    def __init__(self, folder: Path, *, index_file: Path | None = None) -> None:
        self._folder = folder
        self._index_file = index_file
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._next_scan = 0.0
        self._skipped: tuple[str, ...] = ()
        self._notes: tuple[str, ...] = ()

    @property
    def skipped(self) -> list[str]:
        """A sentence for each file that is not searched, and why."""
        return [*self._notes, *self._skipped]

    async def check(self) -> int:
        """Build the index and return the number of documents.

        Raises:
            UserInputError: The folder does not exist, or has no document in it.
        """
        return await asyncio.to_thread(self._with_index, _count)

    async def search(self, queries: Sequence[str], *, limit: int) -> list[list[SearchHit]]:
        """See `SearchProvider.search`.

        Raises:
            UserInputError: The folder does not exist, or has no document in it.
            ToolError: The index cannot be read.
        """
        wanted = list(queries)
        return await asyncio.to_thread(
            self._with_index,
            lambda connection: [_search(connection, query, max(0, limit)) for query in wanted],
        )

    async def fetch(self, uri: str, *, timeout: float, max_bytes: int) -> Document | None:
        """See `SearchProvider.fetch`: only what is in the index can be read, so no path leads out of the folder."""
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.to_thread(
                    self._with_index, lambda connection: _fetch(connection, uri.removeprefix("./"), max_bytes)
                )
        except TimeoutError:
            msg = f"Reading the document took longer than {timeout:g} s (the folder is still being indexed?)."
            raise ToolError(msg) from None

    async def aclose(self) -> None:
        """Close the index; a later search opens it again."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._next_scan = 0.0

    def _with_index(self, use: Callable[[sqlite3.Connection], T]) -> T:
        """Run `use` on an index that is up to date; a corrupt index file is rebuilt once."""
        with self._lock:
            try:
                return use(self._ready())
            except sqlite3.OperationalError as error:  # locked, disk full: rebuilding would not help
                raise _index_error(error) from None
            except sqlite3.DatabaseError:
                self._set_aside()
            try:
                return use(self._ready())
            except sqlite3.Error as error:
                raise _index_error(error) from None

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            self._check_folder()
            self._connection = self._open()
            weakref.finalize(self, self._connection.close)
            self._next_scan = 0.0
        if time.monotonic() >= self._next_scan:
            self._scan(self._connection)
        return self._connection

    def _check_folder(self) -> None:
        folder = self._folder.expanduser()
        if not folder.exists():
            msg = f"The document folder {str(self._folder)!r} does not exist. Give the path of an existing folder."
            raise UserInputError(msg)
        if not folder.is_dir():
            msg = f"{str(self._folder)!r} is a file. Give the folder that holds the documents."
            raise UserInputError(msg)

    def _open(self) -> sqlite3.Connection:
        if self._index_file is None:
            return _connect(":memory:")
        try:
            self._index_file.parent.mkdir(parents=True, exist_ok=True)
            return self._open_file(self._index_file)
        except (OSError, sqlite3.OperationalError) as error:
            self._notes = (
                *self._notes,
                f"The index cannot be kept in {self._index_file} ({error}); it is built in memory.",
            )
            return _connect(":memory:")

    def _open_file(self, path: Path) -> sqlite3.Connection:
        connection = _connect(str(path))
        stamp = [(_SCHEMA_VERSION,), (str(self._folder.expanduser().resolve()),)]
        found = connection.execute("SELECT value FROM meta ORDER BY name DESC").fetchall()  # version, folder
        healthy = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        if healthy and found in ([], stamp):
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('version', ?), ('folder', ?)", (stamp[0][0], stamp[1][0])
            )
            return connection
        connection.close()
        if not healthy:
            msg = "the check of the index file failed"
            raise sqlite3.DatabaseError(msg)
        for name in _with_journal(path):  # of another folder or version: nothing in it is worth keeping
            Path(name).unlink(missing_ok=True)
        return self._open_file(path)

    def _set_aside(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self._next_scan = 0.0
        if self._index_file is None:
            return
        aside = self._index_file.with_name(f"{self._index_file.name}.corrupt")
        journal = _with_journal(self._index_file)
        with suppress(OSError):
            Path(journal[0]).replace(aside)
            for name in journal[1:]:
                Path(name).unlink(missing_ok=True)
        self._notes = (
            *self._notes,
            f"The index file was corrupt; it was set aside as {aside.name} and built again.",
        )

    def _scan(self, connection: sqlite3.Connection) -> None:
        """Bring the index up to date with the folder."""
        began = time.monotonic()
        root = self._folder.expanduser().resolve()
        skipped: list[str] = []
        found = {uri: (path, status) for uri, path, status in _documents(root, skipped)}
        known = {
            uri: (key, modified, size)
            for key, uri, modified, size in connection.execute(
                "SELECT id, uri, modified, size FROM documents"
            )
        }
        if not found and known and not root.is_dir():
            return  # the folder is gone for the moment: what is known of it stays searchable
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for uri, (key, _, _) in known.items():
                if uri not in found:
                    _remove(connection, key)
            for uri, (path, status) in found.items():
                before = known.get(uri)
                if before is not None:
                    if before[1:] == (status.st_mtime_ns, status.st_size):
                        continue
                    _remove(connection, before[0])
                _add(connection, uri, path, status)
        problems = connection.execute("SELECT problem FROM documents WHERE problem <> '' ORDER BY uri")
        self._skipped = (*skipped, *(problem for (problem,) in problems))
        if not _count(connection):
            reasons = f" Left out: {' '.join(self._skipped[:3])}" if self._skipped else ""
            msg = f"The document folder {str(self._folder)!r} has no readable txt, md, html or pdf file in it.{reasons}"
            raise UserInputError(msg)
        ended = time.monotonic()
        self._next_scan = ended + max(_RESCAN_SECONDS, 20 * (ended - began))


def _index_error(error: sqlite3.Error) -> AgentInferError:
    return ToolError(f"The index of the document folder cannot be used: {error}.")


def _connect(path: str) -> sqlite3.Connection:
    # One lock of LocalFolder guards every use, from whichever worker thread.
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _with_journal(path: Path) -> list[str]:
    return [f"{path}{suffix}" for suffix in ("", "-journal", "-wal", "-shm")]


def _documents(root: Path, skipped: list[str]) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Yield URI, path and status of every document under `root`; sentences on the others go to `skipped`."""
    for parent, folders, files in os.walk(
        root, onerror=lambda error: skipped.append(f"{error.filename}: cannot be listed.")
    ):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [path for name in folders if (path := Path(parent, name)).is_symlink()]
        skipped.extend(f"{_uri(root, path)}: a link to a folder is not followed." for path in links)
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in _EXTENSIONS:
                continue
            try:
                status = path.stat()
                reason = _refusal(root, path, status)
            except OSError as error:
                reason = f"cannot be read ({error.strerror})."
            if reason:
                skipped.append(f"{_uri(root, path)}: {reason}")
            else:
                yield _uri(root, path), path, status


def _refusal(root: Path, path: Path, status: os.stat_result) -> str:
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder is not followed."
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file."
    if status.st_size > _MAX_FILE_BYTES:
        return f"it is larger than {_MAX_FILE_BYTES // 1_000_000} MB."
    return ""


def _uri(root: Path, path: Path) -> str:
    # A file name that is not UTF-8 comes with surrogates, which neither SQLite nor JSON takes.
    return path.relative_to(root).as_posix().encode("utf-8", "replace").decode()


def _add(connection: sqlite3.Connection, uri: str, path: Path, status: os.stat_result) -> None:
    title, text, truncated, problem = path.stem, "", False, ""
    try:
        title, text, truncated = _read(path)
        problem = "" if text else f"{uri}: it is empty."
    except ToolError as error:
        problem = f"{uri}: {error}"
    except OSError as error:
        problem = f"{uri}: cannot be read ({error.strerror})."
    key = connection.execute(
        "INSERT OR REPLACE INTO documents (uri, title, modified, size, truncated, problem) VALUES (?, ?, ?, ?, ?, ?)",
        (uri, title, status.st_mtime_ns, status.st_size, truncated, problem),
    ).lastrowid
    title_tokens = _index_tokens(title)
    for start, end in passage_spans(text):
        passage = connection.execute(
            "INSERT INTO passages (document, text) VALUES (?, ?)", (key, text[start:end])
        )
        connection.execute(
            "INSERT INTO passage_index (rowid, title, body) VALUES (?, ?, ?)",
            (passage.lastrowid, title_tokens, _index_tokens(text[start:end])),
        )


def _remove(connection: sqlite3.Connection, key: int) -> None:
    connection.execute(
        "DELETE FROM passage_index WHERE rowid IN (SELECT id FROM passages WHERE document = ?)", (key,)
    )
    connection.execute("DELETE FROM passages WHERE document = ?", (key,))
    connection.execute("DELETE FROM documents WHERE id = ?", (key,))


def _read(path: Path) -> tuple[str, str, bool]:
    """Title, text and whether it was cut short."""
    data = path.read_bytes()
    suffix = path.suffix.lower()
    stem = path.stem.encode("utf-8", "replace").decode()
    if suffix == ".pdf":
        title, text, truncated = pdf_text(data, max_pages=2000)
        return title or stem, text, truncated
    markup = decode_text(data)
    if suffix in _HTML:
        title, text = html_text(markup)
    else:
        text = clean_text(markup)
        title = markdown_title(text) if suffix in _MARKDOWN or text.startswith("# ") else ""
    return title or stem, text, False


def _index_tokens(text: str) -> str:
    """`text` as FTS5 shall see it: words as they are, CJK runs as pairs, and their last character alone.

    With the last character alone, the prefix query of a single character finds it wherever it stands.
    """
    return " ".join(_tokens(text, last=True))


def _tokens(text: str, *, last: bool = False) -> Iterator[str]:
    for term, is_cjk, run_end in _runs(text):
        yield term
        if last and is_cjk and run_end and len(term) > 1:
            yield term[-1]


def _runs(text: str) -> Iterator[tuple[str, bool, bool]]:
    """Yield each word, or pair of a CJK run, whether it is CJK, and whether it ends its run."""
    for run, is_cjk in word_runs(unicodedata.normalize("NFKC", text).lower()):
        if not is_cjk:
            yield run, False, True
            continue
        count = max(1, len(run) - 1)
        for i in range(count):
            yield run[i : i + 2], True, i == count - 1


def _match_expression(query: str) -> str:
    """The FTS5 expression of a query: its terms, quoted, joined by OR; "" when it has none.

    Only letters and digits come through the tokenizer, and each token is quoted, so no text becomes syntax.
    """
    found = dict.fromkeys(_tokens(query[:_MAX_QUERY_CHARACTERS]))
    useful = [token for token in found if content_terms(token)] or list(found)
    return " OR ".join(_quoted(token) for token in useful[:_MAX_QUERY_TERMS])


def _quoted(token: str) -> str:
    single_cjk = len(token) == 1 and not token.isascii() and unicodedata.category(token) == "Lo"
    return '"' + token.replace('"', '""') + '"' + ("*" if single_cjk else "")


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM documents WHERE problem = ''").fetchone()[0])


def _search(connection: sqlite3.Connection, query: str, limit: int) -> list[SearchHit]:
    expression = _match_expression(query)
    if not expression or not limit:
        return []
    rows = connection.execute(
        "SELECT d.id, d.uri, d.title, p.text,"
        " (SELECT count(*) FROM passages WHERE document = d.id), -bm25(passage_index, ?, 1.0) AS score FROM passage_index"
        " JOIN passages p ON p.id = passage_index.rowid JOIN documents d ON d.id = p.document"
        " WHERE passage_index MATCH ? ORDER BY score DESC, p.id",
        (_TITLE_WEIGHT, expression),
    )
    hits: dict[int, SearchHit] = {}
    wanted = content_terms(query[:_MAX_QUERY_CHARACTERS])
    for key, uri, title, text, count, score in rows:
        if key not in hits:
            snippet, whole = _snippet(title, text, wanted)
            hits[key] = SearchHit(
                uri=uri, title=title, snippet=snippet, score=score, complete=whole and count == 1
            )
            if len(hits) == limit:
                break
    rows.close()
    return list(hits.values())


def _snippet(title: str, text: str, wanted: set[str]) -> tuple[str, bool]:
    """The run of whole sentences of `text` that has most of the terms `wanted`, and whether that is all of it.

    A heading that only repeats the title is left out.
    """
    text = " ".join(text.split()).removeprefix("#").lstrip("# ").removeprefix(title).strip()
    limit = _SNIPPET_CHARACTERS[detect_language(text)]
    if len(text) <= limit:
        return text, True
    spans = sentence_spans(text)
    found = [wanted.intersection(terms(text[start:end])) for start, end in spans]
    best, best_score, first = (0, 0), -1, 0
    for last, (_, end) in enumerate(spans):
        while first < last and end - spans[first][0] > limit:
            first += 1
        score = len(set().union(*found[first : last + 1]))
        if score > best_score or (score == best_score and first == best[0]):
            best, best_score = (first, last), score
    snippet = text[spans[best[0]][0] : spans[best[1]][1]].strip() if spans else ""
    if len(snippet) > limit:  # one long sentence
        snippet = clip(snippet[: 2 * limit], tokens=limit // 4)
    return snippet, False


def _fetch(connection: sqlite3.Connection, uri: str, max_bytes: int) -> Document | None:
    with suppress(UnicodeEncodeError):  # a surrogate in what a model wrote: no such document
        row = connection.execute(
            "SELECT id, title, truncated, problem FROM documents WHERE uri = ?", (uri,)
        ).fetchone()
        if row is None:
            return None
        key, title, truncated, problem = row
        if problem:
            msg = f"The document cannot be read: {problem}"
            raise ToolError(msg)
        passages = connection.execute("SELECT text FROM passages WHERE document = ? ORDER BY id", (key,))
        data = "".join(text for (text,) in passages).encode()
        cut = len(data) > max_bytes
        text = data[:max_bytes].decode(errors="ignore")
        return Document(uri=uri, title=title, text=text, truncated=bool(truncated) or cut)
    return None


def _make(settings: Settings) -> LocalFolder:
    if settings.docs is None:
        msg = "AGENTINFER_DOCS names no folder of documents."
        raise ConfigurationError(msg)
    return LocalFolder(settings.docs)


async def _check(settings: Settings) -> SearchCheck:
    folder = _make(settings)
    try:
        documents = await folder.check()
    finally:
        await folder.aclose()
    found, skipped = f"{documents} documents in {settings.docs}", folder.skipped
    if skipped:
        return SearchCheck(detail=f"{found}; {len(skipped)} left out, such as: {skipped[0]}", warning=True)
    return SearchCheck(detail=found)


ENTRY = ProviderEntry(
    needs="AGENTINFER_DOCS (or pass --docs) to a folder of documents",
    configured=lambda settings: settings.docs is not None,
    make=_make,
    check=_check,
)
