"""Figures of a run and of several runs, at the quality of print. Importing this package imports matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from edgesim.figures.detection import detection_map, roc
from edgesim.figures.links import delay, throughput
from edgesim.figures.loss import loss
from edgesim.figures.overlays import accuracy_of_runs, loss_of_runs, roc_of_runs
from edgesim.figures.proof import deviation as draw_deviation
from edgesim.figures.steps import step_time
from edgesim.figures.style import NotDrawable
from edgesim.figures.topology import draw_topology, topology
from edgesim.results import Run, write_atomically

T = TypeVar("T")

__all__ = ["ALL", "OVERLAYS", "NotDrawable", "draw_all", "draw_deviation", "draw_overlays", "draw_topology", "save"]

ALL: dict[str, Callable[[Run], Figure]] = {
    "topology": topology,
    "loss": loss,
    "step-time": step_time,
    "throughput": throughput,
    "delay": delay,
    "roc": roc,
    "detection-map": detection_map,
}
"""Every figure of one run by the name of its file."""

OVERLAYS: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "roc": roc_of_runs,
    "loss": loss_of_runs,
    "accuracy": accuracy_of_runs,
}
"""Every figure that lays several runs over one another."""


def draw_all(run: Run, folder: str | Path) -> list[Path]:
    """Draw what the run holds data for into `folder`; returns the files.

    Raises:
        RunFolderError: a file cannot be written.
    """
    return _draw(ALL, run, Path(folder))


def draw_overlays(runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Draw what the runs hold data for into `folder`; returns the files.

    Raises:
        RunFolderError: a file cannot be written.
    """
    return _draw(OVERLAYS, runs, Path(folder))


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, cropped to what is drawn, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", bbox_inches="tight", pad_inches="layout")
    write_atomically(path, content.getvalue())


def _draw(figures: dict[str, Callable[[T], Figure]], subject: T, folder: Path) -> list[Path]:
    paths = []
    for name, draw in figures.items():
        try:
            figure = draw(subject)
        except NotDrawable:
            # A run of one node has no links, a failed one no maps: their other figures are still wanted.
            continue
        path = folder / f"{name}.png"
        save(figure, path)
        paths.append(path)
    return paths
