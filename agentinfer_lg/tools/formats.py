"""Text out of bytes: what txt, markdown, HTML, PDF and JSON documents say.

Everything here blocks; call it from a worker thread. What comes out is data of a stranger: control characters, which
could drive a terminal, are gone.
"""

from __future__ import annotations

import html
import io
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentinfer_lg.errors import ToolError

_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_META_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w.:-]{1,40})|<\?xml[^>]{0,100}?encoding=[\"']([\w.:-]{1,40})",
    re.I,
)
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_TITLE = re.compile(r"<title[^>]*>(.{0,2000}?)</title", re.I | re.S)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$", re.M)
_FRONT_MATTER = re.compile(r"\A---\s*\n(.{0,5000}?)\n---\s*\n", re.S)
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.M | re.I)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_WESTERN = bytes(
    range(128)
) + "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜàáâãäåæçèéêëìíîïñòóôõöøùúûüßœŒ–—‘’“”«»…•€£§° ".encode("cp1252")
"""Bytes of the languages of western Europe; guessers of character sets tend to take them for eastern ones."""
_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
}
"""What browsers read these labels as."""
_MAX_ELEMENTS, _MAX_ELEMENTS_FAST = 5_000, 30_000
"""Elements of a page up to which its main text is told thoroughly, and at all: that takes more than linear time."""
_SILENT = frozenset(("script", "style", "noscript", "template", "svg", "head"))
_INLINE_TAGS = "a abbr b bdi bdo cite code em font i mark q s small span strong sub sup u var"
_INLINE = frozenset(_INLINE_TAGS.split())
_JUNK_TITLES = ("untitled", "microsoft word", "microsoft powerpoint", "powerpoint presentation")


def clean_text(text: str) -> str:
    """Drop control and invisible formatting characters; one kind of line break, at most one blank line in a row."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text)
    return re.sub(r"\n[ \t]*\n\s*\n", "\n\n", text).strip()


def decode_text(data: bytes, *, charset: str = "") -> str:
    """Decode bytes whose character set may be declared, declared wrongly, or unknown.

    Args:
        data: May end in the middle of a character.
        charset: As declared, for example by a `Content-Type` header.

    Raises:
        ToolError: The bytes are not text.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data[:8192]:
        msg = "it is not text (it holds NUL bytes)."
        raise ToolError(msg)
    for encoding in (charset, _meta_charset(data)):
        text = _decode(data, encoding)
        if text is not None:
            return text
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.start >= len(data) - 3:
            return data.decode(errors="ignore")
    return _guess(data)


def _meta_charset(data: bytes) -> str:
    match = _META_CHARSET.search(data, 0, 4096)
    return (match[1] or match[2]).decode("ascii", "ignore") if match else ""


def _decode(data: bytes, charset: str) -> str | None:
    """Decode as declared; None when nothing was declared, the name is unknown, or the text is plainly something else."""
    charset = charset.strip().strip("\"'").lower()
    if not charset:
        return None
    try:
        text = data.decode(_SUPERSETS.get(charset, charset), "replace")
    except (LookupError, ValueError):  # an unknown name, or a codec that is not one of text
        return None
    return text if text.count("\ufffd") <= 2 + len(text) // 100 else None


def _guess(data: bytes) -> str:
    runs = [len(match[0]) for match in _HIGH_BYTES.finditer(data, 0, 200_000)]
    # In GB2312 text both bytes of a character are high, so high bytes come in pairs; in Latin text they mostly do not.
    if sum(run for run in runs if run % 2 == 0) >= 0.8 * sum(runs):
        text = data.decode("gb18030", "replace")
        if text.count("\ufffd") <= 2 + len(text) // 1000:
            return text
    if 4 * sum(runs) < min(len(data), 200_000) and not data.translate(None, _WESTERN):
        return data.decode("cp1252")
    from charset_normalizer import from_bytes  # a dependency of trafilatura

    best = from_bytes(data[:200_000]).best()
    if best is not None:
        return data.decode(best.encoding, "replace")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        msg = "its character set is not known. Save it as UTF-8."
        raise ToolError(msg) from None


def markdown_title(text: str) -> str:
    """Title in the front matter, else the first heading, else ""."""
    front = _FRONT_MATTER.match(text)
    match = (_FRONT_TITLE.search(front[1]) if front else None) or _HEADING.search(text, 0, 20_000)
    return one_line(match[1]) if match else ""


