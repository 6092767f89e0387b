"""What a long session searches, taken from the documents that it searches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.compression.long_session.scripted_search import searchable
from agentinfer_lg.tools.formats import clean_text, decode_text, markdown_title

_TEXT = (".md", ".markdown", ".txt")
_READ_BYTES = 4000
_LEAST_CHARS = 100
"""A shorter document has too little to be searched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A task, and the search of each round."""

    question: str
    searches: tuple[str, ...]


def make_script(folder: Path, *, rounds: int) -> Script:
    """Choose documents that are spread evenly over a folder; each round searches for the title and first words of one.

    Args:
        folder: Text and Markdown files, in any sub-folder.
        rounds: Searches.

    Raises:
        UserInputError: There are fewer documents than rounds.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _TEXT and path.is_file())
    found = [(title, text) for title, text in map(_read, files) if len(text) >= _LEAST_CHARS]
    if len(found) < rounds:
        msg = f"{folder} holds {len(found)} text documents, too few for {rounds} rounds: give another --docs, or fewer --rounds"
        raise UserInputError(msg)
    chosen = [found[number * len(found) // rounds] for number in range(rounds)]
    titles = [searchable(title) for title, _ in chosen[:3]]
    return Script(
        question=f"What do the documents tell about {', '.join(titles[:-1])} and {titles[-1]}?",
        searches=tuple(searchable(f"{title} {text}") for title, text in chosen),
    )


def _read(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        text = clean_text(decode_text(file.read(_READ_BYTES)))
    title = markdown_title(text) or path.stem
    return title, " ".join(text.replace("#", " ").split()).removeprefix(title).strip()
