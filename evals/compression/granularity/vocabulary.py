"""Words and forms of the generated sessions: things, their exact details, and sentences around them, in two languages."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentinfer_lg.prompts import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """One language. `{title}`, `{value}`, `{label}` and so on mark what is filled in."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    things: tuple[str, ...]
    sites: tuple[str, ...]
    title: str
    details: dict[str, tuple[str, ...]]
    """By kind of detail, the labels that things may have of it."""
    sentences: tuple[str, ...]
    fillers: tuple[str, ...]
    task: str
    query: str
    question: str
    thought: str
    known: str
    missing: str


_EN = Vocabulary(
    first=(
        "Amber",
        "Copper",
        "Silver",
        "Northern",
        "Quiet",
        "Scarlet",
        "Hollow",
        "Granite",
        "Ivory",
        "Cobalt",
    ),
    second=("Heron", "Lynx", "Falcon", "Otter", "Badger", "Marten", "Osprey", "Stoat", "Plover", "Ibex"),
    things=(
        "pump",
        "sensor array",
        "supply contract",
        "shipment",
        "cold store",
        "test series",
        "charter",
        "press",
    ),
    sites=("Harrow Bay", "Lindholm", "Cape Torrance", "Vester Point", "Millrace", "Old Quarry"),
    title="{first} {second} {thing}",
    details={
        "identifier": ("order number", "serial number", "file number"),
        "price": ("price", "annual fee", "deposit"),
        "date": ("inspection date", "delivery date", "renewal date"),
        "phone": ("service phone number", "dispatch phone number"),
        "code name": ("code name", "radio call sign"),
        "email": ("contact address", "billing address for e-mail"),
        "version": ("control software version", "protocol version"),
        "measure": ("rated load", "net weight"),
    },
    sentences=(
        "Its {label} is {value}.",
        "The {label} of the {title} was entered as {value}.",
        "The register gives {value} as the {label}.",
    ),
    fillers=(
        "The {title} is looked after by the team of {site}, which meets on weekdays before the first shift.",
        "Nothing about it changed during the last review, apart from the way in which its papers are filed.",
        "It was moved to {site} because the older hall had become too small for it.",
        "Visitors are asked to sign in before they see it, and to leave by the eastern gate.",
        "An earlier plan to replace it was dropped after a vote of the works council.",
        "Its records are kept on paper as well, in the grey cabinet next to the stairs.",
        "Two trainees wrote a short report on it, which praises how quietly it does its work.",
    ),
    task="Write an overview of what the records of {site} say, and how the things in them belong together.",
    query="{site} {thing} records",
    question="What is the {label} of the {title}?",
    thought="The records have to be looked through one after the other.",
    known="There is a record of the {title}.",
    missing="What else the records of {site} say.",
)
_ZH = Vocabulary(
    first=("琥珀", "青铜", "白银", "北方", "寂静", "朱红", "空谷", "花岗", "象牙", "钴蓝"),
    second=("苍鹭", "猞猁", "猎隼", "水獭", "山獾", "紫貂", "鱼鹰", "白鼬", "金鸻", "羱羊"),
    things=("水泵", "传感器", "供货合同", "货运", "冷库", "试验", "包租", "压机"),
    sites=("哈罗湾", "林岛", "托伦角", "西角站", "磨坊渠", "老采石场"),
    title="{first}{second}{thing}",
    details={
        "identifier": ("订单号", "序列号", "档案号"),
        "price": ("价格", "年费", "押金"),
        "date": ("检查日期", "交货日期", "续约日期"),
        "phone": ("服务电话", "调度电话"),
        "code name": ("代号", "呼号"),
        "email": ("联系邮箱", "账单邮箱"),
        "version": ("控制软件版本", "协议版本"),
        "measure": ("额定载荷", "净重"),
    },
    sentences=("它的{label}是{value}。", "{title}的{label}登记为{value}。", "登记簿中的{label}为{value}。"),
    fillers=(
        "{title}由{site}的班组照管，班组每个工作日在早班之前开会。",
        "上次复查以来，除了文件的归档方式以外，没有任何变化。",
        "因为旧厂房已经放不下，它被搬到了{site}。",
        "来访者参观之前要先登记，离开时走东门。",
        "更换它的旧计划在职工会议表决之后取消了。",
        "它的纸质记录存放在楼梯旁的灰色柜子里。",
        "两名实习生写过一份关于它的短报告，称赞它工作时很安静。",
    ),
    task="写一份综述，说明{site}的记录里有什么，以及其中各项之间的关系。",
    query="{site} {thing} 记录",
    question="{title}的{label}是什么？",
    thought="需要逐一查看这些记录。",
    known="有{title}的记录。",
    missing="{site}的记录里还有什么。",
)
VOCABULARY: Final[dict[Language, Vocabulary]] = {"en": _EN, "zh": _ZH}
"""The words by language."""

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_CALLS = (
    *("ALDER", "BIRCH", "CEDAR", "DUNE", "EMBER", "FJORD", "GLACIER", "HARBOR", "INLET", "JUNIPER"),
    *("KELP", "LANTERN", "MERIDIAN", "NIMBUS", "ORCHID", "PRISM", "QUARTZ", "RAVINE", "SUMMIT", "TUNDRA"),
)
_DESKS = ("desk", "office", "stores", "billing", "service", "yard", "control", "intake")


def draw_detail(kind: str, language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    """Draw a detail of a kind and return it with other spellings that mean the same."""
    return _DRAWS[kind](language, draw)


def _identifier(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    one, two = draw.sample("GKLT", 2)
    return f"{one}{two}-{draw.randrange(100, 1000)}-{draw.choice(_LETTERS)}", ()


def _price(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    amount = draw.randrange(1_000, 90_000)
    if language == "zh":
        return f"{amount}元", (f"¥{amount}", f"{amount}")
    return f"${amount:,}", (f"{amount:,}",)


def _date(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    year, month, day = draw.randrange(2016, 2026), draw.randrange(1, 13), draw.randrange(1, 29)
    iso, numbers = f"{year}-{month:02}-{day:02}", f"{year}年{month}月{day}日"
    name = _MONTHS[month - 1]
    spelled = (f"{day} {name} {year}", f"{name} {day}, {year}", f"{name} {day} {year}")
    return (numbers, (iso,)) if language == "zh" else (spelled[0], (*spelled[1:], iso))


def _phone(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    first, last = draw.randrange(100, 1000), draw.randrange(1000, 10_000)
    return f"555-{first}-{last}", (f"555 {first} {last}", f"(555) {first}-{last}")


def _code_name(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    name, number = draw.choice(_CALLS), draw.randrange(2, 100)
    return f"{name} {number}", (f"{name}-{number}", f"{name}{number}")


def _email(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    return f"{draw.choice(_DESKS)}.{draw.randrange(10, 1000)}@example.org", ()


def _version(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    number = f"{draw.randrange(1, 10)}.{draw.randrange(0, 30)}.{draw.randrange(0, 30)}"
    return f"v{number}", (number,)


def _measure(language: Language, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    number = f"{draw.randrange(11, 990)}.{draw.randrange(1, 10)}"
    return (f"{number}公斤", (f"{number} kg", number)) if language == "zh" else (f"{number} kg", (number,))


_DRAWS: Final[dict[str, Callable[[Language, random.Random], tuple[str, tuple[str, ...]]]]] = {
    "identifier": _identifier,
    "price": _price,
    "date": _date,
    "phone": _phone,
    "code name": _code_name,
    "email": _email,
    "version": _version,
    "measure": _measure,
}
