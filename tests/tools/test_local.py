import asyncio
import io
import os
import shutil
import sqlite3
import threading
import unicodedata
from pathlib import Path

import pypdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentinfer_lg.errors import ToolError, UserInputError
from agentinfer_lg.tools import LocalFolder, SearchProvider
from agentinfer_lg.tools import local as local_module


def _pdf(text: str, *, title: str = "", password: str = "") -> bytes:
    """A one-page PDF with `text`, written by hand; pypdf adds the rest."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += (
        b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF"
        % (
            table,
            len(data),
        )
    )
    if not (title or password):
        return data
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


HTML = """<!doctype html><html><head><title>Fjords &amp; ferries</title><script>var hidden = 1;</script></head>
<body><nav><a href="/">Home</a></nav><article><h1>Ferries of the fjords</h1>
<p>The ferry to Balestrand crosses the Sognefjord several times a day, all through the year.</p>
<p>It takes cars, bicycles and people on foot, and the crossing lasts about an hour and a half.</p>
</article></body></html>"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "rain.md").write_text(
        "# Rain in Bergen\n\nIt rains on 231 days of the year. Umbrellas are sold everywhere.\n"
    )
    (root / "oslo.txt").write_text("Oslo is the capital of Norway. It was founded by Harald Hardrada.\n")
    (root / "北京.txt").write_text(
        "北京是中华人民共和国的首都，位于华北平原。故宫在市中心。北京的猫很多，爱鱼。\n", encoding="utf-8"
    )
    (root / "上海.txt").write_bytes("上海是中国的港口城市，外滩在黄浦江边。".encode("gb18030"))
    (root / "ferries.html").write_text(HTML)
    (root / "cod.pdf").write_bytes(
        _pdf("Stockfish is cod dried on wooden racks in Lofoten.", title="All about stockfish")
    )
    return root


async def _uris(provider: LocalFolder, query: str, limit: int = 5) -> list[str]:
    (hits,) = await provider.search([query], limit=limit)
    return [hit.uri for hit in hits]


async def test_it_is_a_search_provider(folder: Path) -> None:
    assert isinstance(LocalFolder(folder), SearchProvider)
    assert await LocalFolder(folder).check() == 6


@pytest.mark.parametrize(
    ("query", "uri", "title"),
    [
        ("How many days does it rain in Bergen?", "notes/rain.md", "Rain in Bergen"),
        ("umbrella sale", "notes/rain.md", "Rain in Bergen"),  # stemmed
        ("who founded Oslo", "oslo.txt", "oslo"),
        ("ferry across the Sognefjord", "ferries.html", "Fjords & ferries"),
        ("drying cod in Lofoten", "cod.pdf", "All about stockfish"),
        ("中国的首都在哪里", "北京.txt", "北京"),
        ("故宫", "北京.txt", "北京"),
        ("外滩", "上海.txt", "上海"),  # a file in GB 18030
        ("鱼", "北京.txt", "北京"),  # one character, last of its run
        ("猫", "北京.txt", "北京"),
        ("ＯＳＬＯ", "oslo.txt", "oslo"),
    ],
)
async def test_the_best_document_comes_first(folder: Path, query: str, uri: str, title: str) -> None:
    (hits,) = await LocalFolder(folder).search([query], limit=3)
    assert (hits[0].uri, hits[0].title) == (uri, title)
    assert hits[0].score > 0
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_one_list_per_query_in_order(folder: Path) -> None:
    rain, nothing, empty, oslo = await LocalFolder(folder).search(["rain", "zebra", "", "Oslo"], limit=5)
    assert [rain[0].uri, nothing, empty, oslo[0].uri] == ["notes/rain.md", [], [], "oslo.txt"]
    assert await LocalFolder(folder).search([], limit=5) == []
    assert await LocalFolder(folder).search(["rain"], limit=0) == [[]]


async def test_a_document_is_found_once_and_by_its_best_passage(tmp_path: Path) -> None:
    filler = "Nothing of interest is said in this sentence about the harbour. " * 15
    (tmp_path / "long.md").write_text(
        f"# Harbour\n\n{filler}\n\n{filler}\n\nThe zebra came in 1911 by ship. It left again.\n\n{filler}"
    )
    (tmp_path / "other.md").write_text("# Other\n\nThe harbour is old.")
    (hits,) = await LocalFolder(tmp_path).search(["harbour zebra"], limit=5)
    assert [hit.uri for hit in hits] == ["long.md", "other.md"]
    assert "The zebra came in 1911 by ship." in hits[0].snippet
    assert len(hits[0].snippet) <= 400


async def test_a_match_in_the_title_counts_more(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# Weather\n\nThe lighthouse is white. It stands on a rock by the sea in the west."
    )
    (tmp_path / "b.md").write_text(
        "# Lighthouse\n\nIt is white and stands on a rock by the sea, in the far west there."
    )
    assert await _uris(LocalFolder(tmp_path), "lighthouse") == ["b.md", "a.md"]


