from __future__ import annotations

import csv
import json
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgesim.cli import app
from edgesim.contacts import COLUMNS, plan_of
from edgesim.figures.orbit import draw_orbit
from edgesim.topology.constellation import Constellation

FILE = """\
constellation:
  epoch: 2026-03-20T12:00:00Z
  duration: 12 h
  shells:
    - {name: sat, altitude: 550 km, inclination: 97.6 deg, satellites: 4, spacing: 12 deg}
  stations:
    - {name: svalbard, latitude: 78.23 deg, longitude: 15.41 deg, elevation: 5 deg}
    - {name: troll, latitude: -72.01 deg, longitude: 2.53 deg, elevation: 5 deg}
"""


def edgesim(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "string.yaml"
    path.write_text(FILE)
    return path


def test_the_exported_plan_has_every_contact_and_eclipse(file: Path, tmp_path: Path) -> None:
    code, output, _ = edgesim("contacts", file, "--out", tmp_path / "plan.csv")
    assert code == 0
    for told in ("string: 4 satellites, 2 ground stations; 12 h", "svalbard", "sat-3", "4.826 ms"):
        assert told in output
    with (tmp_path / "plan.csv").open() as plan:
        rows = list(csv.DictReader(plan))
    assert tuple(rows[0]) == COLUMNS
    cross = [row for row in rows if row["kind"] == "inter-satellite"]
    # A string: three links, in sight all the time; 2 · 6921 km · sin(6°).
    assert [(row["source"], row["target"]) for row in cross] == [(f"sat-{i}", f"sat-{i + 1}") for i in range(3)]
    assert {(row["start_s"], row["end_s"], row["elevation_max_deg"]) for row in cross} == {("0.0", "43200.0", "")}
    assert float(cross[0]["range_min_km"]) == pytest.approx(1446.88, abs=0.01)
    assert float(cross[0]["delay_max_ms"]) == pytest.approx(4.8263, abs=1e-4)
    passes = [row for row in rows if row["kind"] == "ground"]
    # Seven and a half revolutions, and nearly each comes by.
    assert 4 * 2 * 5 <= len(passes) <= 4 * 2 * 8
    for row in passes:
        assert float(row["duration_s"]) == pytest.approx(float(row["end_s"]) - float(row["start_s"]), abs=1e-6)
        assert 5 < float(row["elevation_max_deg"]) <= 90
        assert 540 < float(row["range_min_km"]) < float(row["range_max_km"]) < 2260
        assert row["start_utc"].endswith("Z")
        began = datetime.fromisoformat(row["start_utc"].removesuffix("Z"))
        since = began - datetime(2026, 3, 20, 12)
        assert since.total_seconds() == pytest.approx(float(row["start_s"]), abs=1e-3)
    dark = [row for row in rows if row["kind"] == "eclipse"]
    assert {row["source"] for row in dark} == {"sat-0", "sat-1", "sat-2", "sat-3"}
    assert {(row["target"], row["range_min_km"]) for row in dark} == {("", "")}


def test_as_json(file: Path) -> None:
    code, output, _ = edgesim("contacts", file, "--json", "--set", "constellation.duration=1 h")
    assert code == 0
    told = json.loads(output)
    assert (told["name"], told["epoch"], told["duration_s"]) == ("string", "2026-03-20T12:00:00.000Z", 3600)
    assert (told["satellites"], told["stations"]) == (4, ["svalbard", "troll"])
    assert {row["kind"] for row in told["contacts"]} >= {"inter-satellite", "ground"}


def test_a_file_without_constellation_has_no_contact_plan(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text("nodes: [a, b]\n")
    code, output, errors = edgesim("contacts", path)
    assert (code, output) == (2, "")
    assert f"{path}:1: constellation: found nothing, allowed a mapping of epoch, duration, step" in errors


def test_show_draws_the_orbits_beside_the_topology(file: Path, tmp_path: Path) -> None:
    changes = ("--set", "constellation.duration=2 h", "--set", "ring=[sat-0, sat-1, sat-3, sat-2]")
    code, output, _ = edgesim("show", file, *changes, "--png", tmp_path / "string.png")
    assert code == 0
    assert "4.826 ms" in output
    for name in ("string.png", "string-orbit.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def _section(**shell: object) -> Constellation:
    stations = [
        {"name": "madrid", "latitude": "40.43 deg", "longitude": "-4.25 deg"},
        {"name": "far-east", "latitude": "60 deg", "longitude": "179 deg"},
    ]
    shells = [{"name": "sat", "altitude": "550 km", "inclination": "53 deg", **shell}]
    return Constellation.model_validate(
        {"epoch": "2026-03-20T00:00:00Z", "duration": "3 h", "shells": shells, "stations": stations}
    )


def test_the_figure_names_what_it_shows() -> None:
    figure = draw_orbit(plan_of(_section(satellites=12), None))
    above, below = figure.axes
    texts = {text.get_text() for text in above.texts}
    assert texts == {f"sat-{i}" for i in range(12)}
    assert [label.get_text() for label in below.get_yticklabels()] == [
        "12 links in sight all the time",
        *(f"sat-{i}" for i in range(12)),
    ]
    assert below.get_xlabel() == "time after the epoch, h"
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"madrid", "far-east", "satellite in the Earth's shadow"} <= labels
    # Nothing is drawn from one edge of the map to the other.
    for line in above.lines:
        x = line.get_xdata()
        assert max(abs(b - a) for a, b in pairwise(x)) < 180 if len(x) > 1 else True


def test_the_figure_of_many_satellites_shows_what_stations_see() -> None:
    figure = draw_orbit(plan_of(_section(satellites=11, planes=6), []))
    above, below = figure.axes
    assert not above.texts
    rows = [label.get_text() for label in below.get_yticklabels()]
    assert rows == ["madrid: any satellite", "far-east: any satellite"]


def test_nothing_of_the_figure_is_cut_off() -> None:
    section = _section(satellites=10, name="jetson-orin-nano-satellite")
    figure = draw_orbit(plan_of(section, None))
    figure.canvas.draw()
    tight, whole = figure.get_tightbbox(), figure.bbox_inches
    assert whole.padded(0.02).contains(tight.x0, tight.y0)
    assert whole.padded(0.02).contains(tight.x1, tight.y1)
    names = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(other) for one, other in combinations(names, 2))
