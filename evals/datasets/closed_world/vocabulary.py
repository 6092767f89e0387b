"""What there is in a closed world: types of entities, relations between them, and facts that a question can end in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from agentinfer_lg.text import Language

TypeName = Literal[
    "ship",
    "person",
    "shipyard",
    "company",
    "town",
    "institute",
    "book",
    "invention",
    "prize",
    "expedition",
    "museum",
    "bridge",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How entities of a type are called in one language."""

    title: str
    """The name, of a `{word}` and a `{part}`."""
    parts: tuple[str, ...]
    """What stands for `{part}`; empty: a second invented word."""
    form: str
    """The `{name}` inside a sentence."""
    start: str
    """The `{name}` where a question begins, so that its type is clear."""
    noun: str
    """One of them."""
    that: str
    """One of them that was spoken of."""
    measure: str = ""
    """Chinese measure word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """Words for a relation or a fact, with `{x}` for the entity that has it."""

    noun: str
    sentence: str
    """With `{v}` for the value."""
    question: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """Leads from an entity to the one other entity that stands in this relation to it."""

    name: str
    subject: TypeName
    object: TypeName
    phrases: Mapping[Language, Phrase]


# Type; in a sentence, at the start of a question, one of them, that one; in Chinese also the measure word.
_NAMINGS: Final[dict[Language, str]] = {
    "en": """
ship | the {name} | the ship {name} | a ship | that ship
person | {name} | {name} | a figure of public life | that person
shipyard | the {name} | the {name} | a shipyard | that shipyard
company | {name} | the company {name} | a company | that company
town | {name} | the town of {name} | a town | that town
institute | the {name} | the {name} | an institute | that institute
book | “{name}” | the book “{name}” | a book | that book
invention | the {name} | the {name} | an invention | that invention
prize | the {name} | the {name} | a prize | that prize
expedition | the {name} | the {name} | an expedition | that expedition
museum | the {name} | the {name} | a museum | that museum
bridge | the {name} | the {name} | a bridge | that bridge
""",
    "zh": """
ship | {name} | “{name}”轮船 | 轮船 | 这艘船 | 艘
person | {name} | {name} | 人物 | 此人 | 位
shipyard | {name} | {name} | 造船企业 | 这家船厂 | 家
company | {name} | {name} | 商号 | 这家公司 | 家
town | {name} | {name} | 城镇 | 这座城镇 | 座
institute | {name} | {name} | 学术机构 | 这家机构 | 家
book | {name} | {name}一书 | 书 | 这本书 | 本
invention | {name} | {name} | 发明 | 这项发明 | 项
prize | {name} | {name} | 奖项 | 这个奖 | 个
expedition | {name} | {name} | 考察队伍 | 这支队伍 | 支
museum | {name} | {name} | 博物馆 | 这家博物馆 | 家
bridge | {name} | {name} | 桥梁 | 这座桥 | 座
""",
}
# Type; the name, and the parts it may have.
_TITLES: Final[dict[Language, str]] = {
    "en": """
ship | {part} {word} | Amber Grey Merry Patient Silver Swift Northern Gallant
person | {word} {part} |
shipyard | {word} {part} | Shipyard Dockworks Slipways Boatworks Shipwrights Drydock
company | {word} {part} | Traders Brothers Manufactory Mercantile Carriers Partners
town | {part} {word} | Port Upper Lower Old New West
institute | {word} {part} | Institute Academy Observatory Laboratory College Seminary
book | The {part} of {word} | Lanterns Winters Orchards Ferries Shadows Harvests Clocks
invention | {word} {part} | Governor Barometer Loom Telegraph Pump Compass
prize | {word} {part} | Medal Prize Award Ribbon Laurel Trophy
expedition | {word} {part} | Expedition Survey Traverse Voyage Trek Reconnaissance
museum | {word} {part} | Museum Gallery Collection Cabinet Pavilion Treasury
bridge | {word} {part} | Bridge Viaduct Footbridge Arches Causeway Drawbridge
""",
    "zh": """
