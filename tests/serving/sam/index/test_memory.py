"""Session memory: what is kept, for whom, for how long, and what no disk or file may do to the engine."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import AgentInferError, ConfigurationError
from agentinfer_lg.serving.sam.index.memory import (
    ProcessMemory,
    SessionMemory,
    SqliteMemory,
    _digest,
    default_folder,
    fingerprint,
)
from agentinfer_lg.serving.sam.index.session_file import FORMAT_VERSION
from agentinfer_lg.serving.sam.types import IntArray

ROOT = Path(__file__).resolve().parents[4]
MEMORY = "agentinfer_lg.serving.sam.index.memory"
DAY = 86_400.0

CHILD_HEAD = """
import os, sys, json
import numpy as np
from pathlib import Path
from agentinfer_lg.serving.sam.index.memory import SqliteMemory
memory = SqliteMemory(Path(sys.argv[1]), fingerprint="model")
"""


def ids(*values: int) -> IntArray:
    return np.array(values, dtype=np.int32)


def session_of(number: int, length: int = 500) -> IntArray:
    """Tokens that can be told from the number alone."""
    return np.random.default_rng(number).integers(0, 150_000, length).astype(np.int32)


def contents(memory: SessionMemory, max_tokens: int = 10**9) -> dict[tuple[str, str], list[int]]:
    return {
        (found.tenant, found.session): found.tokens.tolist()
        for found in memory.sessions(max_tokens=max_tokens)
    }


def aside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.corrupt-*") if not path.name.endswith("-wal"))


def run_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD_HEAD + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(params=["sqlite", "process"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SessionMemory]:
    made = SqliteMemory(tmp_path, fingerprint="model") if request.param == "sqlite" else ProcessMemory()
    yield made
    made.close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The file of a memory with 50 sessions, closed."""
    with_sessions = SqliteMemory(tmp_path, fingerprint="model")
    for number in range(50):
        with_sessions.put(tenant="a", session=str(number), tokens=session_of(number))
    with_sessions.close()
    return with_sessions.path


class TestBoth:
    def test_newest_first_within_the_budget(self, memory: SessionMemory) -> None:
        for name, length in (("old", 40), ("large", 100), ("new", 30)):
            memory.put(tenant="", session=name, tokens=session_of(length, length))
        assert [found.session for found in memory.sessions(max_tokens=1_000)] == ["new", "large", "old"]
        assert [found.session for found in memory.sessions(max_tokens=80)] == ["new", "old"]
        assert list(memory.sessions(max_tokens=0)) == []

    def test_put_replaces_and_makes_newest(self, memory: SessionMemory) -> None:
        memory.put(tenant="", session="a", tokens=ids(1, 2))
        memory.put(tenant="", session="b", tokens=ids(3))
        memory.put(tenant="", session="a", tokens=ids(1, 2, 4))
        assert list(contents(memory).items()) == [(("", "a"), [1, 2, 4]), (("", "b"), [3])]

    def test_tenants_are_apart(self, memory: SessionMemory) -> None:
        memory.put(tenant="a", session="same", tokens=ids(1, 1))
        memory.put(tenant="b", session="same", tokens=ids(2, 2))
        memory.put(tenant="", session="same", tokens=ids(3, 3))
        assert contents(memory) == {("a", "same"): [1, 1], ("b", "same"): [2, 2], ("", "same"): [3, 3]}
        assert memory.forget(tenant="a") == 1
        assert memory.forget(tenant="a") == 0
        assert set(contents(memory)) == {("b", "same"), ("", "same")}

    @pytest.mark.parametrize(
        "tokens",
        [ids(), ids(1, -1), np.ones((2, 2), np.int32), np.array([0.5, 1.5]), np.array([2**31], np.int64)],
        ids=["empty", "negative", "2-d", "floats", "beyond 32 bits"],
    )
    def test_what_is_not_token_ids_is_refused(self, memory: SessionMemory, tokens: IntArray) -> None:
        memory.put(tenant="", session="s", tokens=ids(7))
        memory.put(tenant="", session="s", tokens=tokens)
        assert contents(memory) == {("", "s"): [7]}
        assert memory.stats().refused == 1  # type: ignore[attr-defined]

    def test_tokens_are_copied(self, memory: SessionMemory) -> None:
        tokens = ids(1, 2, 3, 4)
        memory.put(tenant="", session="s", tokens=tokens[::2])
        tokens[:] = 9
        (found,) = memory.sessions(max_tokens=10)
        assert found.tokens.tolist() == [1, 3]
        assert found.tokens.dtype == np.int32
        assert found.tokens.flags.c_contiguous

    def test_a_thousand_sessions_of_random_ids(self, memory: SessionMemory) -> None:
        for number in range(1_000):
            memory.put(tenant=str(number % 3), session=str(number), tokens=session_of(number, 50))
        expected = {(str(n % 3), str(n)): session_of(n, 50).tolist() for n in range(1_000)}
        assert contents(memory) == expected

    def test_many_threads(self, memory: SessionMemory) -> None:
        def work(worker: int) -> None:
            for number in range(25):
                memory.put(tenant=str(worker), session=str(number), tokens=session_of(number, 20))
                contents(memory)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(contents(memory)) == 100

    def test_sessions_put_while_reading(self, memory: SessionMemory) -> None:
        for number in range(20):
            memory.put(tenant="", session=str(number), tokens=ids(number))
        seen = []
        for found in memory.sessions(max_tokens=1_000):
            memory.put(tenant="", session=f"new {found.session}", tokens=ids(1))
            seen.append(found.session)
        assert seen == [str(number) for number in reversed(range(20))]

    def test_put_after_close_is_lost_quietly(self, memory: SessionMemory) -> None:
        memory.close()
        memory.put(tenant="", session="s", tokens=ids(1))


