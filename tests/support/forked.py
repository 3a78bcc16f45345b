"""Runs a function in a fork of the tests' own process: what it does to torch stays there, and nothing is imported anew.
Not after CUDA was used here."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

from node_agent import worker
from node_agent.events import Event
from node_agent.job import Job

LIMIT = 120.0
"""s that the function may take"""


def in_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function(*arguments)` returns there; fails with what it raised."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(function, arguments, sending), daemon=True)
    process.start()
    sending.close()
    try:
        assert receiving.poll(LIMIT), f"the function said nothing for {LIMIT:.0f} s"
        failed, value = receiving.recv()
    finally:
        process.kill()
        process.join()
        receiving.close()
    assert not failed, value
    return value


def _main(function: Callable[..., Any], arguments: tuple[Any, ...], sending: Any) -> None:
    try:
        outcome = (False, function(*arguments))
    except BaseException:
        outcome = (True, traceback.format_exc())
    sending.send(outcome)


def events_of(job: Job) -> list[Event]:
    """What a job that needs no neighbours tells; to be called in a fork."""
    events: list[Event] = []
    worker.run(job, events.append)
    return events
