"""A question with a known answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of a benchmark."""

    id: str
    """Name in files and of the run: letters, digits, `.`, `_`, `-`."""
    question: str
    answer: str
    also_right: tuple[str, ...] = ()
    """Other answers that count as right."""
    topic: str = ""
    hops: int = 0
    """Documents that have to be found one after the other; 0: not known."""
    evidence: tuple[str, ...] = ()
    """Titles of these documents, in order, as far as they are known."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that count as right."""
        return (self.answer, *self.also_right)