names = st.text(max_size=20)
lists = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=300)


@settings(max_examples=25, deadline=None)
@given(put=st.lists(st.tuples(names, names, lists), max_size=12))
def test_whatever_is_put_comes_back_after_a_restart(put: list[tuple[str, str, list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = SqliteMemory(Path(folder), fingerprint="model")
        for tenant, session, tokens in put:
            first.put(tenant=tenant, session=session, tokens=np.array(tokens, np.int32))
        first.close()
        second = SqliteMemory(Path(folder), fingerprint="model")
        assert contents(second) == {(tenant, session): tokens for tenant, session, tokens in put}
        second.close()


def test_ids_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    memory = SqliteMemory(tmp_path, fingerprint="model", vocab_size=100)
    memory.put(tenant="", session="s", tokens=ids(0, 99))
    memory.put(tenant="", session="t", tokens=ids(0, 100))
    assert contents(memory) == {("", "s"): [0, 99]}
    assert memory.stats().refused == 1
    memory.close()


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    memory = SqliteMemory(tmp_path, fingerprint="\ud800")
    memory.put(tenant="\udcff", session="a\0b", tokens=ids(1))
    assert contents(memory) == {("\udcff", "a\0b"): [1]}
    memory.close()


class TestLimits:
    @pytest.mark.parametrize(
        "make", [lambda **limits: ProcessMemory(**limits), None], ids=["process", "sqlite"]
    )
    def test_by_tokens_and_age(
        self, make: Callable[..., SessionMemory] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1e9
        monkeypatch.setattr(f"{MEMORY}.time.time", lambda: now)
        limits = {"max_tokens": 100, "max_age_days": 2.0}
        memory = make(**limits) if make else SqliteMemory(tmp_path, fingerprint="model", **limits)  # type: ignore[arg-type]
        for number in range(6):
            memory.put(tenant="", session=str(number), tokens=session_of(number, 30))
        assert [key[1] for key in contents(memory)] == ["5", "4", "3"]
        memory.put(tenant="", session="too long", tokens=session_of(0, 101))
        assert [key[1] for key in contents(memory)] == ["5", "4", "3"]
        now += 1.5 * DAY
        memory.put(tenant="", session="6", tokens=session_of(6, 10))
        now += 1.0 * DAY
        memory.put(tenant="", session="7", tokens=session_of(6, 10))
        assert [key[1] for key in contents(memory)] == ["7", "6"]
        memory.close()

    def test_applied_when_opened(self, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        smaller = SqliteMemory(filled.parent, fingerprint="model", max_tokens=1_000)
        assert [key[1] for key in contents(smaller)] == ["49", "48"]
        smaller.close()
        later = time.time() + 31 * DAY
        monkeypatch.setattr(f"{MEMORY}.time.time", lambda: later)
        older = SqliteMemory(filled.parent, fingerprint="model")
        assert contents(older) == {}
        assert older.stats().tokens == older.stats().sessions == 0
        older.close()

    def test_a_clock_that_was_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 9e9
        monkeypatch.setattr(f"{MEMORY}.time.time", lambda: now)
        memory = SqliteMemory(tmp_path, fingerprint="model")
        memory.put(tenant="", session="s", tokens=ids(1))
        memory.close()
        for now, left in ((1e9, 1), (1e9 + 29 * DAY, 1), (1e9 + 31 * DAY, 0)):  # noqa: B007  # read by the clock
            memory = SqliteMemory(tmp_path, fingerprint="model")
            assert len(contents(memory)) == left
            memory.close()

    def test_files_of_models_nobody_uses(self, filled: Path) -> None:
        old = time.time() - 31 * DAY
        other = SqliteMemory(filled.parent, fingerprint="another model")
        other.put(tenant="", session="s", tokens=ids(1))
        other.close()
        unrelated = filled.parent / "notes.txt"
        unrelated.write_text("mine")
        for path in (filled, unrelated):
            os.utime(path, (old, old))
        again = SqliteMemory(filled.parent, fingerprint="another model")
        assert len(contents(again)) == 1
        again.close()
        assert not filled.exists()
        assert unrelated.exists()

    def test_negative_limits(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="max_tokens=-1"):
            ProcessMemory(max_tokens=-1)
        with pytest.raises(ConfigurationError, match="max_age_days=nan"):
            SqliteMemory(tmp_path, fingerprint="model", max_age_days=float("nan"))

    def test_the_file_stops_growing(self, tmp_path: Path) -> None:
        memory = SqliteMemory(tmp_path, fingerprint="model", max_tokens=20_000)
        for number in range(300):
            memory.put(tenant="", session=str(number), tokens=session_of(number, 1_000))
        memory.close()
        assert memory.path.stat().st_size < 6 * 20_000  # random ids hardly compress


class TestPrivacy:
    def test_modes(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            memory = SqliteMemory(tmp_path / "a" / "sam", fingerprint="model")
            memory.put(tenant="", session="s", tokens=ids(1))
            assert memory.path.parent.stat().st_mode & 0o777 == 0o700
            modes = {path.name: path.stat().st_mode & 0o777 for path in memory.path.parent.iterdir()}
            assert set(modes.values()) == {0o600}, modes
        finally:
            os.umask(before)
            memory.close()

    def test_no_text_becomes_a_path(self, tmp_path: Path) -> None:
        memory = SqliteMemory(tmp_path / "sam", fingerprint="../../outside\0")
        memory.put(tenant="../tenant", session="/etc/session", tokens=ids(1))
        memory.close()
        assert [path.name for path in tmp_path.iterdir()] == ["sam"]
        assert {path.suffix for path in (tmp_path / "sam").iterdir()} <= {".sqlite3", ".lock"}

    def test_models_do_not_mix(self, tmp_path: Path) -> None:
        memories = [SqliteMemory(tmp_path, fingerprint=name) for name in ("one", "two")]
        for number, memory in enumerate(memories):
            memory.put(tenant="", session="s", tokens=ids(number))
        assert [contents(memory) for memory in memories] == [{("", "s"): [0]}, {("", "s"): [1]}]
        for memory in memories:
            memory.close()

    def test_what_is_forgotten_is_overwritten(self, tmp_path: Path) -> None:
        memory = SqliteMemory(tmp_path, fingerprint="model")
        secret = session_of(1, 3_000)
        packed = zlib.compress(secret.tobytes(), 1)
        memory.put(tenant="alice", session="s", tokens=secret)
        memory.put(tenant="bob", session="s", tokens=ids(1))
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"alice" in on_disk
        assert packed[100:160] in on_disk
        (tmp_path / f"{memory.path.name}.corrupt-1").write_bytes(packed)
        assert memory.forget(tenant="alice") == 1
        left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert b"alice" not in left
        assert not any(packed[start : start + 60] in left for start in range(0, len(packed), 60))
        assert contents(memory) == {("bob", "s"): [1]}
        memory.close()


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def _statements(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _foreign(path: Path) -> None:
    path.unlink()
    _statements(path, "CREATE TABLE sessions (id INTEGER)", "INSERT INTO sessions VALUES (1)")


CORRUPT: dict[str, Callable[[Path], None]] = {
    "no sqlite": lambda path: path.write_bytes(b"these are not the pages you are looking for" * 100) and None,
    "cut within the header": lambda path: _truncate(path, 60),
    "cut within a page": lambda path: _truncate(path, path.stat().st_size // 2 + 100),
    "cut at a page": lambda path: _truncate(path, 4096 * (path.stat().st_size // 8192)),
    "only the first page": lambda path: _truncate(path, 4096),
    "page overwritten": lambda path: _overwrite(path, 3 * 4096, b"\xa5" * 4096),
    "all but the header overwritten": lambda path: _overwrite(path, 100, b"\0" * (path.stat().st_size - 100)),
    "another version": lambda path: _statements(path, f"PRAGMA user_version = {FORMAT_VERSION + 1}"),
    "another application": _foreign,
    "table dropped": lambda path: _statements(path, "DROP TABLE totals"),
}


class TestCorruptFile:
    @pytest.mark.parametrize("damage", CORRUPT.values(), ids=CORRUPT.keys())
    def test_is_set_aside_and_a_new_one_begun(
        self, damage: Callable[[Path], None], filled: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(filled)
        before = filled.read_bytes()
        memory = SqliteMemory(filled.parent, fingerprint="model")
        assert contents(memory) == {}
        memory.put(tenant="", session="s", tokens=ids(1))
        assert contents(memory) == {("", "s"): [1]}
        memory.close()
        (moved,) = aside(filled.parent)
        assert moved.name == f"{filled.name}.corrupt-1"
        assert moved.read_bytes() == before
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert moved.name in caplog.text

    def test_damage_while_in_use(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        memory = SqliteMemory(tmp_path, fingerprint="model")
        for number in range(400):  # more than sqlite keeps in its cache
            memory.put(tenant="old", session=str(number), tokens=session_of(number, 4_000))
        _overwrite(memory.path, 4096, b"\xa5" * (memory.path.stat().st_size - 4096))
        contents(memory)
        memory.put(tenant="new", session="s", tokens=ids(1))
        assert contents(memory) == {("new", "s"): [1]}
        memory.close()
        assert len(aside(tmp_path)) == 1
        assert "cannot be read" in caplog.text

    def test_table_dropped_while_in_use(self, filled: Path) -> None:
        memory = SqliteMemory(filled.parent, fingerprint="model")
        assert len(contents(memory)) == 50
        _statements(filled, "DROP TABLE sessions")
        memory.put(tenant="", session="s", tokens=ids(1))
        assert contents(memory) == {("", "s"): [1]}
        memory.close()
        assert len(aside(filled.parent)) == 1

    def test_few_are_kept(self, tmp_path: Path) -> None:
        for _ in range(6):
            memory = SqliteMemory(tmp_path, fingerprint="model")
            memory.path.write_bytes(b"x" * 200)
            memory.put(tenant="", session="s", tokens=ids(1))
            memory.close()
        assert [path.name.rpartition("-")[2] for path in aside(tmp_path)] == ["4", "5", "6"]

    def test_a_folder_in_its_place(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        memory = SqliteMemory(tmp_path, fingerprint="model")
        memory.path.mkdir()
        memory.put(tenant="", session="s", tokens=ids(1))
        assert contents(memory) == {("", "s"): [1]}
        memory.close()
        assert "kept in this process" in caplog.text


def _packed(tokens: IntArray) -> bytes:
    return zlib.compress(tokens.astype("<i4").tobytes(), 1)


ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "cut blob": ("tokens = substr(tokens, 1, 20)", {}),
    "no stream": ("tokens = x'00112233445566778899'", {}),
    "longer than it says": ("length = 499", {}),
    "shorter than it says": ("length = 501", {}),
    "much shorter than it says": ("length = 900000000", {}),
    "bomb": ("tokens = :tokens", {"tokens": zlib.compress(bytes(50_000_000))}),
    "something after the end": ("tokens = CAST(tokens || x'00' AS BLOB)", {}),
    "negative ids": ("length = 2, tokens = :tokens", {"tokens": _packed(ids(5, -5))}),
    "ids the model does not have": ("length = 2, tokens = :tokens", {"tokens": _packed(ids(5, 200_000))}),
    "name of no text": ("tenant = x'ff00fe'", {}),
    "endless time": ("finished_at = -9e999", {}),
}


@pytest.mark.parametrize("signed", [False, True], ids=["by the disk", "by somebody who knows the format"])
@pytest.mark.parametrize(("change", "values"), ROWS.values(), ids=ROWS.keys())
def test_a_row_that_cannot_be_read_back_is_dropped(
    change: str, values: dict[str, object], signed: bool, filled: Path
) -> None:
    connection = sqlite3.connect(filled, isolation_level=None)
    connection.create_function("digest", 4, _digest)
    connection.execute(f"UPDATE sessions SET {change} WHERE id = 3", values)
    if signed:
        connection.execute("UPDATE sessions SET digest = digest(tenant, session, length, tokens)")
    connection.close()
    memory = SqliteMemory(filled.parent, fingerprint="model", vocab_size=150_000, max_age_days=float("inf"))
    found = contents(memory)
    assert found == {("a", str(n)): session_of(n).tolist() for n in range(50) if n != 2}
    stats = memory.stats()
    assert (stats.sessions, stats.tokens, stats.dropped) == (49, 49 * 500, 1)
    memory.close()
    assert aside(filled.parent) == []


@pytest.mark.parametrize("change", ["tenant = x'62'", "session = x'62'"])
def test_a_name_changed_by_the_disk_gives_nobody_the_session(change: str, filled: Path) -> None:
    _statements(filled, f"UPDATE sessions SET {change} WHERE id = 3")
    memory = SqliteMemory(filled.parent, fingerprint="model")
    assert set(contents(memory)) == {("a", str(n)) for n in range(50) if n != 2}
    memory.close()


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a process that was killed, with 50 sessions: half of them in the database, half in its log."""
    folder = tmp_path_factory.mktemp("left")
    for half in (range(25), range(25, 50)):
        memory = SqliteMemory(folder, fingerprint="model")
        for number in half:
            memory.put(tenant="a", session=str(number), tokens=session_of(number))
        files = {
            path.name: path.read_bytes()
            for path in folder.glob("*.sqlite3*")
            if path.suffix != ".sqlite3-shm"
        }
        memory.close()
    assert sorted(name.rpartition(".")[2] for name in files) == ["sqlite3", "sqlite3-wal"]
    return files


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_damage(data: st.DataObject, left_behind: dict[str, bytes]) -> None:
    """Whatever is read back is what was put, and what is put next is kept."""
    expected = {("a", str(n)): session_of(n).tolist() for n in range(50)}
    with tempfile.TemporaryDirectory() as name:
        for file, content in left_behind.items():
            (Path(name) / file).write_bytes(content)
        damages = data.draw(st.integers(0, 6))
        for _ in range(damages):
            path = Path(name) / data.draw(st.sampled_from(sorted(left_behind)))
            start = data.draw(st.integers(0, path.stat().st_size - 1))
            if data.draw(st.booleans()) or start == 0:
                _overwrite(path, start, data.draw(st.binary(min_size=1, max_size=40)))
            else:
                _truncate(path, start)
        memory = SqliteMemory(Path(name), fingerprint="model")
        found = contents(memory)
        assert found.items() <= expected.items()
        assert damages or found == expected
        memory.put(tenant="b", session="new", tokens=ids(1))
        memory.close()
        again = SqliteMemory(Path(name), fingerprint="model")
        found = contents(again)
        again.close()
        assert found.pop(("b", "new")) == [1]
        assert found.items() <= expected.items()


class TestOtherProcesses:
    def test_kill_in_the_middle_of_puts(self, tmp_path: Path) -> None:
        code = """
for number in range(10**6):
    memory.put(tenant="t", session=str(number), tokens=np.random.default_rng(number).integers(0, 150000, 500).astype(np.int32))
    os.write(1, b"%d\\n" % number)
"""
        for round_ in range(3):
            folder = tmp_path / str(round_)
            command = [sys.executable, "-c", CHILD_HEAD + code, str(folder)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                for _ in range(60 + 37 * round_):
                    child.stdout.readline()
                child.send_signal(signal.SIGKILL)
                told = 60 + 37 * round_ + len(child.stdout.read().splitlines())
            memory = SqliteMemory(folder, fingerprint="model")
            found = contents(memory)
            memory.put(tenant="t", session="after", tokens=ids(1))
            memory.close()
            assert aside(folder) == []
            assert len(found) in (told, told + 1)  # the last may be committed and not yet told
            for number in range(told):
                assert found["t", str(number)] == session_of(number).tolist()

    def test_two_at_once(self, tmp_path: Path) -> None:
        code = """
for number in range(150):
    memory.put(tenant=sys.argv[2], session=str(number), tokens=np.full(100, number, np.int32))
    if number % 10 == 0:
        list(memory.sessions(max_tokens=10**6))
memory.close()
"""
        command = [sys.executable, "-c", CHILD_HEAD + code, str(tmp_path)]
        children = [subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.PIPE) for name in "ab"]
        errors = [child.communicate(timeout=60)[1] for child in children]
        assert errors == [b"", b""]
        memory = SqliteMemory(tmp_path, fingerprint="model")
        assert contents(memory) == {(name, str(n)): [n] * 100 for name in "ab" for n in range(150)}
        assert memory.stats().sessions == 300
        memory.close()

    def test_two_find_the_same_corrupt_file(self, filled: Path) -> None:
        filled.write_bytes(b"x" * 8192)
        code = """
memory.put(tenant=sys.argv[2], session="s", tokens=np.array([1], np.int32))
memory.close()
"""
        command = [sys.executable, "-c", CHILD_HEAD + code, str(filled.parent)]
        children = [subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.DEVNULL) for name in "abc"]
        assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
        memory = SqliteMemory(filled.parent, fingerprint="model")
        assert set(contents(memory)) == {(name, "s") for name in "abc"}
        memory.close()
        assert len(aside(filled.parent)) == 1

    def test_file_deleted_by_somebody(self, filled: Path) -> None:
        memory = SqliteMemory(filled.parent, fingerprint="model")
        assert len(contents(memory)) == 50
        for path in list(filled.parent.iterdir()):
            path.unlink()
        memory.put(tenant="", session="s", tokens=ids(1))
        other = SqliteMemory(filled.parent, fingerprint="model")
        assert contents(other) == contents(memory) == {("", "s"): [1]}
        memory.close()
        assert contents(other) == {("", "s"): [1]}
        other.close()

    def test_locked_for_long(self, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("agentinfer_lg.serving.sam.index.session_file._BUSY_SECONDS", 0.05)
        monkeypatch.setattr(f"{MEMORY}._RETRY_SECONDS", 0.0)
        memory = SqliteMemory(filled.parent, fingerprint="model")
        assert len(contents(memory)) == 50
        holder = sqlite3.connect(filled, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        memory.put(tenant="", session="s", tokens=ids(1))
        assert not memory.stats().persistent
        assert len(contents(memory)) == 51
        holder.execute("ROLLBACK")
        holder.close()
        memory.close()
        again = SqliteMemory(filled.parent, fingerprint="model")
        assert contents(again)["", "s"] == [1]
        again.close()


class TestDisk:
    def test_full(self, tmp_path: Path) -> None:
        code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for number in range(200):
    memory.put(tenant="t", session=str(number), tokens=np.random.default_rng(number).integers(0, 150000, 500).astype(np.int32))
found = [s.session for s in memory.sessions(max_tokens=10**9)]
assert sorted(found) == sorted(map(str, range(200))), len(found)
assert not memory.stats().persistent
memory.close()
print(json.dumps(found))
"""
        done = run_child(code, str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert 1 <= done.stderr.count("kept in this process until it can") <= 2, (
            done.stderr
        )  # closing tries again
        memory = SqliteMemory(tmp_path, fingerprint="model")
        found = contents(memory)
        memory.close()
        assert 10 < len(found) < 200
        assert all(tokens == session_of(int(key[1])).tolist() for key, tokens in found.items())
        assert aside(tmp_path) == []

    def test_unusable_folder_that_becomes_usable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(f"{MEMORY}._RETRY_SECONDS", 0.0)
        folder = tmp_path / "sam"
        folder.write_text("a file")
        memory = SqliteMemory(folder, fingerprint="model")
        for number in range(3):
            memory.put(tenant="t", session=str(number), tokens=ids(number))
        assert not memory.stats().persistent
        assert [key[1] for key in contents(memory)] == ["2", "1", "0"]
        with pytest.raises(AgentInferError, match="could not be removed"):
            memory.forget(tenant="other")
        assert len(caplog.records) == 1
        folder.unlink()
        memory.put(tenant="t", session="3", tokens=ids(3))
        assert memory.stats().persistent
        assert "3 sessions moved to it" in caplog.text
        memory.close()
        again = SqliteMemory(folder, fingerprint="model")
        assert [key[1] for key in contents(again)] == ["3", "2", "1", "0"]
        again.close()

    def test_a_disk_that_failed_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "sam"
        folder.write_text("a file")
        memory = SqliteMemory(folder, fingerprint="model")
        memory.put(tenant="t", session="0", tokens=ids(0))
        folder.unlink()
        memory.put(tenant="t", session="1", tokens=ids(1))
        assert not folder.exists()
        memory.close()  # the last chance
        again = SqliteMemory(folder, fingerprint="model")
        assert len(contents(again)) == 2
        again.close()

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drops root's rights in a child")
    def test_read_only(self, filled: Path) -> None:
        """What is there is read, what is new stays in the process."""
        code = """
import encodings.idna
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
assert len(list(memory.sessions(max_tokens=10**9))) == 50
memory.put(tenant="", session="new", tokens=np.array([1], np.int32))
assert len(list(memory.sessions(max_tokens=10**9))) == 51
assert not memory.stats().persistent
memory.close()
"""
        # Folders of pytest are closed to others, and another run of it closes them again at any time.
        with tempfile.TemporaryDirectory() as outside:
            folder = shutil.copytree(filled.parent, Path(outside) / "memory")
            Path(outside).chmod(0o755)
            for path in folder.iterdir():
                path.chmod(0o444)
            folder.chmod(0o555)
            done = run_child(code, str(folder))
            folder.chmod(0o755)
        assert done.returncode == 0, done.stderr
        assert "kept in this process until it can" in done.stderr


class TestFingerprint:
    def _tokenizer(self, folder: Path, content: str = "{}") -> Path:
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text(content)
        (folder / "tokenizer_config.json").write_text("{}")
        return folder

    def test_content_counts_not_the_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = self._tokenizer(tmp_path / "a" / "model")
        two = self._tokenizer(tmp_path / "b" / "model")
        monkeypatch.chdir(tmp_path / "a")
        assert fingerprint(str(one), 100) == fingerprint(str(two), 100) == fingerprint("model", 100)
        assert fingerprint(str(one), 100, revision="x") == fingerprint(str(one), 100)

    def test_what_makes_a_difference(self, tmp_path: Path) -> None:
        one = self._tokenizer(tmp_path / "a" / "model")
        different = {
            fingerprint(str(one), 100),
            fingerprint(str(one), 101),
            fingerprint(str(self._tokenizer(tmp_path / "b" / "model", "{} ")), 100),
            fingerprint(str(self._tokenizer(tmp_path / "b" / "other")), 100),
            fingerprint("model", 100),
            fingerprint("model", 100, revision="r"),
            fingerprint("model", 100, one),
            fingerprint("other", 100, one),
        }
        assert len(different) == 6
        assert fingerprint("model", 100, one) == fingerprint(str(one), 100)

    def test_no_tokenizer_in_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer_config.json").write_text("{}")
        assert fingerprint("m", 1, tmp_path, revision="a") != fingerprint("m", 1, tmp_path, revision="b")

    def test_tiktoken(self, tmp_path: Path) -> None:
        (tmp_path / "qwen.tiktoken").write_text("IQ== 0")
        before = fingerprint("m", 1, tmp_path)
        (tmp_path / "qwen.tiktoken").write_text("IQ== 1")
        assert fingerprint("m", 1, tmp_path) != before


def test_default_folder_is_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_folder() == tmp_path / "agentinfer" / "sam"
    assert default_folder().name == "sam"


def test_numba_is_not_imported() -> None:
    code = "import sys, json; import agentinfer_lg.serving.sam.index.memory; print(json.dumps('numba' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
