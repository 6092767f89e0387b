"""Whether a question needs a result that the model no longer sees. A small model that lacks a detail rarely says so."""

from __future__ import annotations

from collections.abc import Sequence

from agentinfer_lg.compression.fidelity import exact_terms
from agentinfer_lg.compression.originals import Original
from agentinfer_lg.text import content_terms, idf_scores, sentences


def lacking(
    originals: Sequence[Original], visible: str, questions: Sequence[str]
) -> tuple[Original, str] | None:
    """Return the first question whose best sentence among the originals the model does not see, and its original.

    Takes about half a second for 200 originals of 1,000 tokens: not for an event loop.

    Args:
        originals: Results that were distilled.
        visible: What the model sees: the notes and the results that are whole. Strings that are merely listed for recall do
            not belong here, for nothing says what they are.
        questions: What is asked.

    Returns:
        None if nothing matches, or every number, name and link of those sentences is in `visible`.
    """
    places = [(original, sentence) for original in originals for sentence in sentences(original.text)]
    # With the title: most sentences of a document name its subject only once, or as "it".
    titles = {original.number: content_terms(original.title) for original in originals}
    terms = [titles[original.number] | content_terms(sentence) for original, sentence in places]
    seen = exact_terms(visible)
    for question in questions:
        scores = idf_scores(terms, [content_terms(question)])
        best = max(range(len(places)), key=lambda index: scores[index], default=None)
        if best is None or scores[best] <= 0:
            continue
        original, sentence = places[best]
        if not exact_terms(sentence) - exact_terms(f"{original.title} {question}") <= seen:
            return original, question
    return None
