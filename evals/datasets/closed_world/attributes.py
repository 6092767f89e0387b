"""Facts that a question about a closed world can end in."""

from __future__ import annotations

from typing import Final, get_args

from agentinfer_lg.evals.common.data_file import read_data
from agentinfer_lg.evals.datasets.closed_world.names import Kind
from agentinfer_lg.evals.datasets.closed_world.vocabulary import Phrase, TypeName
from agentinfer_lg.text import Language

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Kinds of values."""

_ATTRIBUTE_ROWS: dict[TypeName, dict[Kind, tuple[str, str]]] = read_data(__file__, "attributes.json")
"""English and Chinese names of the facts that a question can end in."""


def _attribute(kind: Kind, en: str, zh: str) -> dict[Language, Phrase]:
    if kind == "year":
        english = Phrase(
            noun=f"the year in which {{x}} {en}",
            sentence=f"{{x}} {en} in {{v}}.",
            question=f"In which year was {{x}} {en.removeprefix('was ')}?",
        )
    else:
        english = Phrase(noun=en, sentence=f"{en[0].upper()}{en[1:]} is {{v}}.", question=f"What is {en}?")
    asks = {"year": "是哪一年", "number": "是多少"}.get(kind, "是什么")
    return {"en": english, "zh": Phrase(noun=zh, sentence=f"{zh}是{{v}}。", question=f"{zh}{asks}？")}


ATTRIBUTES: Final[dict[TypeName, dict[Kind, dict[Language, Phrase]]]] = {
    name: {kind: _attribute(kind, *row) for kind, row in rows.items()}
    for name, rows in _ATTRIBUTE_ROWS.items()
}
"""Facts that a question can end in, by type of entity and kind of value."""
