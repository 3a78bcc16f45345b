"""Figures of runs that went through the writer, as a real run's events do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from sklearn.metrics import auc

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
    setup_s: float = 0.0,
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
        began = setup_s - 0.001 * rank
        folder.record(Started(rank, name, 1000 + rank, {"parameters": 45_000}, Sent(3, 4000, 96), began, 2 * total))
    clock = 0.0
    for step in range(1, steps + 1):
        busiest = max((8 * total / links[link].rate for link in ring), default=0.0)
        compute = rng.gamma(40, 0.0005, size=nodes) * (5 if step == 1 else 1)
        late = compute.max()
        closed = 150 - setup_s - clock if nodes > 2 and 100 <= setup_s + clock < 150 else 0.0
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
                Step(
                    *(rank, name, step, clock, duration, value, parts, sent, received, values),
                    fingerprint=step,
                    formula_bytes=sent.message_bytes,
                )
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
    folder.write_summary(summarise(load(path), wall_s=2 * clock))
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
    """The height of the dashed steps of a panel where they begin."""
    steps = next(patch for patch in axes.patches if isinstance(patch, StepPatch) and patch.get_linestyle() == "--")
    return float(steps.get_data().values[0])


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
        ({"nodes": 3, "steps": 3, "shape": (20, 80)}, set(figures.ALL)),
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


def test_neither_pyplot_nor_torch_is_imported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", nodes=2, steps=3, shape=(20, 80))
    script = (
        "import sys; from pathlib import Path; from edgesim import figures; from edgesim.results import load; "
        "drawn = [draw(load(sys.argv[1])) for draw in figures.ALL.values()]; "
        "figures.save(drawn[-1], Path(sys.argv[2]) / 'last.png'); "
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", script, str(run.path), str(tmp_path)], check=True, cwd=root)


def filled(axes: Axes) -> StepPatch:
    """The filled steps of a panel."""
    (steps,) = [patch for patch in axes.patches if isinstance(patch, StepPatch) and patch.get_fill()]
    return steps


def test_throughput_shows_configured_measured_and_carried(four: Run) -> None:
    panels = panels_of(throughput(four))
    assert list(panels) == ["sat-0 → sat-1", "sat-1 → sat-2", "sat-2 → sat-3", "sat-3 → sat-0"]
    slow, lossy = panels["sat-1 → sat-2"], panels["sat-3 → sat-0"]
    assert dashed(slow) == 2.0
    assert dashed(panels["sat-0 → sat-1"]) == 10.0
    _, measured = curve(slow, ".")
    assert np.nanmedian(measured) == pytest.approx(2.0, rel=0.02)
    for panel, link in ((slow, ("sat-1", "sat-2")), (lossy, ("sat-3", "sat-0"))):
        carried, edges, _ = filled(panel).get_data()
        assert len(carried) <= 150
        rows = four.of_link(*link)
        sent = sum(rows[f"{part}_bytes"].sum() for part in ("payload", "header", "retransmitted"))
        # The area under what was carried is what was sent.
        assert (carried * np.diff(edges)).sum() * 1e6 / 8 == pytest.approx(sent, rel=1e-9)
    assert edges[-1] == pytest.approx(four.summary["time_s"])


def hatched(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Of each panel, where it is hatched."""
    return {
        name: [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches if patch.get_hatch()]  # type: ignore[attr-defined]
        for name, axes in panels_of(figure).items()
    }


@pytest.mark.parametrize("draw", [throughput, delay])
def test_closed_windows_are_marked(four: Run, draw: Callable[[Run], Figure]) -> None:
    assert list(hatched(draw(four)).values()) == [[], [], [], [(100, 150)]]
    assert "no contact" in legend_of(draw(four))


@pytest.mark.parametrize("killed", [False, True])
def test_closed_windows_coincide_with_the_stall_of_the_traffic(tmp_path: Path, killed: bool) -> None:
    """Contacts are on the run's clock, which had shown 30 s when training began."""
    run = make_run(tmp_path / "run", setup_s=30.0, shape=None)
    figure = throughput(replace(run, summary={}) if killed else run)
    assert hatched(figure)["sat-3 → sat-0"] == [(70, 120)]
    carried, edges, _ = filled(panels_of(figure)["sat-3 → sat-0"]).get_data()
    slowest = int(np.argmin(carried))
    assert edges[slowest] == pytest.approx(70, abs=2)
    assert edges[slowest + 1] == pytest.approx(120, abs=3)