@pytest.mark.parametrize(
    "query",
    ['"', "Oslo\" OR \"", "NEAR(Oslo, 2)", "title:Oslo", "Oslo*", "-Oslo", "^Oslo", "(Oslo", "AND OR NOT Oslo",
     "';DROP TABLE documents;--Oslo",
     "Oslo\0", "\ud800 Oslo", "{Oslo}: x", "Oslo " + "a b c " * 20_000, "Oslo " + "北" * 50_000],
)  # fmt: skip
async def test_no_query_becomes_syntax(folder: Path, query: str) -> None:
    provider = LocalFolder(folder)
    found = await _uris(provider, query)
    assert ("oslo.txt" in found) == ("Oslo" in query)
    assert await provider.check() == 6


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(query=st.text(st.characters(codec=None)))
def test_any_query_is_answered(folder: Path, query: str) -> None:
    async def search() -> None:
        await provider.search([query], limit=3)
        assert await provider.fetch(query, timeout=60, max_bytes=10) is None
        await provider.aclose()

    provider = LocalFolder(folder)
    asyncio.run(search())


async def test_fetch_returns_the_text(folder: Path) -> None:
    provider = LocalFolder(folder)
    document = await provider.fetch("notes/rain.md", timeout=60, max_bytes=10_000)
    assert document is not None
    assert document.text.startswith("# Rain in Bergen\n\nIt rains on 231 days")
    assert not document.truncated
    page = await provider.fetch("./ferries.html", timeout=60, max_bytes=10_000)
    assert page is not None
    assert "crosses the Sognefjord" in page.text
    assert "hidden" not in page.text


async def test_fetch_stops_at_the_byte_limit_between_characters(folder: Path) -> None:
    document = await LocalFolder(folder).fetch("北京.txt", timeout=60, max_bytes=10)
    assert document is not None
    assert (document.text, document.truncated) == ("北京是", True)


async def test_fetch_of_a_long_document_is_complete(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {i}. " + "Words follow here. " * 30 for i in range(50)).strip()
    (tmp_path / "a.txt").write_text(text)
    document = await LocalFolder(tmp_path).fetch("a.txt", timeout=60, max_bytes=10**6)
    assert document is not None
    assert document.text == text


@pytest.mark.parametrize(
    "uri", ["../secret.txt", "/etc/passwd", "notes/../oslo.txt", "notes", "", ".", "link.txt", "https://a.org/x", "file:///etc/passwd",
            ".hidden.txt", "out/secret.txt", "oslo.txt\0", "\ud800"]
)  # fmt: skip
async def test_fetch_reads_nothing_that_is_not_in_the_index(folder: Path, uri: str) -> None:
    (folder.parent / "secret.txt").write_text("the secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "out").symlink_to(folder.parent)
    (folder / ".hidden.txt").write_text("hidden")
    provider = LocalFolder(folder)
    assert await provider.fetch(uri, timeout=60, max_bytes=1000) is None
    assert await _uris(provider, "secret hidden") == []


async def test_what_is_left_out_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_MAX_FILE_BYTES", 5000)
    (folder / "big.txt").write_text("x" * 5001)
    (folder / "link.txt").symlink_to(folder.parent)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "out").symlink_to(folder.parent)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nnot really")
    (folder / "locked.pdf").write_bytes(_pdf("locked", password="x"))
    (folder / "scan.pdf").write_bytes(_pdf(""))
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 4)
    (folder / "empty.md").write_text(" \n")
    os.mkfifo(folder / "pipe.txt")
    provider = LocalFolder(folder)
    assert await provider.check() == 6
    skipped = "\n".join(sorted(provider.skipped))
    for name in (
        "big.txt",
        "gone.txt",
        "out",
        "broken.pdf",
        "locked.pdf",
        "scan.pdf",
        "binary.txt",
        "empty.md",
        "pipe.txt",
    ):
        assert f"{name}: " in skipped
    assert "locked by a password" in skipped
    assert await _uris(provider, "Oslo") == ["oslo.txt"]
    with pytest.raises(ToolError, match=r"broken\.pdf: it is not a readable PDF"):
        await provider.fetch("broken.pdf", timeout=60, max_bytes=1000)


@pytest.mark.parametrize("make", [lambda p: p / "none", lambda p: p, lambda p: p / "file.bin"])
async def test_a_folder_without_documents_is_the_users_error(tmp_path: Path, make: object) -> None:
    (tmp_path / "file.bin").write_bytes(b"x")
    provider = LocalFolder(make(tmp_path))  # type: ignore[operator]
    with pytest.raises(UserInputError, match="folder"):
        await provider.check()
    with pytest.raises(UserInputError, match="folder"):
        await provider.search(["x"], limit=1)


