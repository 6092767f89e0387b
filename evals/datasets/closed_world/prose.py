"""Sentences of the documents of a closed world that hold no fact about the entities asked for, in two languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentinfer_lg.text import Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """One language. `{S}`: the entity with its article; `{n}`: its kind; `{fact}`: what is looked for; `{w}`: some place."""

    intros: tuple[str, ...]
    fillers: tuple[str, ...]
    """About anybody or anything."""
    thing_fillers: tuple[str, ...]
    place_fillers: tuple[str, ...]
    """About what has walls, or a deck."""
    person_fillers: tuple[str, ...]
    facts: tuple[str, ...]
    """`{fact}` and its `{v}`, in other words than the plain sentence."""
    mentions: tuple[str, ...]
    """Sentences of a document on something else (`{D}`) that name the entity."""
    advertisement_titles: tuple[str, ...]
    advertisements: tuple[str, ...]
    dead_end_titles: tuple[str, ...]
    dead_ends: tuple[str, ...]
    dead_end_fillers: tuple[str, ...]


_EN = Prose(
    intros=(
        "{S} is {n} about which the almanac of {w} has had an entry for a long time.",
        "{S}, {n}, is well known in the country around {w}.",
        "Anyone who travels from {w} to the coast will hear of {S}, {n} with a long story.",
        "This page gathers what is known of {S}, {n} often written about in {w}.",
    ),
    fillers=(
        "The newspapers of {w} have printed several long articles on {S}, most of them in the quiet weeks of summer.",
        "A song about {S} was popular for some time, although nobody remembers all the verses.",
        "The older accounts differ in tone, but they agree that luck played a smaller part than patience.",
        "In {w} a reading group meets every second Thursday and has spent a whole winter on the subject.",
        "A photograph in the town hall of {w} is thought to be the earliest one that has survived.",
        "Much of what was said at the time was gossip, and a good deal of it was spread by rivals.",
        "Schoolchildren of the district write essays on {S}, and the best ones are read aloud in the market hall.",
        "The weather in those years was poor, and the roads around {w} could not be used for months.",
        "A box of letters was found under the floor of a mill near {w}; most of them deal with the price of oats.",
        "Historians like to point out how little money was at hand and how much was done with it.",
        "One of the neighbours kept a diary, which is mostly about bees but mentions {S} with respect.",
        "There were disputes with the authorities of {w}, all of which ended in a handshake.",
        "Several anecdotes are told, and in each of them somebody misses a train.",
        "An exhibition in {w} devoted a small room to the subject and drew more visitors than expected.",
        "The story has been told on the radio, with a good deal of wind and bells in the background.",
        "Critics in {w} were harsh at first and became friendlier with every year.",
        "A commemorative stamp was planned, but the drawing pleased nobody and the plan was dropped.",
        "It is said that the bakers of {w} named a bun after {S}, and that it was rather dry.",
        "Those who look for details should allow an afternoon and bring warm clothes.",
        "The usual sources repeat each other, and only a few of them go back to papers of the time.",
        "A debate in {w} about the matter lasted until midnight and settled nothing.",
        "Opinions on {S} have changed more than once, as a glance at the letters page shows.",
    ),
    thing_fillers=(
        "Admirers travel from {w} to see it, and usually complain about the inn.",
        "The first drawings were made on the back of a menu, which has been kept.",
        "A model of it, made from walnut shells, stands in a shop window in {w}.",
        "The committee in charge meets in the back room of an inn and keeps its minutes in green ink.",
        "It has appeared in two films, both times as something else.",
        "A club in {w} collects whatever has to do with {S} and shows it to nobody.",
        "The account books have come down to us, with a pressed flower between two pages.",
        "Children in {w} know {S} from a skipping rhyme.",
        "In a speech in {w}, {S} was praised for an hour and a half.",
        "A brass band in {w} played at the anniversary, slightly out of tune.",
        "A rumour that {S} had brought bad luck to {w} was never quite put to rest.",
    ),
    place_fillers=(
        "Repairs were made whenever there was money, and always in the cheapest season.",
        "A fire broke out nearby one autumn, but the rain put it out before any harm was done.",
        "The keys were lost twice and found twice, the second time in a pike.",
        "Its upkeep is paid by a lottery that is held in {w} before the harvest.",
        "Those who worked on it were given an extra loaf of bread on Saturdays.",
        "Plans to enlarge it have been put forward by every second mayor.",
        "The lettering over the door was painted by a pupil and has one mistake in it.",
        "Swallows nest under the roof, and nobody has the heart to chase them away.",
        "A clock was given by the people of {w}; it runs nine minutes late.",
    ),
    person_fillers=(
        "Friends described {S} as a patient listener who hardly ever finished a cup of tea.",
        "{S} walked to {w} and back on most Sundays, in any weather.",
        "The family had come from the hills near {w} and had kept goats there.",
        "An early attempt to learn the trumpet was given up for the sake of the neighbours.",
        "The desk at which {S} worked was sold, bought back, and sold again.",
        "Colleagues remembered {S} for long letters without a single comma.",
        "{S} disliked being painted and fell asleep during the only sitting.",
        "In later life {S} grew pears, not very successfully, on a terrace above {w}.",
        "A stammer in youth had gone by the time {S} first spoke in public.",
        "The household kept no servants, and guests were asked to peel potatoes.",
        "{S} spoke three languages and was said to be silent in all of them.",
        "A cousin in {w} wrote down many of the sayings, some of which may be true.",
    ),
    facts=(
        "According to the register kept in {w}, {fact} is {v}.",
        "Less well known, but beyond doubt, is {fact}: {v}.",
        "If asked for {fact}, the guides name {v}.",
    ),
    mentions=(
        "Visitors of {D} often ask about {S}, which is described on another page.",
        "A painting of {S} used to hang in the corridor and has been lent to {w}.",
        "A lecture on {S} was given here and was well attended, although the speaker had a cold.",
        "{D} and {S} are named together in a list of sights, without any further explanation.",
        "A postcard from {w} shows {S} in the background, badly out of focus.",
    ),
    advertisement_titles=(
        "{T}: souvenirs, tours and gift cards",
        "Everything about {T} at the best price",
        "Love {T}? Our summer offer",
    ),
    advertisements=(
        "Are you curious about {fact}? Then you will love our collection on {S}!",
        "{S}, {S}, {S}: nobody offers more on {S} than we do, and nobody offers it with free delivery.",
        "Order today and receive a tea towel with the words “{fact}” woven into the border.",
        "Our customers ask for {fact} again and again, and they ask for our mugs as well.",
        "Book the grand tour on {S} now: three stops, one lunch, and a quiz on {fact} with prizes.",
        "Sign up for the newsletter and be the first to hear of new offers around {S}.",
        "Five stars! “I bought it for the title alone”, writes a happy customer from {w}.",
        "The big special issue on {S} is almost sold out; secure your copy and a fridge magnet.",
        "No other shop between {w} and the sea has so many gifts for friends of {S}.",
        "Terms apply. Pictures show examples. Offers end when stocks run out.",
    ),
    dead_end_titles=(
        "{T}: note of the records office",
        "Inquiry on {T}, closed",
        "Finding aid for the papers on {T}",
    ),
    dead_ends=(
        "Readers ask this office for {fact} more often than for anything else.",
        "The sheet that showed {fact} was lost when the cellar was flooded, and no copy has been found.",
        "A card in the index promises {fact}, but the folder to which it points is empty.",
        "The list that gives {fact} was moved to the archive in {w}, which has been closed since the roof fell in.",
        "As long as the inventory is under way, this office gives no information on {fact}.",
    ),
    dead_end_fillers=(
        "What remains on {S} are bills for candles, string and soap.",
        "The catalogue of {w} has an entry on {S}, with a remark in pencil that cannot be read.",
        "Requests should be sent in writing, with a stamped envelope; an answer takes about two years.",
        "A volunteer has begun to copy the volumes and has reached the letter C.",
        "The previous archivist took the view that everything of importance is remembered anyway.",
        "Some pages on {S} are stuck together and wait for the bookbinder.",
        "The reading room is open on the first Monday of the month, if the stove works.",
        "This page will be completed as soon as the boxes come back from {w}.",
    ),
)
_ZH = Prose(
    intros=(
        "{S}是{w}一带年鉴里早有记载的{n}。",
        "提起{w}附近的{n}，人们多半会先想到{S}。",
        "从{w}去海边的旅人，常会听到{S}的故事；这是一{m}颇有来历的{n}。",
        "本页汇集了关于{S}的已知情况，这{m}{n}在{w}常被人写到。",
    ),
    fillers=(
        "{w}的报纸登过几篇谈{S}的长文，大多刊在清闲的夏天。",
        "有一首关于{S}的歌流行过一阵，只是没有人记得全部歌词。",
        "早年的说法口气不一，但都认为靠的是耐心而不是运气。",
        "{w}有个读书会隔周聚一次，曾用整个冬天讨论这个题目。",
        "{w}市政厅里的一张照片据说是现存最早的一张。",
        "当时流传的许多话只是闲谈，其中不少出自对手之口。",
        "当地学生常以{S}为题写作文，好的会在集市大厅里朗读。",
        "那些年天气不好，{w}周围的道路有好几个月不能通行。",
        "在{w}附近一座磨坊的地板下发现过一箱信，大半谈的是燕麦的价钱。",
        "研究者喜欢指出，当时手头的钱很少，做成的事却不少。",
        "有位邻居留下一本日记，主要写养蜂，但提到{S}时十分敬重。",
        "和{w}官员的几次争执，最后都以握手收场。",
        "流传的趣闻有好几则，每一则里都有人误了火车。",
        "{w}的一次展览专门辟出一间小屋，来的人比预想的多。",
        "电台播讲过这段故事，背景里尽是风声和钟声。",
        "{w}的评论家起初很苛刻，后来一年比一年和气。",
        "曾经打算发行纪念邮票，可是图样谁也不满意，只好作罢。",
        "据说{w}的面包师用{S}的名字称呼一种小面包，味道有点干。",
        "想了解细节的人，最好留出一个下午，并带上厚衣服。",
        "常见的资料互相抄来抄去，只有少数来自当年的文书。",
        "{w}为此有过一场辩论，一直吵到半夜，没有结果。",
        "看看读者来信就知道，人们对{S}的看法变过不止一次。",
    ),
    thing_fillers=(
        "慕名者从{w}赶来，通常都要抱怨客栈。",
        "最初的草图画在一张菜单背面，至今还保存着。",
        "{w}的一个橱窗里摆着用核桃壳做的模型。",
        "主管的委员会在一家客栈的里屋开会，用绿墨水写记录。",
        "它在两部电影里出现过，两次都扮成别的东西。",
        "{w}有个小团体专门收集与{S}有关的东西，却从不给人看。",
        "账本流传了下来，其中两页之间夹着一朵干花。",
        "{w}的孩子们是从一首跳绳歌里知道{S}的。",
        "在{w}的一次演讲里，{S}被称赞了一个半小时。",
        "周年庆典上，{w}的铜管乐队演奏得略微走调。",
        "有传言说{S}给{w}带来过坏运气，这说法一直没有平息。",
    ),
    place_fillers=(
        "只要有钱就修一修，而且总挑最便宜的季节。",
        "有一年秋天附近起火，幸好一场雨把火浇灭了。",
        "钥匙丢过两次，也找回两次，第二次是在一条鱼的肚子里。",
        "日常开销来自{w}在秋收前举行的抽奖。",
        "当年干活的人每到星期六可以多领一块面包。",
        "差不多每隔一任镇长，就有人提出扩建的计划。",
        "门上的字是一名学生写的，其中有一处写错了。",
        "燕子在檐下筑巢，谁也不忍心赶走它们。",
        "{w}的居民送过一座钟，总是慢九分钟。",
    ),
    person_fillers=(
        "朋友们说{S}善于倾听，却很少喝完一杯茶。",
        "{S}在多数星期天步行去{w}再走回来，风雨无阻。",
        "这家人来自{w}附近的山里，从前在那里养羊。",
        "早年学过小号，为了邻居的缘故放弃了。",
        "{S}用过的书桌卖掉过，买回来，又卖掉了。",
        "同事们记得{S}写长信从来不用逗号。",
        "{S}不喜欢被人画像，唯一的一次坐着睡着了。",
        "晚年的{S}在{w}上方的坡地种梨，收成不好。",
        "年轻时有些口吃，到第一次当众讲话时已经好了。",
        "家里没有用人，客人来了也要帮着削土豆。",
        "{S}会说三种语言，据说用哪一种都很沉默。",
        "{w}的一位表亲记下了许多言论，其中有些也许是真的。",
    ),
    facts=(
        "据{w}保存的登记簿，{fact}是{v}。",
        "不大为人所知但毫无疑问的是，{fact}为{v}。",
        "若有人问起{fact}，讲解员会回答：{v}。",
    ),
    mentions=(
        "来看{D}的人常会问起{S}，那在另一页里有介绍。",
        "走廊里从前挂着一幅画着{S}的画，现已借给{w}。",
        "这里办过一次关于{S}的讲座，听众不少，可惜讲者感冒了。",
        "在一份名胜单子里，{D}和{S}并列在一起，没有别的说明。",
        "{w}的一张明信片以{S}为背景，可惜拍得很模糊。",
    ),
    advertisement_titles=(
        "{T}纪念品、游览和礼品卡",
        "关于{T}的一切，价格最优",
        "喜欢{T}？夏季特惠",
    ),
    advertisements=(
        "想知道{fact}吗？那您一定会喜欢我们的{S}系列！",
        "{S}、{S}、{S}：没有谁比我们更懂{S}，而且免费送货。",
        "今天下单，即送织有“{fact}”字样的茶巾一条。",
        "顾客们一再问起{fact}，也一再来买我们的杯子。",
        "现在就预订{S}豪华游：三站行程，一顿午餐，还有关于{fact}的有奖问答。",
        "订阅我们的通讯，最先得知{S}的新优惠。",
        "五星好评！“光看标题我就买了”，一位{w}的顾客这样写道。",
        "{S}特刊即将售完，赶快预订，并可获赠冰箱贴。",
        "从{w}到海边，再没有一家店为{S}的爱好者准备了这么多礼品。",
        "活动以条款为准，图片仅供参考，售完为止。",
    ),
    dead_end_titles=(
        "{T}：档案室说明",
        "关于{T}的查询（已结）",
        "{T}文书检索指南",
    ),
    dead_ends=(
        "读者向本室询问最多的，就是{fact}。",
        "载有{fact}的那一页在地下室进水时遗失，没有找到副本。",
        "目录里有一张卡片写着可查{fact}，但它所指的卷宗是空的。",
        "记有{fact}的清单已移交{w}的档案馆，该馆屋顶塌落后一直闭馆。",
        "清点期间，本室不提供{fact}方面的资料。",
    ),
    dead_end_fillers=(
        "关于{S}，留下来的只有蜡烛、绳子和肥皂的账单。",
        "{w}的目录里有{S}一条，旁边的铅笔批注已无法辨认。",
        "查询须书面提出，并附贴好邮票的信封，大约两年后答复。",
        "一位志愿者已开始抄录各卷，目前抄到第三个字母。",
        "前任管理员认为，重要的事情大家反正都记得。",
        "关于{S}的几页粘在一起，正等着装订工来处理。",
        "阅览室每月第一个星期一开放，条件是炉子能用。",
        "等箱子从{w}运回来，本页就会补全。",
    ),
)
PROSE: Final[dict[Language, Prose]] = {"en": _EN, "zh": _ZH}
"""The sentences by language."""