def one_line(text: str, *, limit: int = 300) -> str:
    """`text` without control characters, on one line of at most `limit` characters."""
    return " ".join(_CONTROL.sub("", text).split())[:limit]


def html_text(markup: str) -> tuple[str, str]:
    """Title and main text, as markdown, of an HTML page; all its text where no main text can be told."""
    match = _TITLE.search(markup, 0, 200_000)
    title = one_line(html.unescape(match[1])) if match else ""
    plain, elements = _plain_text(markup)
    main = _main_text(markup, fast=elements > _MAX_ELEMENTS) if elements <= _MAX_ELEMENTS_FAST else ""
    # A short page is often taken for boilerplate as a whole.
    if len(main) < 200 and 2 * len(main) < len(plain) < 2000:
        main = plain
    text = clean_text(main or plain)
    return title or markdown_title(text), text


def _main_text(markup: str, *, fast: bool) -> str:
    import trafilatura

    with _quiet("trafilatura"):
        try:
            text = trafilatura.extract(markup, output_format="markdown", include_comments=False, fast=fast)
        except Exception:  # any parser error on a hostile page; the caller falls back to the plain text
            return ""
    return text or ""


def _plain_text(markup: str) -> tuple[str, int]:
    """All visible text, one line per block element, and the number of elements."""
    from lxml import etree  # type: ignore[import-untyped]
    from lxml import html as lxml_html

    # As bytes: lxml refuses a string whose XML declaration names an encoding.
    parser = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True)
    try:
        tree = lxml_html.document_fromstring(markup.encode("utf-8", "replace"), parser=parser)
    except (etree.LxmlError, ValueError):
        return "", 0
    parts: list[str] = []
    elements = 0
    walker = etree.iterwalk(tree, events=("start", "end", "comment", "pi"))
    for event, element in walker:
        breaks = event in ("start", "end") and element.tag not in _INLINE
        if event == "start":
            elements += 1
            if element.tag in _SILENT:
                walker.skip_subtree()
            else:
                parts.append(("\n" if breaks else "") + _spaced(element.text))
        else:  # the end of an element, a comment, a processing instruction
            parts.append(("\n" if breaks else "") + _spaced(element.tail))
    return clean_text("".join(parts)), elements


def _spaced(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")


def pdf_text(
    data: bytes, *, max_pages: int = 300, max_characters: int = 5_000_000, seconds: float = 600.0
) -> tuple[str, str, bool]:
    """Title, text and whether a limit cut it short, of a PDF.

    Args:
        data: The file.
        max_pages: Pages read.
        max_characters: Characters after which reading stops.
        seconds: Time after which reading stops, checked between pages.

    Raises:
        ToolError: It is broken, locked by a password, or has no text (a scan).
    """
    deadline = time.monotonic() + seconds
    parts: list[str] = []
    size, broken = 0, 0
    with _quiet("pypdf"):
        pages, title = _open_pdf(data)
        for number in range(min(len(pages), max_pages)):
            if size > max_characters or time.monotonic() > deadline:
                break
            try:
                parts.append(pages[number].extract_text())
            except Exception:  # one bad page does not spoil the others
                broken += 1
                parts.append("")
            size += len(parts[-1])
    text = clean_text("\n\n".join(parts))
    if not text:
        msg = "it is not a readable PDF." if broken else "it has no text in it (a scan?)."
        raise ToolError(msg)
    return title, text[:max_characters], len(parts) < len(pages) or len(text) > max_characters


def _open_pdf(data: bytes) -> tuple[Sequence[Any], str]:  # Any: pypdf is imported lazily
    """Return the pages, and the title if it is one.

    Raises:
        ToolError: It is broken, or locked by a password.
    """
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        locked = reader.is_encrypted and not reader.decrypt("")
        pages: Sequence[Any] = () if locked else reader.pages
        len(pages)  # reads the tree of pages
        title = one_line(str(reader.metadata.title or "") if not locked and reader.metadata else "")
    except Exception:  # pypdf lets all kinds of errors through on a broken file
        msg = "it is not a readable PDF."
        raise ToolError(msg) from None
    if locked:
        msg = "it is locked by a password."
        raise ToolError(msg)
    return pages, "" if title.lower().startswith(_JUNK_TITLES) else title


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library from complaining about a document on stderr, where a live view may be."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
