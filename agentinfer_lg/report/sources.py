"""What a source is known by: its key, and its address however it is spelled."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote


def source_key(uri: str) -> str:
    """Identity of a source: the first 12 hex digits of the SHA-256 of its URI."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def same_uri(uri: str) -> str:
    """A form that is equal for addresses that differ only in their spelling."""
    scheme, separator, rest = unquote(uri.split("#", 1)[0]).rstrip("/").partition("://")
    if not separator:
        return scheme.removeprefix("./")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}"
