"""Fits the roofline model of a machine to measured steps; pure.

The unknowns are the usable arithmetic, in attention and elsewhere, the usable memory bandwidth, the fixed time of a step,
and what the client of a request waits beyond its steps. They are found by least squares over relative errors.
Where arithmetic and traffic overlap, the model has a maximum in it: which of the two a step waits for depends on the
unknowns, so each step is put on one side, the rest is least squares, and so on in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from agentinfer_lg.errors import UserInputError
from agentinfer_lg.evals.sched.replay.hardware import Hardware

Kind = Literal["prompt", "appended", "decode", "mixed"]
"""What a step does: a whole prompt, the rest of a prompt whose beginning is cached, a token of each of several requests,
or these together with a prompt."""

Work = tuple[tuple[int, int], ...]
"""For each request the tokens computed, and the context after it, as in `Hardware.step_seconds`."""

FloatArray = npt.NDArray[np.float64]

_WAITED: frozenset[Kind] = frozenset({"prompt", "appended"})
"""Kinds that are timed from the request to its answer; the others are times between two answers."""
_UNKNOWNS = 5
_TURNS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One kind of step, and how long it took."""

    kind: Kind
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted machine, and how far it is off on steps that it was not fitted to."""

    hardware: Hardware
    request_seconds: float
    """What the client of a request waits beyond its steps: HTTP, processes that hand it on."""
    fitted: int
    """Steps that were fitted."""
    checked: int
    """Other steps, which the errors are about."""
    median_error: float
    """Relative, without signs, as all errors but `bias`."""
    worst_error: float
    bias: float
    """Mean relative error with its sign; above 0 the model is too slow."""
    error_by_kind: dict[str, float]
    """Medians."""


def halves(steps: Sequence[StepTime]) -> tuple[list[StepTime], list[StepTime]]:
    """Deal the steps of each kind out to two halves, in turns."""
    kinds = [[step for step in steps if step.kind == kind] for kind in get_args(Kind)]
    return [step for kind in kinds for step in kind[::2]], [step for kind in kinds for step in kind[1::2]]


def fit_machine(steps: Sequence[StepTime], model: Hardware) -> Fit:
    """Fit one half of `steps`, with and without overlap, keep what fits it better, and check it on the other half.

    Args:
        steps: What was measured.
        model: The model's facts, from `model_hardware`; its rates are replaced.

    Raises:
        UserInputError: There are too few steps for the unknowns.
    """
    own, other = halves(steps)
    if len(own) < _UNKNOWNS + 1 or not other:
        msg = (
            f"{len(steps)} steps are too few to fit {_UNKNOWNS} unknowns and check them: measure more lengths"
        )
        raise UserInputError(msg)
    fits = [_fit(own, replace(model, overlap=overlap)) for overlap in (True, False)]
    hardware, request_seconds = min(fits, key=lambda fit: _loss(own, *fit))
    errors = [(step.kind, _relative_error(step, hardware, request_seconds)) for step in other]
    sizes = [abs(error) for _, error in errors]
    by_kind = {kind: [abs(error) for name, error in errors if name == kind] for kind in get_args(Kind)}
    return Fit(
        hardware=hardware,
        request_seconds=request_seconds,
        fitted=len(own),
        checked=len(other),
        median_error=median(sizes),
        worst_error=max(sizes),
        bias=fmean(error for _, error in errors),
        error_by_kind={kind: median(found) for kind, found in by_kind.items() if found},
    )


_Solution = tuple[Hardware, float]


def _fit(steps: Sequence[StepTime], model: Hardware) -> _Solution:
    best: _Solution | None = None
    computing = [step.kind != "decode" for step in steps]
    for _ in range(_TURNS if model.overlap else 1):
        rows = np.array([_row(step, model, side) for step, side in zip(steps, computing, strict=True)])
        seconds = np.array([step.seconds for step in steps])
        found = _solve(rows / seconds[:, None], np.ones(len(steps)))
        solution = _machine(model, found)
        if best is None or _loss(steps, *solution) < _loss(steps, *best):
            best = solution
        before, computing = computing, [_computes(step, model, found) for step in steps]
        if computing == before:
            break
    assert best is not None
    return best


def _row(step: StepTime, model: Hardware, computing: bool) -> list[float]:
    """Coefficients of the unknowns in the time of a step; `computing`: it waits for arithmetic, not for traffic."""
    tokens, pairs, read = _sums(step.work)
    traffic = model.weight_bytes + read * model.kv_bytes
    return [
        tokens * model.token_flops if computing or not model.overlap else 0.0,
        pairs * model.attention_flops if computing or not model.overlap else 0.0,
        traffic if not (computing and model.overlap) else 0.0,
        1.0,
        1.0 if step.kind in _WAITED else 0.0,
    ]


def _sums(work: Work) -> tuple[float, float, float]:
    tokens = sum(new for new, _ in work)
    pairs = sum(new * (context - (new - 1) / 2) for new, context in work)
    return tokens, pairs, sum(context for _, context in work)


def _computes(step: StepTime, model: Hardware, found: FloatArray) -> bool:
    sides = [float(np.dot(_row(step, model, computing), found)) for computing in (True, False)]
    return sides[0] >= sides[1]


def _solve(rows: FloatArray, target: FloatArray) -> FloatArray:
    """Least squares without negative unknowns: of all choices of unknowns that are not 0, the best one."""
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    best, best_loss = np.zeros(rows.shape[1]), np.inf
    for chosen in range(1, 1 << rows.shape[1]):
        columns = [column for column in range(rows.shape[1]) if chosen >> column & 1]
        part = rows[:, columns] / scale[columns]
        values = np.linalg.lstsq(part, target, rcond=None)[0]
        loss = float(((part @ values - target) ** 2).sum())
        if values.min() >= 0 and loss < best_loss - 1e-12:
            best, best_loss = np.zeros(rows.shape[1]), loss
            best[columns] = values / scale[columns]
    return best


def _machine(model: Hardware, found: FloatArray) -> _Solution:
    per_flop, per_attention_flop, per_byte, overhead, request = (float(value) for value in found)
    hardware = replace(
        model,
        flops_per_second=_rate(per_flop),
        attention_flops_per_second=_rate(per_attention_flop),
        bytes_per_second=_rate(per_byte),
        overhead_seconds=overhead,
    )
    return hardware, request


def _rate(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else float("inf")


def _loss(steps: Sequence[StepTime], hardware: Hardware, request_seconds: float) -> float:
    return sum(_relative_error(step, hardware, request_seconds) ** 2 for step in steps)


def _relative_error(step: StepTime, hardware: Hardware, request_seconds: float) -> float:
    waited = request_seconds if step.kind in _WAITED else 0.0
    return (hardware.step_seconds(step.work) + waited) / step.seconds - 1
