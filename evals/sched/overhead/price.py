"""How the shadow price of AgentSched answers to a load that jumps up and down."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.common.charts import require_matplotlib
from agentinfer_lg.serving.sched.config import SchedConfig
from agentinfer_lg.serving.sched.policy.price import Pressure, PriceSettings, ShadowPrice

_CAPACITY = 100_000
"""Blocks; only demand over capacity matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareWave:
    """A load that is low for half of a period, then high for the other half."""

    period: float = 60.0
    """Seconds."""
    low: float = 0.3
    """Demand over capacity (z)."""
    high: float = 2.5
    """The same, in the second half."""
    step_seconds: float = 0.02
    """Length of an engine's step; in each the price is brought up to date."""
    periods: int = 3

    def ratio(self, time: float) -> float:
        """Return demand over capacity at `time`, in seconds."""
        return self.high if time % self.period >= self.period / 2.0 else self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What the price did from one jump of the load to the next."""

    time: float
    """Of the jump, in seconds."""
    settled_at: float
    """Price at the end."""
    seconds: float
    """Time after which it did not change any more."""
    turns: int
    """Times that it changed its direction after it had begun to move."""


@dataclass(slots=True, kw_only=True)
class Response:
    """The price over time."""

    wave: SquareWave
    times: list[float] = field(default_factory=list)
    """Seconds; one per step, as in the other lists."""
    ratios: list[float] = field(default_factory=list)
    """Demand over capacity (z)."""
    targets: list[float] = field(default_factory=list)
    """Price that belongs to the running mean of it."""
    prices: list[float] = field(default_factory=list)
    """Lambda."""

    @property
    def edges(self) -> list[Edge]:
        """What the price did after each jump of the load."""
        starts = [n for n in range(1, len(self.ratios)) if self.ratios[n] != self.ratios[n - 1]]
        return [self._edge(start, end) for start, end in pairwise([*starts, len(self.times)])]

    def _edge(self, start: int, end: int) -> Edge:
        prices = self.prices[start - 1 : end]
        moves = [after - before for before, after in pairwise(prices)]
        moving = [number for number, move in enumerate(moves) if move]
        signs = [moves[number] > 0 for number in moving]
        last = self.times[start + moving[-1]] if moving else self.times[start]
        return Edge(
            time=self.times[start],
            settled_at=prices[-1],
            seconds=last - self.times[start],
            turns=sum(one != other for one, other in pairwise(signs)),
        )


def default_settings() -> PriceSettings:
    """Return the settings of the price as AgentSched has them by default."""
    config = SchedConfig()
    return PriceSettings(
        max_price=config.lambda_max,
        gain=config.gain,
        proportional=config.proportional,
        integral=config.integral,
        smoothing=config.smoothing,
        hysteresis=config.hysteresis,
    )


def respond(wave: SquareWave, settings: PriceSettings | None = None) -> Response:
    """Return how the price follows `wave`.

    Args:
        wave: The load.
        settings: Of the price; None: the default ones.
    """
    shadow = ShadowPrice(settings or default_settings())
    response = Response(wave=wave)
    for step in range(round(wave.periods * wave.period / wave.step_seconds)):
        time = step * wave.step_seconds
        ratio = wave.ratio(time)
        pressure = Pressure(free=_CAPACITY, hit=0, need=round(ratio * _CAPACITY))
        response.times.append(time)
        response.ratios.append(ratio)
        response.prices.append(shadow.update(pressure, now=time))
        response.targets.append(shadow.target)
    return response


def draw(response: Response, file: Path) -> None:
    """Draw the load, the price that belongs to it, and the price.

    Args:
        response: What to draw.
        file: SVG or PNG.

    Raises:
        UserInputError: matplotlib is not installed, or the file has another ending.
    """
    if file.suffix not in (".svg", ".png"):
        msg = f"a plot ends in .svg or .png, not {file.suffix or 'nothing'!r}"
        raise UserInputError(msg)
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "agentinfer", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        load, price = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        kept = _changes(response)
        times = [response.times[n] for n in kept]
        load.step(times, [response.ratios[n] for n in kept], where="post", color="C0", linewidth=1)
        load.axhline(1.0, color="gray", linewidth=0.6, linestyle="dotted")
        load.set_ylabel("pressure z")
        price.step(times, [response.targets[n] for n in kept], where="post", color="C1", label="target")
        price.step(times, [response.prices[n] for n in kept], where="post", color="black", label="lambda")
        price.set_ylabel("shadow price")
        price.set_xlabel("s")
        price.legend(fontsize=8, loc="upper left")
        for axes in (load, price):
            axes.grid(visible=True, alpha=0.3)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=150)


def _changes(response: Response) -> list[int]:
    """Leave out steps in which nothing changed: the file would only get larger."""
    rows = list(zip(response.ratios, response.targets, response.prices, strict=True))
    return [n for n in range(len(rows)) if n in (0, len(rows) - 1) or rows[n] != rows[n - 1]]
