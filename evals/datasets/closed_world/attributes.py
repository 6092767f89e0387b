"""Facts that a question about a closed world can end in."""

from __future__ import annotations

from typing import Final, get_args

from agentinfer_lg.evals.datasets.closed_world.names import Kind
from agentinfer_lg.evals.datasets.closed_world.vocabulary import Phrase, TypeName
from agentinfer_lg.text import Language

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""Kinds of values."""

# English and Chinese names of the facts that a question can end in.
_ATTRIBUTE_ROWS: dict[TypeName, dict[Kind, tuple[str, str]]] = {
    "ship": {
        "year": ("was launched", "{x}下水的年份"),
        "number": ("the tonnage of {x}", "{x}的吨位数"),
        "code": ("the call sign of {x}", "{x}的呼号"),
        "colour": ("the colour of the hull of {x}", "{x}船身的颜色"),
        "name": ("the name of the cat kept on {x}", "{x}上那只船猫的名字"),
    },
    "person": {
        "year": ("was born", "{x}出生的年份"),
        "number": ("the number of letters left by {x}", "{x}留下的书信总数"),
        "code": ("the shelf mark of the papers of {x}", "{x}手稿的档案编号"),
        "colour": ("the colour of the favourite coat of {x}", "{x}最喜欢的外套的颜色"),
        "name": ("the name of the dog owned by {x}", "{x}养的狗的名字"),
    },
    "shipyard": {
        "year": ("was founded", "{x}创办的年份"),
        "number": ("the number of workers of {x} at its peak", "{x}鼎盛时的工人数"),
        "code": ("the register code of {x}", "{x}的登记编号"),
        "colour": ("the colour of the gate of {x}", "{x}大门的颜色"),
        "name": ("the name of the largest crane of {x}", "{x}最大的起重机的名字"),
    },
    "company": {
        "year": ("was founded", "{x}创办的年份"),
        "number": ("the number of shares issued by {x}", "{x}发行的股票数"),
        "code": ("the telegraph code of {x}", "{x}的电报代码"),
        "colour": ("the colour of the house flag of {x}", "{x}旗帜的颜色"),
        "name": ("the name of the warehouse cat of {x}", "{x}仓库里那只猫的名字"),
    },
    "town": {
        "year": ("was granted its charter", "{x}获得建镇特许的年份"),
        "number": ("the number of inhabitants of {x}", "{x}的居民人数"),
        "code": ("the postal code of {x}", "{x}的邮政代码"),
        "colour": ("the colour of the town hall of {x}", "{x}镇公所的颜色"),
        "name": ("the name of the river that flows through {x}", "流经{x}的河的名字"),
    },
    "institute": {
        "year": ("was founded", "{x}创立的年份"),
        "number": ("the number of volumes in the library of {x}", "{x}图书室的藏书册数"),
        "code": ("the licence code of {x}", "{x}的执照编号"),
        "colour": ("the colour of the gowns worn at {x}", "{x}礼袍的颜色"),
        "name": ("the name of the hill behind {x}", "{x}背后那座山丘的名字"),
    },
    "book": {
        "year": ("was published", "{x}出版的年份"),
        "number": ("the number of copies in the first printing of {x}", "{x}首次印刷的册数"),
        "code": ("the catalogue code of {x}", "{x}的编目号"),
        "colour": ("the colour of the binding of {x}", "{x}封面的颜色"),
        "name": ("the name of the horse in {x}", "{x}里那匹马的名字"),
    },
    "invention": {
        "year": ("was patented", "{x}获得专利的年份"),
        "number": ("the number of pieces made of {x}", "{x}生产的总台数"),
        "code": ("the patent code of {x}", "{x}的专利编号"),
        "colour": ("the colour of the casing of {x}", "{x}外壳的颜色"),
        "name": ("the working title of {x}", "{x}研制时的代称"),
    },
    "prize": {
        "year": ("was first awarded", "{x}首次颁发的年份"),
        "number": ("the prize money, in crowns, of {x}", "{x}的奖金克朗数"),
        "code": ("the statute code of {x}", "{x}章程的编号"),
        "colour": ("the colour of the presentation case of {x}", "颁发{x}时所用盒子的颜色"),
        "name": ("the name of the owl engraved on {x}", "刻在{x}上的猫头鹰的名字"),
    },
    "expedition": {
        "year": ("was sent out", "{x}出发的年份"),
        "number": ("the distance in kilometres covered by {x}", "{x}走过的公里数"),
        "code": ("the radio code of {x}", "{x}的无线电代码"),
        "colour": ("the colour of the tents of {x}", "{x}帐篷的颜色"),
        "name": ("the name of the base camp of {x}", "{x}大本营的名字"),
    },
    "museum": {
        "year": ("was opened", "{x}开馆的年份"),
        "number": ("the number of objects in {x}", "{x}的藏品件数"),
        "code": ("the insurance code of {x}", "{x}的保险编号"),
        "colour": ("the colour of the front of {x}", "{x}正面外墙的颜色"),
        "name": ("the name of the street in front of {x}", "{x}门前那条街的名字"),
    },
    "bridge": {
        "year": ("was opened to traffic", "{x}通车的年份"),
        "number": ("the number of rivets in {x}", "{x}所用的铆钉数"),
        "code": ("the inspection code of {x}", "{x}的检验编号"),
        "colour": ("the colour of the railings of {x}", "{x}栏杆的颜色"),
        "name": ("the nickname of {x}", "{x}的绰号"),
    },
}


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
