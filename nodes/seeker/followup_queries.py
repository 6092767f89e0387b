"""Follow-up queries: what the results so far name that has not been looked for (pure).

A small model finds "the medal is kept in the Aldern museum", and searches for the medal again. So a search that asks nothing
new also asks for what the sentences name that match the question best: the next hop of a question that needs several. This
is pseudo-relevance feedback, with sentences in the place of documents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentinfer_lg.text import content_terms, idf_scores, sentences

_SENTENCES = 12
"""Best sentences that are looked at."""
_MOST_WORDS = 8
_MOST_CHARACTERS = 100
"""Of a query."""
_LEAST_SHARED = 2
"""Terms that a sentence must have in common with the question."""
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_CAPITAL = re.compile(r"\s[A-Z]")
_IS_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
_CJK_RUN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")
_QUESTION_MARKS = ("?", "？")
"""A question says nothing; it is what an advertisement begins with."""
_SMALL_WORDS = frozenset(("of", "the", "de", "la", "van", "der", "von"))


@dataclass(frozen=True, slots=True)
class FollowUpQuery:
    """Something to look up."""

    name: str
    """What a sentence names and nobody searched for."""
    wanted: str
    """Words of the question that this sentence does not answer; may be empty."""
    sentence: str

    @property
    def text(self) -> str:
        """What to search for: what is still wanted of what was named."""
        return f"{self.name} {self.wanted}".strip()


def same_query(query: str, other: str) -> bool:
    """Whether two queries ask for the same, in whatever order."""
    return (content_terms(query) or query) == (content_terms(other) or other)


def asks_nothing_new(queries: Sequence[str], made: Sequence[str]) -> bool:
    """Whether `queries` hold no term that an earlier query did not hold; `False` before the first one."""
    known = _union(made)
    return bool(made) and all(content_terms(query) <= known for query in queries)


def followup_queries(
    texts: Sequence[str], titles: Sequence[str], question: str, made: Sequence[str], *, most: int
) -> list[FollowUpQuery]:
    """Return what to search for next, best first.

    From a text in an alphabet with capitals the names of a sentence are taken, else the words that were not searched for.

    Args:
        texts: Passages found so far.
        titles: Titles of the documents whose passages they are: these need not be found again.
        question: What is to be answered.
        made: Queries so far, follow-up queries included.
        most: Queries to return at most, each of another sentence.
    """
    known = content_terms(question) | _union(made) | _union(titles)
    near = _sentences_on(question, texts)
    named = _picked(_names, near, question, known, most)
    known |= {term for query in named for term in content_terms(query.name)}
    # The less a sentence says besides what was asked, the more that is an answer.
    near = sorted(near, key=lambda sentence: len(_words(sentence, known)))
    return named + _picked(_words, near, question, known, most - len(named))


def _picked(
    pick: Callable[[str, set[str]], str], near: Sequence[str], question: str, known: set[str], most: int
) -> list[FollowUpQuery]:
    """Return what `pick` finds in the sentences that is not known, nor found in one before."""
    found: list[FollowUpQuery] = []
    known = set(known)
    for sentence in near:
        name = pick(sentence, known)[:_MOST_CHARACTERS].strip() if len(found) < most else ""
        if name:
            found.append(FollowUpQuery(name, _open_words(question, f"{sentence} {name}"), sentence))
            known |= content_terms(name)
    return found


def _sentences_on(question: str, texts: Sequence[str]) -> list[str]:
    """Return the statements that share most with the question, best first."""
    spoken = (" ".join(each.split()) for text in texts for each in sentences(text))
    candidates = list(dict.fromkeys(each for each in spoken if not each.endswith(_QUESTION_MARKS)))
    own, asked = [content_terms(candidate) for candidate in candidates], content_terms(question)
    matches = idf_scores(own, [asked])
    # Over the root of the length: short and dense sentences first.
    scores = [match / math.sqrt(1 + len(each)) for match, each in zip(matches, own, strict=True)]
    order = sorted(range(len(candidates)), key=lambda index: (-scores[index], index))
    return [candidates[index] for index in order[:_SENTENCES] if len(own[index] & asked) >= _LEAST_SHARED]


def _names(sentence: str, known: set[str]) -> str:
    """Return the capitalised names in `sentence` that hold something unknown; the first word is no name by its capital."""
    names: list[str] = []
    run: list[str] = []
    end = 0
    for match in [*_WORD.finditer(sentence), None]:
        if match is None or not _continues(sentence[end : match.start()], match[0], run):
            names.extend(_name(run, known))
            run = []
        if match is not None:
            if (match[0][0].isupper() and end > 0) or (run and match[0] in _SMALL_WORDS):
                run.append(match[0])
            end = match.end()
    return " ".join(" ".join(dict.fromkeys(names)).split()[:_MOST_WORDS])


def _continues(between: str, word: str, run: Sequence[str]) -> bool:
    return bool(run) and between == " " and (word[0].isupper() or word in _SMALL_WORDS)


def _name(run: Sequence[str], known: set[str]) -> list[str]:
    words = list(run)
    while words and words[-1] in _SMALL_WORDS:
        words.pop()
    name = " ".join(words)
    return [name] if content_terms(name) - known else []


def _words(sentence: str, known: set[str]) -> str:
    """Return the words of `sentence` that are not known, in order; of a CJK run the pieces that no known pair covers.

    Nothing of a sentence that could have capitalised a name.
    """
    if _CAPITAL.search(sentence) and not _IS_CJK.search(sentence):
        return ""
    return " ".join(word for word in _unknown_words(sentence, known) if not word.isdigit())


def _open_words(question: str, sentence: str) -> str:
    """Return the words of the question that the sentence does not have."""
    return " ".join(_unknown_words(question, content_terms(sentence)))


def _unknown_words(text: str, known: set[str]) -> list[str]:
    kept: list[str] = []
    for match in _WORD.finditer(text):
        word = match[0]
        if _IS_CJK.search(word):
            kept.extend(piece for run in _CJK_RUN.findall(word) for piece in _uncovered(run, known))
        elif content_terms(word) - known:
            kept.append(word)
    return list(dict.fromkeys(kept))[:_MOST_WORDS]


def _uncovered(run: str, known: set[str]) -> list[str]:
    covered = [False] * len(run)
    for start in range(len(run) - 1):
        if run[start : start + 2] in known or not content_terms(run[start : start + 2]):
            covered[start] = covered[start + 1] = True
    pieces = "".join(
        " " if hidden else character for character, hidden in zip(run, covered, strict=True)
    ).split()
    return [piece for piece in pieces if len(piece) > 1]


def _union(texts: Sequence[str]) -> set[str]:
    return {term for text in texts for term in content_terms(text)}