def test_windows_that_ended_before_training_are_not_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=5, setup_s=200.0, shape=None)
    assert not any(hatched(throughput(run)).values())
    assert "no contact" not in legend_of(throughput(run))


@pytest.mark.parametrize("draw", [throughput, delay])
def test_the_first_and_last_points_are_not_cut(four: Run, draw: Callable[[Run], Figure]) -> None:
    for axes in panels_of(draw(four)).values():
        low, high = axes.get_xlim()
        assert low < 0
        assert high > 1.01 * four.summary["time_s"]


def test_throughput_explains_only_what_it_shows(four: Run) -> None:
    assert legend_of(throughput(four))[:2] == ["configured", "measured, back-to-back messages"]
    unmeasured = {**four.links, "rate_bits": 0 * four.links["rate_bits"], "rate_s": 0 * four.links["rate_s"]}
    unlimited = [{**link, "rate": None, "schedule": None} for link in four.config["links"]]
    bare = replace(four, links=unmeasured, config={**four.config, "links": unlimited})
    assert legend_of(throughput(bare)) == ["carried on average"]


def test_delay_shows_configured_and_measured(four: Run) -> None:
    axes = panels_of(delay(four))["sat-2 → sat-3"]
    assert dashed(axes) == pytest.approx(6.6)
    _, measured = curve(axes, ".")
    assert np.nanmedian(measured) == pytest.approx(6.7, abs=0.1)
    low, high = axes.get_ylim()
    assert low < 6.4
    assert high > 6.9
    assert axes.get_title(loc="right").startswith("mean 6.7")
    high, _, low = filled(axes).get_data()
    assert np.concatenate([low, high]) == pytest.approx([6.4, 6.8])


@pytest.mark.parametrize(("draw", "expected"), [(throughput, [10, 2, 4]), (delay, [5, 5, 9])])
def test_what_changed_during_the_run_is_drawn_as_it_was_configured(
    four: Run, draw: Callable[[Run], Figure], expected: list[float]
) -> None:
    first, *others = four.config["links"]
    moments = ((0.2, 10e6, 0.005), (0.3, 2e6, 0.005), (0.5, 4e6, 0.009), (9.0, 1e6, 1.0))
    end = four.summary["time_s"]
    changes = [{"at": share * end, "rate": rate, "delay": by} for share, rate, by in moments]
    run = replace(four, config={**four.config, "links": [{**first, "changes": changes}, *others]})
    axes = panels_of(draw(run))["sat-0 → sat-1"]
    steps = next(patch for patch in axes.patches if isinstance(patch, StepPatch) and patch.get_linestyle() == "--")
    assert steps.get_data().values[1:].tolist() == pytest.approx(expected)
    assert steps.get_data().edges.tolist() == pytest.approx([0, 0.2 * end, 0.3 * end, 0.5 * end, end])


def test_delay_says_that_retransmissions_are_not_configured(four: Run) -> None:
    assert "configured, without retransmissions" in legend_of(delay(four))
    lossless = [{**link, "loss": 0.0} for link in four.config["links"]]
    assert "configured" in legend_of(delay(replace(four, config={**four.config, "links": lossless})))


