"""Generations, and the lock between steps and the background."""

from __future__ import annotations

import threading

import numpy as np

from agentinfer_lg.serving.sam.index.history import Generations, History, StepLock


def text(seed: int, size: int = 500) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100_000, size).astype(np.int32)


def holds(generations: Generations, wanted: np.ndarray) -> bool:
    automata = [each for each in (generations.young, generations.old) if each is not None]
    return any(automaton.match(wanted)[1] == len(wanted) for automaton in automata)


def test_the_latest_text_stays_and_the_oldest_goes() -> None:
    generations = Generations(tokens=2000, lock=StepLock())
    for seed in range(20):
        generations.add(text(seed))
        assert generations.tokens <= 4000
    assert all(holds(generations, text(seed)) for seed in range(16, 20))
    assert not holds(generations, text(0))


def test_of_a_text_longer_than_a_generation_the_end_is_kept() -> None:
    generations = Generations(tokens=1000, lock=StepLock())
    long = text(1, 5000)
    generations.add(long)
    assert generations.tokens == 1000
    assert holds(generations, long[-1000:])


def test_texts_are_not_run_together() -> None:
    generations = Generations(tokens=1000, lock=StepLock())
    generations.add(text(1, 10))
    generations.add(text(2, 10))
    joined = np.concatenate([text(1, 10)[-2:], text(2, 10)[:2]])
    assert not holds(generations, joined)


def test_dropping_the_oldest_empties_it_in_the_end() -> None:
    history = History(tokens=8000, lock=StepLock())
    for seed in range(20):
        history.text.add(text(seed))
        history.outputs.add(text(seed, 100))
    full = history.tokens
    history.drop_oldest()
    assert 0 < history.tokens < full
    history.drop_oldest()
    assert history.tokens == 0


def test_steps_and_background_work_exclude_each_other() -> None:
    lock, inside, overlaps = StepLock(), [0], []

    def background() -> None:
        for _ in range(2000):
            with lock.background():
                inside[0] += 1
                overlaps.append(inside[0])
                inside[0] -= 1

    thread = threading.Thread(target=background)
    thread.start()
    for _ in range(2000):
        with lock:
            inside[0] += 1
            overlaps.append(inside[0])
            inside[0] -= 1
    thread.join()
    assert set(overlaps) == {1}