ship | {part}{word}号 | 苍云 银雾 青鸥 晨星 白帆 长风 海棠 秋月
person | {word}·{part} |
shipyard | {word}{part} | 船厂 造船所 船坞 船台 修船厂 造船社
company | {word}{part} | 商行 公司 货运行 工坊 兄弟行 贸易社
town | {part}{word}镇 | 上 下 新 老 东 南
institute | {word}{part} | 研究所 学院 天文台 实验室 学会 讲习所
book | 《{word}的{part}》 | 灯火 寒冬 果园 渡口 影子 钟声 麦田
invention | {word}{part} | 调速器 气压计 织机 电报机 水泵 罗盘
prize | {word}{part} | 奖章 大奖 奖杯 桂冠奖 银奖 绶带奖
expedition | {word}{part} | 远征队 考察队 勘测队 探险队 航行队 测绘队
museum | {word}{part} | 博物馆 陈列馆 美术馆 收藏馆 展览馆 珍宝馆
bridge | {word}{part} | 大桥 石桥 铁桥 拱桥 木桥 索桥
""",
}
# Type of the one that leads to another, name of the relation, type of the other.
_RELATION_TYPES = """
ship | built by | shipyard
ship | first captain | person
ship | ordered by | company
ship | home port | town
person | studied under | person
person | born in | town
person | wrote | book
person | invented | invention
person | won | prize
person | directed | institute
shipyard | founded by | person
shipyard | stands in | town
shipyard | bought by | company
company | founded by | person
company | seat | town
company | paid for | expedition
company | flagship | ship
town | town museum | museum
town | oldest bridge | bridge
town | twin town | town
town | first mayor | person
institute | founded by | person
institute | research ship | ship
institute | awards | prize
institute | seat | town
book | illustrated by | person
book | published by | company
book | describes | expedition
invention | made by | company
invention | kept in | museum
invention | first fitted to | ship
prize | first winner | person
prize | endowed by | company
prize | commemorates | expedition
expedition | led by | person
expedition | sailed on | ship
expedition | planned by | institute
museum | architect | person
museum | set up by | institute
museum | shows | book
bridge | designed by | person
bridge | erected by | company
bridge | dedicated to | expedition
"""
# In the same order: the other one as a noun, and a sentence.
_RELATION_PHRASES: Final[dict[Language, str]] = {
    "en": """
the shipyard that built {x} | {x} was built by {v}.
the first captain of {x} | {v} was the first captain of {x}.
the company that ordered {x} | {x} was ordered by {v}.
the town that is the home port of {x} | {x} was registered in {v}.
the teacher of {x} | {x} studied under {v}.
the native town of {x} | {x} was born in {v}.
the only book written by {x} | {x} wrote a single book, {v}.
the invention patented by {x} | {x} took out a patent on {v}.
the prize won by {x} | {x} won {v}.
the institute directed by {x} | {x} was director of {v}.
the founder of {x} | {x} was founded by {v}.
the town that is home to {x} | {x} stands in {v}.
the company that bought {x} | {x} was bought by {v}.
the founder of {x} | {x} was founded by {v}.
the town with the head office of {x} | {x} has its head office in {v}.
the expedition paid for by {x} | {x} paid for {v}.
the flagship of {x} | The flagship of {x} is {v}.
the only museum in {x} | The only museum in {x} is {v}.
the oldest bridge in {x} | The oldest bridge in {x} is {v}.
the twin town of {x} | {x} has {v} as its twin town.
the first mayor of {x} | {v} was the first mayor of {x}.
the founder of {x} | {x} was founded by {v}.
the research ship of {x} | {x} uses {v} as its research ship.
the prize awarded by {x} | {x} awards {v}.
the town that is home to {x} | {x} is located in {v}.
the illustrator of {x} | {x} was illustrated by {v}.
the company that published {x} | {x} was published by {v}.
the expedition described in {x} | {x} describes {v}.
the company that first made {x} | {x} was first made by {v}.
the museum that keeps the prototype of {x} | The prototype of {x} is kept in {v}.
the ship that first carried {x} | {x} was first carried by {v}.
the first winner of {x} | {v} was the first winner of {x}.
the company that endowed {x} | {x} was endowed by {v}.
the expedition commemorated by {x} | {x} commemorates {v}.
the leader of {x} | {x} was led by {v}.
the ship used by {x} | {x} sailed on {v}.
the institute that planned {x} | {x} was planned by {v}.
the architect of {x} | {v} was the architect of {x}.
the institute that set up {x} | {x} was set up by {v}.
the book displayed at the entrance of {x} | {v} is displayed at the entrance of {x}.
the designer of {x} | {x} was designed by {v}.
the company that erected {x} | {x} was erected by {v}.
the expedition honoured by {x} | {x} is dedicated to {v}.
""",
    "zh": """