def test_step_time_stacks_to_the_duration(four: Run) -> None:
    figure = step_time(four)
    assert legend_of(figure) == list(PARTS)
    over_steps, of_nodes = figure.axes
    top, edges, _ = over_steps.patches[-1].get_data()  # type: ignore[attr-defined]
    steps = np.diff(edges)
    assert steps.sum() == 200
    assert (top * steps).sum() == pytest.approx(four.of_node("sat-0")["duration_s"].sum(), rel=1e-6)
    rows = four.of_node("sat-2")
    widths = [bar.get_width() for bar in of_nodes.patches[2::4]]  # type: ignore[attr-defined]
    assert widths == pytest.approx([rows[f"{part}_s"].mean() for part in PARTS], rel=1e-6)
    areas = np.diff([0.0] + [(patch.get_data()[0] * steps).sum() for patch in over_steps.patches])  # type: ignore[attr-defined]
    assert areas == pytest.approx([four.steps[f"{part}_s"].sum() / 4 for part in PARTS], rel=1e-6)
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
    assert names == ["network", "untrained network", "RX", "ACE", "CEM", "brightness", "chance"]
    assert f"network ({four.summary['metrics']['auc']:.4f})" in legend_of(figure)
    assert [axes.get_xscale() for axes in figure.axes] == ["linear", "log"]
    false_alarms, detections, _ = roc_of(four, "score")
    (curve_of_network,) = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("network")]
    x, y = (np.asarray(data) for data in curve_of_network.get_data())
    assert auc(x, y) == pytest.approx(four.summary["metrics"]["auc"], abs=1e-6)
    assert (x[-1], y[-1]) == (false_alarms[-1], detections[-1])
    for line in figure.axes[0].lines:
        label = str(line.get_label())
        if label.endswith(")"):
            assert auc(*line.get_data()) == pytest.approx(float(label[label.rindex("(") + 1 : -1]), abs=6e-5), label


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
    assert "Detection score" in [axes.get_ylabel() for axes in panels["Score"].child_axes]


def test_the_prior_is_magnified_beside_the_targets(four: Run) -> None:
    maps = scene(np.random.default_rng(3), 145, 145, skill=1.0)
    prior = np.argwhere(maps["target"] & ~maps["scored"])
    truth = panels_of(detection_map(replace(four, maps=maps)))["Truth"]
    (inset,) = truth.child_axes
    (left, right), (bottom, top) = inset.get_xlim(), inset.get_ylim()
    assert left < prior[:, 1].min() < prior[:, 1].max() < right
    assert top < prior[:, 0].min() < prior[:, 0].max() < bottom
    place = inset.get_window_extent()
    assert place.width / (right - left) > 3 * truth.get_window_extent().width / 145
    hidden = truth.transData.inverted().transform_bbox(place)
    assert not any(hidden.contains(sample, line) for line, sample in np.argwhere(maps["target"]))
    maps["scored"] = ~maps["target"]
    maps["target"][100:, 100:] = True
    assert not panels_of(detection_map(replace(four, maps=maps)))["Truth"].child_axes


def test_a_scene_without_a_prior_of_its_own_is_not_magnified(four: Run) -> None:
    maps = scene(np.random.default_rng(3), 145, 145, skill=1.0)
    maps["scored"] = np.ones_like(maps["scored"])
    assert not panels_of(detection_map(replace(four, maps=maps)))["Truth"].child_axes


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


def ring_of(nodes: int, name: str = "sat-{}", chords: bool = False) -> tuple[list[str], list[LinkSettings]]:
    """A ring whose links all differ, both ways, and its longest chords."""
    names = [name.format(rank) for rank in range(nodes)]
    pairs = ring_links(names)
    if chords:
        pairs += [(names[rank], names[rank + nodes // 2]) for rank in range(nodes // 2)]
    links = [
        LinkSettings(source=source, target=target, rate=(1 + number) * 1.23e6, delay=0.3, jitter=0.002, loss=0.01)
        for number, (source, target) in enumerate(dict.fromkeys(pairs + [(target, source) for source, target in pairs]))
    ]
    return names, links


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 40])
def test_texts_of_a_topology_do_not_overlap(nodes: int) -> None:
    names, links = ring_of(nodes)
    figure = draw_topology(names, links)
    figure.canvas.draw()
    boxes = [patch for axes in figure.axes for text in axes.texts if (patch := text.get_bbox_patch()) is not None]
    assert len(boxes) == len(names) + len(links)
    paths = [box.get_transform().transform_path(box.get_path()) for box in boxes]
    assert not any(one.intersects_path(other) for one, other in combinations(paths, 2))


def test_chords_carry_their_own_labels() -> None:
    """The label of each lies on its line, with a ground that hides what it covers, and apart from the others."""
    figure = draw_topology(*ring_of(4, chords=True))
    figure.canvas.draw()
    labels = [text for text in figure.axes[0].texts if "bit/s" in text.get_text()]
    assert len(labels) == 12
    assert all(text.get_bbox_patch().get_facecolor() == (1, 1, 1, 1) for text in labels)  # type: ignore[union-attr]
    extents = [text.get_window_extent() for text in labels]
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))