async def test_changes_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_RESCAN_SECONDS", 0.0)
    provider = LocalFolder(folder)
    assert await _uris(provider, "walrus") == []
    (folder / "oslo.txt").write_text("The walrus is now in Oslo, and much larger than before.")
    (folder / "new.md").write_text("# Walrus\n\nA walrus.")
    (folder / "notes" / "rain.md").unlink()
    provider._next_scan = 0.0  # the pause also grows with the time that a scan takes
    assert sorted(await _uris(provider, "walrus")) == ["new.md", "oslo.txt"]
    assert await _uris(provider, "Hardrada umbrellas") == []
    shutil.rmtree(folder)
    provider._next_scan = 0.0
    assert sorted(await _uris(provider, "walrus")) == ["new.md", "oslo.txt"]  # what was read stays searchable


async def test_the_index_file_is_kept_and_only_changes_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "cache" / "index.sqlite"
    first = LocalFolder(folder, index_file=index)
    assert await first.check() == 6
    await first.aclose()
    read: list[str] = []
    original = local_module._read

    def recorded(path: Path) -> tuple[str, str, bool]:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(local_module, "_read", recorded)
    (folder / "new.txt").write_text("A walrus.")
    (folder / "oslo.txt").unlink()
    second = LocalFolder(folder, index_file=index)
    assert await _uris(second, "walrus") == ["new.txt"]
    assert await _uris(second, "Hardrada") == []
    assert read == ["new.txt"]
    assert await second.check() == 6


@pytest.mark.parametrize("damage", ["not a database", "broken pages"])
async def test_a_corrupt_index_file_is_set_aside_and_built_again(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    index = tmp_path / "index.sqlite"
    first = LocalFolder(folder, index_file=index)
    await first.check()
    await first.aclose()
    data = index.read_bytes()
    index.write_bytes(
        b"garbage" * 2000 if damage == "not a database" else data[:5000] + b"\xff" * (len(data) - 5000)
    )
    provider = LocalFolder(folder, index_file=index)
    assert await _uris(provider, "Hardrada") == ["oslo.txt"]
    assert any("corrupt" in sentence for sentence in provider.skipped)
    assert (tmp_path / "index.sqlite.corrupt").exists()
    await provider.aclose()
    again = LocalFolder(folder, index_file=index)
    assert await _uris(again, "Hardrada") == ["oslo.txt"]
    assert again.skipped == []


async def test_an_index_file_of_another_folder_is_not_used(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.sqlite"
    await LocalFolder(folder, index_file=index).check()
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("A walrus.")
    provider = LocalFolder(other, index_file=index)
    assert await provider.check() == 1
    assert await _uris(provider, "Hardrada") == []


async def test_an_index_file_that_cannot_be_written_is_no_reason_to_stop(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    provider = LocalFolder(folder, index_file=tmp_path / "file" / "index.sqlite")
    assert await provider.check() == 6
    assert "in memory" in provider.skipped[0]


async def test_searches_at_the_same_time(folder: Path) -> None:
    provider = LocalFolder(folder)
    found = await asyncio.gather(*(provider.search(["Oslo", "故宫"], limit=1) for _ in range(20)))
    assert all(oslo[0].uri == "oslo.txt" and peking[0].uri == "北京.txt" for oslo, peking in found)


async def test_files_and_database_are_used_in_worker_threads_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_thread = threading.current_thread()
    seen: set[str] = set()

    def guard(name: str, original: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            seen.add(name)
            assert threading.current_thread() is not loop_thread, name
            return original(*arguments, **options)  # type: ignore[operator]

        return call

    for module, name in (
        (sqlite3, "connect"),
        (os, "walk"),
        (Path, "stat"),
        (Path, "resolve"),
        (Path, "read_bytes"),
        (Path, "exists"),
    ):
        monkeypatch.setattr(module, name, guard(name, getattr(module, name)))
    provider = LocalFolder(folder)
    await provider.search(["Oslo"], limit=1)
    await provider.fetch("oslo.txt", timeout=60, max_bytes=100)
    await provider.aclose()
    assert {"connect", "walk", "stat", "resolve", "read_bytes", "exists"} <= seen


async def test_control_characters_do_not_come_through(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Rain\x1b[31m and\x07 snow \xe2\x80\xae here\r\n\r\n\r\n\r\nend")
    document = await LocalFolder(tmp_path).fetch("a.txt", timeout=60, max_bytes=1000)
    assert document is not None
    assert document.text == "Rain[31m and snow  here\n\nend"
    assert not any(unicodedata.category(c) in ("Cc", "Cf") and c != "\n" for c in document.text)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Ærlig talt: det regner i Bergen på våren, og blåbær vokser på fjellet.", "latin-1"),
        ("长文档的检索是逐段进行的。", "gb18030"),
        ("Rain in Bergen", "utf-16"),
        ("Regen in Köln", "utf-8-sig"),
    ],
)
async def test_character_sets(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    document = await LocalFolder(tmp_path).fetch("a.txt", timeout=60, max_bytes=1000)
    assert document is not None
    assert document.text == text
