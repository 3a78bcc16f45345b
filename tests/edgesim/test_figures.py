"""Figures of runs that went through the writer, as a real run's events do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgesim import figures
from edgesim.figures import series
from edgesim.figures.detection import DETECTORS, detection_map, roc, roc_of
from edgesim.figures.links import delay, throughput
from edgesim.figures.loss import loss
from edgesim.figures.overlays import accuracy_of_runs, loss_of_runs, roc_of_runs
from edgesim.figures.steps import step_time
from edgesim.figures.style import NotDrawable, colours, quantity
from edgesim.figures.topology import draw_topology, topology
from edgesim.results import PARTS, Run, RunFolder, load, ring_links
from edgesim.summary import summarise
from node_agent.events import Finished, Received, Sent, Started, Step, StepParts, Telemetry
from node_agent.job import LinkSettings, Window

PNG = b"\x89PNG\r\n\x1a\n"


def link_settings(nodes: list[str]) -> list[LinkSettings]:
    """Both directions of every neighbourship; the second is slower, the last one lossy and open only at times."""
    links = []
    for number, (source, target) in enumerate(ring_links(nodes)):
        rate = 2e6 if number == 1 else 10e6
        last = number == len(nodes) - 1
        windows = (Window(start=0, end=100), Window(start=150, end=1e6)) if last and len(nodes) > 2 else None
        common: dict[str, Any] = {"delay": 6.6e-3, "jitter": 0.2e-3, "loss": 0.001 * last, "schedule": windows}
        links.append(LinkSettings(source=source, target=target, rate=rate, **common))
        if len(nodes) > 2:
            links.append(LinkSettings(source=target, target=source, rate=rate, **common))
    return links


def scene(rng: np.random.Generator, lines: int, samples: int, skill: float) -> dict[str, np.ndarray]:
    """Maps of a scene with two small targets, whose detectors see them the better the greater `skill` is."""
    target = np.zeros((lines, samples), dtype=bool)
    target[lines // 4 : lines // 4 + 4, samples // 3 : samples // 3 + 5] = True
    target[lines // 2 : lines // 2 + 3, samples // 2 : samples // 2 + 3] = True
    scored = np.ones_like(target)
    scored[lines // 2 : lines // 2 + 3, samples // 2 : samples // 2 + 3] = False
    terrain = np.cumsum(np.cumsum(rng.normal(size=(lines, samples)), axis=0), axis=1)
    terrain = (terrain - terrain.min()) / np.ptp(terrain)
    rgb = (255 * np.stack([terrain, terrain**0.7, 1 - terrain], axis=2)).astype(np.uint8)

    def detector(strength: float) -> np.ndarray:
        return rng.gamma(2.0, 0.1, size=target.shape) + 0.1 * terrain + 0.3 * strength * target

    strengths = {"score": 3 * skill, "residual": 2 * skill, "coarse": 2.0, "untrained": 1.0}
    strengths |= {"rx": 1.5, "ace": 2.5, "cem": 2.0, "brightness": 0.2}
    maps = {name: detector(strength) for name, strength in strengths.items()}
    return {**maps, "target": target, "scored": scored, "rgb": rgb}


def make_run(
    path: Path,
    nodes: int = 4,
    steps: int = 200,
    *,
    compressor: dict[str, Any] | None = None,
    payload: int = 90_000,
    skill: float = 1.0,
    shape: tuple[int, int] | None = (100, 100),
    seed: int = 7,
) -> Run:
    """A run over shaped links, written by `RunFolder`: every step moves its payload twice round the ring."""
    rng = np.random.default_rng(seed)
    names = [f"sat-{rank}" for rank in range(nodes)]
    links = {(link.source, link.target): link for link in link_settings(names)}
    ring = ring_links(names)
    folder = RunFolder.create(path)
    folder.write_topology("name: synthetic\n")
    config = {
        "name": "synthetic",
        "nodes": names,
        "clock": "virtual",
        "compressor": compressor or {"name": "gcc", "error_feedback": True, "density": 0.5},
        "topology": {"seed": seed, "emulation": {"links": "userspace"}, "training": {"workload": "background"}},
    }
    folder.write_config({**config, "links": [link.model_dump() for link in links.values()]})
    total = 2 * (nodes - 1) * payload
    for rank, name in enumerate(names):
        folder.record(
            Started(rank, name, 1000 + rank, {"parameters": 45_000}, Sent(3, 4000, 96), dense_step_bytes=2 * total)
        )
    clock = 0.0
    for step in range(1, steps + 1):
        busiest = max((8 * total / links[link].rate for link in ring), default=0.0)
        compute = rng.gamma(40, 0.0005, size=nodes) * (5 if step == 1 else 1)
        late = compute.max()
        closed = 150 - clock if nodes > 2 and 100 <= clock < 150 else 0.0
        duration = late + 0.004 + busiest + closed
        clock += duration
        for rank, name in enumerate(names):
            sent, received, busy = Sent(), Received(), 0.0
            if ring:
                link, back = links[ring[rank]], links[ring[rank - 1]]
                busy = 8 * total / link.rate
                again = int(rng.poisson(link.loss * total))
                sent = Sent(2 * (nodes - 1), total, 64 * (nodes - 1), again, busy, queue_s=0.01 * busy)
                mean = back.delay + abs(rng.normal(0, back.jitter / 3)) + 5e-5
                bits = 8.0 * total * 0.8
                rate_s = bits / back.rate * (1 + abs(rng.normal(0, 0.004)))
                received = Received(mean, mean + 3e-4, 4, bits, rate_s)
            value = 0.02 + 0.8 * np.exp(-step / 60) * (1 + 0.05 * rng.normal()) + 0.001 * rank
            parts = StepParts(compute[rank], 0.003, late - compute[rank] + busiest - busy + closed, busy, 0.001)
            values = 22_500 if nodes > 1 else 0
            folder.record(
                Step(rank, name, step, clock, duration, value, parts, sent, received, values, fingerprint=step)
            )
    for rank, name in enumerate(names):
        folder.record(Telemetry(rank, name, clock, 93.0, 300 << 20, 9))
        folder.record(Finished(rank, name, clock, steps, "ab" * 32, 45_000))
    if shape:
        folder.write_maps(scene(np.random.default_rng(1), *shape, skill))
        run = load(path)
        areas = {name: roc_of(run, name)[2] for name in run.maps if name in DETECTORS}
        metrics = {"auc" if name == "score" else f"auc_{name}": area for name, area in areas.items()}
        folder.record_evaluation(steps, clock, metrics)
    folder.close()
    folder.write_summary(summarise(load(path), wall_s=clock))
    return load(path)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("four") / "run")


@pytest.fixture(scope="module")
def three_compressors(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("compared")
    return [
        make_run(root / "dense", steps=60, compressor={"name": "none"}, payload=180_000, skill=1.02),
        make_run(root / "gcc", steps=60, compressor={"name": "gcc", "density": 0.5}),
        make_run(root / "nsi", steps=60, compressor={"name": "nsi", "density": 0.02}, payload=5000, skill=0.9),
    ]


def panels_of(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def curve(axes: Axes, marker: str) -> tuple[np.ndarray, np.ndarray]:
    """The data of the one line of a panel that has this marker (or "None") and more than two points."""
    lines = [line for line in axes.lines if line.get_marker() == marker and line.get_linestyle() != "--"]
    assert len(lines) == 1
    return np.asarray(lines[0].get_xdata()), np.asarray(lines[0].get_ydata())


def dashed(axes: Axes) -> float:
    """The height of the dashed horizontal line of a panel."""
    line = next(line for line in axes.lines if line.get_linestyle() == "--")
    return float(np.asarray(line.get_ydata())[0])


def test_every_figure_of_a_run_is_a_png(four: Run, tmp_path: Path) -> None:
    paths = figures.draw_all(four, tmp_path / "figures")
    assert [path.stem for path in paths] == list(figures.ALL)
    assert sorted(tmp_path.glob("figures/*")) == sorted(paths)
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(PNG)
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert 600 <= width <= 2400
        assert 300 <= height <= 1800


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"nodes": 1, "steps": 1}, {"topology", "loss", "step-time", "roc", "detection-map"}),
        ({"nodes": 2, "steps": 1, "shape": None}, {"topology", "loss", "step-time", "throughput", "delay"}),
        ({"nodes": 3, "steps": 0, "shape": None}, {"topology"}),
        ({"nodes": 16, "steps": 3, "shape": (20, 80)}, set(figures.ALL)),
    ],
)
def test_only_what_the_run_has_data_for_is_drawn(tmp_path: Path, arguments: dict[str, Any], expected: set[str]) -> None:
    run = make_run(tmp_path / "run", **arguments)
    assert {path.stem for path in figures.draw_all(run, tmp_path)} == expected
    for name in figures.ALL.keys() - expected:
        with pytest.raises(NotDrawable, match="synthetic: "):
            figures.ALL[name](run)


def test_drawing_leaves_matplotlib_as_it_was(four: Run) -> None:
    before = dict(matplotlib.rcParams)
    loss(four)
    with pytest.raises(NotDrawable):
        roc(replace(four, maps={}))
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported(four: Run, tmp_path: Path) -> None:
    script = (
        "import sys; from edgesim import figures; from edgesim.results import load; "
        "assert figures.draw_all(load(sys.argv[1]), sys.argv[2]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", script, str(four.path), str(tmp_path)], check=True, cwd=root)


def test_throughput_shows_configured_measured_and_carried(four: Run) -> None:
    panels = panels_of(throughput(four))
    assert list(panels) == ["sat-0 → sat-1", "sat-1 → sat-2", "sat-2 → sat-3", "sat-3 → sat-0"]
    slow = panels["sat-1 → sat-2"]
    assert dashed(slow) == 2.0
    assert dashed(panels["sat-0 → sat-1"]) == 10.0
    _, measured = curve(slow, ".")
    assert np.nanmedian(measured) == pytest.approx(2.0, rel=0.02)
    carried, edges, _ = slow.patches[-1].get_data()  # type: ignore[attr-defined]
    assert len(carried) <= 150
    rows = four.of_link("sat-1", "sat-2")
    sent = sum(rows[f"{part}_bytes"].sum() for part in ("payload", "header", "retransmitted"))
    # The area under what was carried is what was sent.
    assert (carried * np.diff(edges)).sum() * 1e6 / 8 == pytest.approx(sent)
    assert edges[-1] == pytest.approx(four.summary["time_s"])


def test_closed_windows_are_marked(four: Run) -> None:
    panels = panels_of(throughput(four))
    hatched = {name: [patch for patch in axes.patches if patch.get_hatch()] for name, axes in panels.items()}
    assert [len(patches) for patches in hatched.values()] == [0, 0, 0, 1]
    closed = hatched["sat-3 → sat-0"][0]
    assert (closed.get_x(), closed.get_x() + closed.get_width()) == (100, 150)  # type: ignore[attr-defined]
    assert "no contact" in legend_of(throughput(four))


def test_delay_shows_configured_and_measured(four: Run) -> None:
    axes = panels_of(delay(four))["sat-2 → sat-3"]
    assert dashed(axes) == pytest.approx(6.6)
    _, measured = curve(axes, ".")
    assert np.nanmedian(measured) == pytest.approx(6.7, abs=0.1)
    low, high = axes.get_ylim()
    assert low < 6.4
    assert high > 6.9


def test_step_time_stacks_to_the_duration(four: Run) -> None:
    figure = step_time(four)
    assert legend_of(figure) == list(PARTS)
    over_steps, of_nodes = figure.axes
    top, edges, _ = over_steps.patches[-1].get_data()  # type: ignore[attr-defined]
    steps = np.diff(edges)
    assert steps.sum() == 200
    assert (top * steps).sum() == pytest.approx(four.of_node("sat-0")["duration_s"].sum(), rel=1e-6)
    ends = [bar.get_x() + bar.get_width() for bar in of_nodes.patches[-4:]]  # type: ignore[attr-defined]
    assert ends == pytest.approx([four.of_node("sat-0")["duration_s"].mean()] * 4, rel=1e-6)


def test_loss_has_a_curve_for_each_node_and_their_mean(four: Run) -> None:
    figure = loss(four)
    assert legend_of(figure) == [*four.nodes, "mean, moving median"]
    by_step, by_time = figure.axes
    np.testing.assert_array_equal(by_step.lines[0].get_ydata(), four.of_node("sat-0")["loss"])
    assert by_time.lines[-1].get_xdata()[-1] == pytest.approx(four.summary["time_s"])  # type: ignore[index]
    assert by_step.get_yscale() == "log"


def test_a_loss_that_is_not_finite_leaves_a_gap(four: Run) -> None:
    broken = dict(four.steps)
    broken["loss"] = np.where(four.steps["step"] > 100, np.nan, four.steps["loss"])
    mean = loss(replace(four, steps=broken)).axes[0].lines[-1]
    assert np.asarray(mean.get_xdata()).tolist() == list(range(1, 101))
    broken["loss"] = np.full_like(four.steps["loss"], np.inf)
    with pytest.raises(NotDrawable, match="no step with a finite loss"):
        loss(replace(four, steps=broken))


def test_roc_by_hand(four: Run) -> None:
    """Scores 4 3 2 1 of truth 1 0 1 0: of four pairs of target and background three are in order. The pixel that is not
    scored and the one without a value do not count."""
    maps = {
        "score": np.array([[4.0, 3.0, 2.0], [1.0, 9.0, np.nan]]),
        "target": np.array([[1, 0, 1], [0, 0, 1]], dtype=bool),
        "scored": np.array([[1, 1, 1], [1, 0, 1]], dtype=bool),
    }
    false_alarms, detections, area = roc_of(replace(four, maps=maps), "score")
    assert area == 0.75
    assert false_alarms.tolist() == [0, 0, 0.5, 0.5, 1]
    assert detections.tolist() == [0, 0.5, 0.5, 1, 1]
    with pytest.raises(NotDrawable, match="not both targets and background"):
        roc_of(replace(four, maps={**maps, "scored": ~maps["target"]}), "score")


def test_roc_has_every_control(four: Run) -> None:
    figure = roc(four)
    names = [name.split(" (")[0] for name in legend_of(figure)]
    assert names == ["network", "untrained network", "RX", "ACE", "CEM", "brightness"]
    assert f"network ({four.summary['metrics']['auc']:.4f})" in legend_of(figure)
    assert [axes.get_xscale() for axes in figure.axes] == ["linear", "log"]


@pytest.mark.parametrize("shape", [(40, 40), (20, 90), (150, 30)])
def test_detection_map_shows_scene_truth_and_score(four: Run, shape: tuple[int, int]) -> None:
    maps = scene(np.random.default_rng(3), *shape, skill=1.0)
    figure = detection_map(replace(four, maps=maps))
    panels = panels_of(figure)
    assert list(panels) == ["False colour", "Truth", "Score"]
    truth = np.asarray(panels["Truth"].images[0].get_array())
    np.testing.assert_array_equal(truth == 3, maps["target"] & maps["scored"])
    np.testing.assert_array_equal(np.asarray(panels["Score"].images[0].get_array()), maps["score"])
    assert legend_of(figure) == ["background", "target, prior", "target"]


def test_topology_names_every_node_and_link(four: Run) -> None:
    texts = texts_of(topology(four))
    assert {*four.nodes, "0", "1", "2", "3"} <= set(texts)
    labels = [text for text in texts if "bit/s" in text]
    # The opposite directions are alike and said once.
    assert sorted(labels) == sorted(
        ["10 Mbit/s\n6.6 ± 0.2 ms"] * 2 + ["2 Mbit/s\n6.6 ± 0.2 ms", "10 Mbit/s\n6.6 ± 0.2 ms\n0.1 % loss\n2 contacts"]
    )


def test_topology_shows_both_directions_where_they_differ() -> None:
    links = [
        LinkSettings(source="a", target="b", rate=5e5, delay=0.3),
        LinkSettings(source="b", target="a"),
        LinkSettings(source="b", target="ground", rate=1e8, delay=0.002),
    ]
    texts = texts_of(draw_topology(["a", "b"], links))
    assert {"500 kbit/s\n300 ms", "unlimited\nno delay", "100 Mbit/s\n2 ms", "ground"} <= set(texts)


def test_a_large_ring_of_equal_links_says_so_once() -> None:
    names = [f"n{rank}" for rank in range(16)]
    links = [LinkSettings(source=a, target=b, rate=1e7, delay=0.01) for a, b in ring_links(names)]
    assert [text for text in texts_of(draw_topology(names, links)) if "bit/s" in text] == [
        "every link\n10 Mbit/s\n10 ms"
    ]


def test_overlays_of_runs(three_compressors: list[Run], tmp_path: Path) -> None:
    paths = figures.draw_overlays(three_compressors, tmp_path)
    assert [path.stem for path in paths] == list(figures.OVERLAYS)
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    labels = ["none", "gcc density=0.5", "nsi density=0.02"]
    assert legend_of(loss_of_runs(three_compressors)) == labels
    assert [name.rsplit(" (", 1)[0] for name in legend_of(roc_of_runs(three_compressors))] == labels
    figure = accuracy_of_runs(three_compressors)
    assert legend_of(figure) == labels
    assert {"RX", "ACE", "CEM", "brightness"} <= set(texts_of(figure))
    by_bytes = figure.axes[0]
    drawn = {line.get_label(): line for line in by_bytes.lines if line.get_marker() == "o"}
    for run, label in zip(three_compressors, labels, strict=True):
        assert drawn[label].get_xdata()[0] == pytest.approx(run.summary["bytes_sent"]["sat-0"] / 1e6, rel=0.01)  # type: ignore[index]
        assert 1 - drawn[label].get_ydata()[0] == pytest.approx(run.summary["metrics"]["auc"])  # type: ignore[index]


def test_a_killed_run_does_not_stop_the_overlays(three_compressors: list[Run]) -> None:
    killed = replace(three_compressors[0], summary={}, maps={})
    runs = [killed, *three_compressors[1:]]
    assert len(legend_of(roc_of_runs(runs))) == 2
    assert len(legend_of(loss_of_runs(runs))) == 3
    assert len(legend_of(accuracy_of_runs(runs))) == 2
    for draw in figures.OVERLAYS.values():
        with pytest.raises(NotDrawable):
            draw([replace(killed, steps={name: column[:0] for name, column in killed.steps.items()})])


def test_long_runs_are_reduced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", nodes=2, steps=2000, shape=None)
    for draw in (throughput, delay):
        for axes in panels_of(draw(run)).values():
            x, _ = curve(axes, ".")
            assert len(x) == 150


@given(st.integers(1, 500), st.integers(1, 60))
def test_blocks_cover_every_row_once(length: int, most: int) -> None:
    starts = series.blocks(length, most)
    assert len(starts) == min(length, most)
    column = np.arange(length, dtype=float)
    assert series.totals(column, starts).sum() == column.sum()
    sizes = np.diff(np.append(starts, length))
    assert sizes.max() - sizes.min() <= 1
    assert series.ends(starts, length).tolist() == (starts + sizes - 1).tolist()


def test_smoothing_removes_spikes_and_keeps_steps() -> None:
    values = np.where(np.arange(1000) < 500, 2.0, 1.0)
    spiky = values.copy()
    spiky[[100, 700]] = 50
    np.testing.assert_array_equal(series.smooth(spiky), values)
    np.testing.assert_array_equal(series.smooth(np.array([3.0])), [3.0])


@pytest.mark.parametrize("count", [1, 2, 7, 8, 16])
def test_every_node_has_a_colour_of_its_own(count: int) -> None:
    names = [str(number) for number in range(count)]
    assert len({matplotlib.colors.to_hex(colour) for colour in colours(names).values()}) == count


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("rate", 10e6, "10 Mbit/s"),
        ("rate", 9600.0, "9.6 kbit/s"),
        ("duration", 6.6e-3, "6.6 ms"),
        ("duration", 0.0, "0 µs"),
        ("bytes", 123.0, "123 B"),
    ],
)
def test_quantities_are_written_as_people_do(kind: str, value: float, text: str) -> None:
    assert quantity(kind, value) == text


@pytest.mark.parametrize("draw", figures.ALL.values())
def test_a_figure_is_returned_undrawn(four: Run, draw: Callable[[Run], Figure]) -> None:
    figure = draw(four)
    assert isinstance(figure, Figure)
    assert figure.dpi == 150
