"""The same asked of many boards at once: all answers are awaited together, for no longer than they may take."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def everywhere(items: Sequence[T], ask: Callable[[T], R], within: float | None = None) -> list[R | Exception]:
    """What `ask` returned or raised for each item, in their order; TimeoutError for those that took longer than
    `within` s, whose threads are left to themselves. An interrupt ends the waiting."""
    answers: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()

    def run(place: int, item: T) -> None:
        try:
            answers.put((place, ask(item)))
        except Exception as error:  # raised again where the answers are read
            answers.put((place, error))

    for place, item in enumerate(items):
        threading.Thread(target=run, args=(place, item), daemon=True).start()
    found: dict[int, R | Exception] = {}
    until = None if within is None else time.monotonic() + within
    while len(found) < len(items):
        left = None if until is None else max(0.0, until - time.monotonic())
        try:
            place, answer = answers.get(timeout=left)
        except queue.Empty:
            break
        found[place] = answer
    return [found.get(place, TimeoutError(f"no answer within {within} s")) for place in range(len(items))]
