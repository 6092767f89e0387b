"""Whether a question needs a result that the model no longer sees. A small model that lacks a detail rarely says so."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.compression.fidelity import exact_terms
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.text import content_terms, idf_scores, sentences

__all__ = ("lacking",)


def lacking(originals: Sequence[Original], visible: str, question: str) -> Original | None:
    """Return the original with the sentence that matches the question best, if the model does not see what it says.

    Args:
        originals: Results that were distilled.
        visible: What the model sees: the notes and the results that are whole. Strings that are merely listed for recall do
            not belong here, for nothing says what they are.
        question: What is asked.

    Returns:
        None if nothing matches, or every number, name and link of that sentence is in `visible`.
    """
    places = [(original, sentence) for original in originals for sentence in sentences(original.text)]
    wanted = content_terms(question)
    # With the title: most sentences of a document name its subject only once, or as "it".
    terms = [content_terms(f"{original.title} {sentence}") for original, sentence in places]
    scores = idf_scores(terms, [wanted])
    best = max(range(len(places)), key=lambda index: scores[index], default=None)
    if best is None or scores[best] <= 0:
        return None
    original, sentence = places[best]
    said = exact_terms(sentence) - exact_terms(f"{original.title} {question}")
    return None if said <= exact_terms(visible) else original