建造{x}的船厂 | {x}由{v}建造。
{x}的首任船长 | {v}是{x}的首任船长。
订造{x}的公司 | {x}由{v}订造。
{x}登记注册的城镇 | {x}在{v}登记注册。
{x}的老师 | {x}师从{v}。
{x}出生的城镇 | {x}出生于{v}。
{x}写的唯一一本书 | {x}一生只写过{v}。
{x}取得专利的发明 | {x}为{v}取得了专利。
{x}获得的奖项 | {x}获得过{v}。
{x}主持的学术机构 | {x}主持过{v}。
{x}的创办人 | {x}由{v}创办。
{x}所在的城镇 | {x}位于{v}。
收购{x}的公司 | {x}后来被{v}收购。
{x}的创办人 | {x}由{v}创办。
{x}总部所在的城镇 | {x}的总部设在{v}。
{x}出资的考察队 | {x}为{v}出资。
{x}的旗舰 | {x}的旗舰是{v}。
{x}唯一的博物馆 | {x}唯一的博物馆是{v}。
{x}最古老的桥 | {x}最古老的桥是{v}。
{x}的友好城镇 | {x}与{v}结为友好城镇。
{x}的首任镇长 | {v}是{x}的首任镇长。
{x}的创办人 | {x}由{v}创办。
{x}的科考船 | {x}的科考船是{v}。
{x}颁发的奖项 | {x}负责颁发{v}。
{x}所在的城镇 | {x}设在{v}。
{x}的插图作者 | {x}由{v}绘制插图。
出版{x}的公司 | {x}由{v}出版。
{x}所记述的考察队 | {x}记述的是{v}。
最早生产{x}的公司 | {x}最早由{v}生产。
收藏{x}样机的博物馆 | {x}的样机收藏在{v}。
最早装上{x}的船 | 最早装上{x}的船是{v}。
{x}的首位得主 | {v}是{x}的首位得主。
出资设立{x}的公司 | {x}由{v}出资设立。
{x}所纪念的考察队 | {x}是为纪念{v}而设的。
{x}的领队 | {x}由{v}率领。
{x}乘坐的船 | {x}乘坐的是{v}。
筹划{x}的学术机构 | {x}由{v}筹划。
{x}的建筑师 | {v}是{x}的建筑师。
设立{x}的学术机构 | {x}由{v}设立。
陈列在{x}入口处的书 | {x}的入口处陈列着{v}。
{x}的设计者 | {x}由{v}设计。
承建{x}的公司 | {x}由{v}承建。
{x}所题献的考察队 | {x}题献给{v}。
""",
}
OPPOSITES: Final = frozenset(
    {("person", "won", "first winner"), ("prize", "first winner", "won")}
    | {("ship", "ordered by", "flagship"), ("company", "flagship", "ordered by")}
    | {("person", "directed", "founded by"), ("institute", "founded by", "directed")}
)
"""Type of the subject, name, and name of the next one: of relations of which the second would mostly lead back."""


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _namings(language: Language) -> dict[str, Naming]:
    titles = {name: (title, tuple(parts.split())) for name, title, parts in _rows(_TITLES[language])}
    return {
        name: Naming(
            title=titles[name][0],
            parts=titles[name][1],
            form=form,
            start=start,
            noun=noun,
            that=that,
            measure="".join(measure),
        )
        for name, form, start, noun, that, *measure in _rows(_NAMINGS[language])
    }


def _relations() -> dict[TypeName, tuple[Relation, ...]]:
    types: dict[str, TypeName] = {name: name for name in ENTITY_TYPES}
    found: dict[TypeName, list[Relation]] = {name: [] for name in ENTITY_TYPES}
    tables = (_RELATION_TYPES, _RELATION_PHRASES["en"], _RELATION_PHRASES["zh"])
    for (subject, name, target), en, zh in zip(*map(_rows, tables), strict=True):
        phrases: dict[Language, Phrase] = {
            "en": Phrase(noun=en[0], sentence=en[1]),
            "zh": Phrase(noun=zh[0], sentence=zh[1]),
        }
        relation = Relation(name=name, subject=types[subject], object=types[target], phrases=phrases)
        found[relation.subject].append(relation)
    return {name: tuple(relations) for name, relations in found.items()}


ENTITY_TYPES: Final[tuple[TypeName, ...]] = get_args(TypeName)
"""Types of entities."""
NAMINGS: Final[dict[Language, dict[str, Naming]]] = {language: _namings(language) for language in _NAMINGS}
"""How entities are called, by language and type."""
RELATIONS: Final[dict[TypeName, tuple[Relation, ...]]] = _relations()
"""Relations by type of the entity from which they lead."""