@pytest.mark.parametrize("nodes", [4, 20])
def test_ranks_stand_out_from_their_nodes(nodes: int) -> None:
    names, links = ring_of(nodes)
    inks = {text.get_text(): text.get_color() for text in draw_topology(names, links).axes[0].texts}
    for rank, colour in enumerate(colours(names).values()):
        bright, dark = sorted((luminance(colour), luminance(inks[str(rank)])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) > 4.5


def luminance(colour: Any) -> float:
    """Relative luminance, WCAG 2."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("nodes", [1, 2, 8, 20])
def test_nothing_is_cut_off_or_written_over(tmp_path: Path, nodes: int) -> None:
    """Also with long names: all is inside the figure, and the titles of panels leave one another room."""
    run = renamed(make_run(tmp_path / "run", nodes=nodes, steps=3), "sat-", "jetson-orin-nano-")
    for name, draw in figures.ALL.items():
        if name in (("throughput", "delay") if nodes == 1 else ("roc", "detection-map")):  # these name no node
            continue
        figure = draw(run)
        figure.canvas.draw()
        tight, whole = figure.get_tightbbox(), figure.bbox_inches
        assert whole.padded(0.02).contains(tight.x0, tight.y0), name
        assert whole.padded(0.02).contains(tight.x1, tight.y1), name
        titles = [text for axes in figure.axes for text in (axes.title, axes._left_title, axes._right_title)]  # type: ignore[attr-defined]
        extents = [title.get_window_extent() for title in titles if title.get_text()]
        assert not any(one.overlaps(other) for one, other in combinations(extents, 2)), name


def renamed(run: Run, old: str, new: str) -> Run:
    """The run with other names of its nodes."""

    def columns(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        texts = {name: cells for name, cells in table.items() if cells.dtype.kind == "U"}
        return {**table, **{name: np.array([cell.replace(old, new) for cell in texts[name]]) for name in texts}}

    config, events, summary = json.loads(json.dumps([run.config, run.events, run.summary]).replace(old, new))
    tables = {"steps": columns(run.steps), "links": columns(run.links), "telemetry": columns(run.telemetry)}
    return replace(run, config=config, events=events, summary=summary, **tables)


def test_overlays_of_runs(three_compressors: list[Run], tmp_path: Path) -> None:
    paths = figures.draw_overlays(three_compressors, tmp_path)
    assert [path.stem for path in paths] == list(figures.OVERLAYS)
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    labels = ["none", "gcc density=0.5", "nsi density=0.02"]
    assert legend_of(loss_of_runs(three_compressors)) == labels
    controls = ["untrained network", "RX", "ACE", "CEM", "brightness"]
    drawn = [name.rsplit(" (", 1)[0] for name in legend_of(roc_of_runs(three_compressors))]
    assert drawn == [*labels, *controls, "chance"]
    figure = accuracy_of_runs(three_compressors)
    assert legend_of(figure) == [*labels, "control"]
    assert set(controls) <= set(texts_of(figure))
    by_bytes = figure.axes[0]
    assert "log scale of 1 − AUC" in by_bytes.get_ylabel()
    points = {line.get_label(): line for line in by_bytes.lines if line.get_label() in labels}
    for run, label in zip(three_compressors, labels, strict=True):
        (sent,), (missed,) = (np.asarray(data) for data in points[label].get_data())
        assert sent == pytest.approx(run.summary["bytes_sent"]["sat-0"] / 1e6, rel=0.01)
        assert 1 - missed == pytest.approx(run.summary["metrics"]["auc"])
        assert sent < by_bytes.get_xlim()[1]
        (clock,) = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_label() == label]  # type: ignore[index]
        assert clock == pytest.approx(run.summary["time_s"])
    for axes, ends in zip(
        loss_of_runs(three_compressors).axes,
        (
            [run.summary["time_s"] for run in three_compressors],
            [run.summary["bytes_sent"]["sat-0"] / 1e6 for run in three_compressors],
        ),
        strict=True,
    ):
        assert [line.get_xdata()[-1] for line in axes.lines] == pytest.approx(ends, rel=0.01)  # type: ignore[index]
    curves = roc_of_runs(three_compressors).axes[0].lines[:3]
    areas = [auc(*line.get_data()) for line in curves]
    assert areas == pytest.approx([run.summary["metrics"]["auc"] for run in three_compressors], abs=1e-6)


def test_runs_that_coincide_are_all_seen(three_compressors: list[Run], tmp_path: Path) -> None:
    runs = [replace(three_compressors[0], path=tmp_path / name) for name in "abc"]
    for axes in accuracy_of_runs(runs).axes:
        points = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert len({line.get_marker() for line in points}) == 3
        assert all(line.get_markerfacecolor() == "none" and not line.get_clip_on() for line in points)
        assert all(low <= x <= high for line in points for x in line.get_xdata() for low, high in [axes.get_xlim()])  # type: ignore[union-attr]


def test_controls_that_the_runs_do_not_share(three_compressors: list[Run]) -> None:
    """Their range in the figure of areas; no curve, which would be that of one run only."""
    first, second = three_compressors[:2]
    metrics = {**second.summary["metrics"], "auc_untrained": first.summary["metrics"]["auc_untrained"] + 0.01}
    maps = {**second.maps, "untrained": second.maps["untrained"] + 1}
    other = replace(second, summary={**second.summary, "metrics": metrics}, maps=maps)
    figure = accuracy_of_runs([first, other])
    assert legend_of(figure)[-2:] == ["control, mean of the runs", "control, range of the runs"]
    heights = [patch.get_height() for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert sorted(map(abs, heights)) == pytest.approx([0, 0, 0, 0, 0.01])
    names = [name.split(" (")[0] for name in legend_of(roc_of_runs([first, other]))]
    assert names[2:] == ["RX", "ACE", "CEM", "brightness", "chance"]
    scored = second.maps["scored"].copy()
    scored[0, 0] = False
    elsewhere = replace(second, maps={**second.maps, "scored": scored})
    assert len(legend_of(roc_of_runs([first, elsewhere]))) == 3


@pytest.mark.parametrize("linear", [0.0, 0.4])
def test_areas_that_are_alike_or_perfect_have_a_linear_scale(three_compressors: list[Run], linear: float) -> None:
    run = three_compressors[0]
    areas = replace(run, summary={**run.summary, "metrics": {"auc": 1 - linear, "auc_rx": 0.55}})
    axes = accuracy_of_runs([areas]).axes[0]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylabel() == "Area under the ROC curve"
    assert min(axes.get_ylim()) >= 0


def test_a_run_whose_area_is_not_a_number_is_left_out(three_compressors: list[Run]) -> None:
    run = three_compressors[0]
    without = replace(run, summary={**run.summary, "metrics": {"auc": None}})
    assert "none" not in legend_of(accuracy_of_runs([without, *three_compressors[1:]]))
    with pytest.raises(NotDrawable, match="area under the curve"):
        accuracy_of_runs([without])


@pytest.mark.parametrize("status", ["failed", "interrupted", None])
def test_unfinished_runs_have_a_loss_but_no_result(three_compressors: list[Run], status: str | None) -> None:
    first = three_compressors[0]
    unfinished = replace(first, summary={**first.summary, "status": status} if status else {})
    runs = [unfinished, *three_compressors[1:]]
    labels = ["none (unfinished)", "gcc density=0.5", "nsi density=0.02"]
    assert legend_of(loss_of_runs(runs)) == labels
    assert [name.split(" (")[0] for name in legend_of(roc_of_runs(runs))][:2] == labels[1:]
    assert legend_of(accuracy_of_runs(runs)) == [*labels[1:], "control"]
    for draw in (roc_of_runs, accuracy_of_runs):
        with pytest.raises(NotDrawable, match="no finished run"):
            draw([unfinished])


def test_a_run_killed_before_its_first_step_does_not_stop_the_overlays(three_compressors: list[Run]) -> None:
    killed = replace(three_compressors[0], summary={}, maps={})
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
