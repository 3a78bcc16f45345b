"""What a run shows while it goes on: live on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgesim.topology.quantities import format_rate, format_time
from node_agent.events import Event, Finished, Observation, Paused, Probed, Started, Step, Waiting

PLAIN_LINES = 10
"""lines per run where the output is no terminal"""


class Terminal(Console):
    """A console that says no more once it cannot, instead of ending the program: what is being measured is worth more
    than what would have been said."""

    failure: OSError | None = None
    """why what was said is not all there; a reader who left has not missed anything"""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            self.quiet = True
            self.failure = error

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


class Progress:
    """Watches one run. Use as a context manager; call with every event."""

    def __init__(
        self, console: Console, title: str, nodes: list[str], steps: int, quiet: bool = False, virtual: bool = False
    ) -> None:
        self._console = console
        self._title = title
        self._nodes = nodes
        self._steps = steps
        self._virtual = virtual
        self._state = "starting the nodes"
        self._steps_done = dict.fromkeys(nodes, 0)
        self._losses: dict[str, float] = {}
        self._rates: dict[str, tuple[float, float]] = {}
        self._step_time = 0.0
        self._clock = 0.0
        self._began: float | None = None
        self._printed = 0
        self._quiet = quiet
        self._live: Live | None = None
        if console.is_terminal and not quiet:
            self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._picture)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        elif not self._quiet:
            self._console.print(f"{self._title}: {len(self._nodes)} node(s), {self._steps} steps", highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Probed):
            self._state = "measuring the links"
            for missed in event.deviations if not self._quiet else ():
                self._console.print(f"  link {event.link}: {missed}", style="yellow", highlight=False, markup=False)
        elif isinstance(event, Started):
            self._state = "agreeing on the scene's statistics"
        elif isinstance(event, Observation) and event.step == 0:
            self._state = "training"
            self._began = time.monotonic()
        elif isinstance(event, Waiting):
            self._wait(event)
        elif isinstance(event, Paused):
            if not self._quiet:
                self._console.print(f"  {event.node}: pauses for {format_time(event.seconds)}", highlight=False)
        elif isinstance(event, Finished):
            self._state = "finishing"
        elif isinstance(event, Step):
            self._take(event)

    def _wait(self, event: Waiting) -> None:
        """Under the virtual clock nobody waits, and there would be a line for every closure of every link."""
        if not self._virtual and not self._quiet:
            length = format_time(event.until_s - event.time_s)
            self._console.print(f"  {event.link}: no contact, waits {length}", highlight=False)

    def _take(self, step: Step) -> None:
        self._steps_done[step.node] = step.step
        self._losses[step.node] = step.loss
        self._clock = max(self._clock, step.time_s)
        self._step_time = step.duration_s
        if step.duration_s > 0:
            octets = step.sent.message_bytes + step.sent.retransmitted_bytes + step.sent.framing_bytes
            sent = 8 * octets / step.duration_s
            self._rates[step.node] = (sent, min(1.0, step.sent.busy_s / step.duration_s))
        if self._live is None and not self._quiet and self._done * PLAIN_LINES // self._steps > self._printed:
            self._printed = self._done * PLAIN_LINES // self._steps
            self._console.print(f"  {self._line()}", highlight=False)

    @property
    def _done(self) -> int:
        return min(self._steps_done.values())

    @property
    def _loss(self) -> float:
        return sum(self._losses.values()) / len(self._losses)

    def _left(self) -> str:
        if self._began is None or self._done == 0:
            return "-"
        return _minutes((time.monotonic() - self._began) / self._done * (self._steps - self._done))

    def _line(self) -> str:
        return (
            f"step {self._done}/{self._steps}  loss {self._loss:.5f}  {format_time(self._step_time)}/step  "
            f"run time {self._clock:.1f} s  left {self._left()}"
        )

    def _picture(self) -> RenderableType:
        head = Table.grid(padding=(0, 1))
        head.add_row(Text(self._title, style="bold"), ProgressBar(total=self._steps, completed=self._done, width=30))
        if not self._losses:
            return Group(head, Text(f"{self._state} …", style="dim"))
        parts: list[RenderableType] = [head, Text(self._line())]
        if len(self._nodes) > 1:
            links = Table.grid(padding=(0, 2))
            for place, node in enumerate(self._nodes):
                rate, busy = self._rates.get(node, (0.0, 0.0))
                following = self._nodes[(place + 1) % len(self._nodes)]
                links.add_row(
                    f"  {node} → {following}", ProgressBar(total=1.0, completed=busy, width=12), format_rate(rate)
                )
            parts.append(links)
        return Group(*parts)


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
