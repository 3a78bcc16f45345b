"""Links measured before anything depends on them: by `edgesim links`, and before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import edgesim, summary

from edgesim.figures import draw_deviation
from edgesim.proof import Proof, judged
from node_agent.events import Measured
from node_agent.job import Bursts, LinkSettings

Write = Callable[..., Path]

LINKS = """\
name: pair
nodes: [a, b, c]
links:
  - {between: [a, b], rate: 4 Mbit/s, delay: 10 ms, reverse: {rate: 1 Mbit/s}}
  - {between: [b, c]}
  - {between: [c, a], rate: 2 Mbit/s, schedule: [{from: 1 h, to: 2 h}, {at: 1 h, delay: 30 ms}]}
"""


@pytest.mark.alone
def test_every_direction_of_every_link_is_measured(tmp_path: Path) -> None:
    file, png = tmp_path / "links.yaml", tmp_path / "links.png"
    file.write_text(LINKS)
    done = edgesim("links", file, "--json", "--samples", "12", "--at", "1 h", "--png", png)
    assert done.returncode in (0, 1), done.stderr  # a busy machine may be later than a link is allowed to be
    found = {one["link"]: one for one in json.loads(done.stdout)}
    assert list(found) == ["a->b", "b->a", "b->c", "c->b", "c->a", "a->c"]
    asked = {name: (one["requested"]["rate_bit_s"], one["requested"]["delay_s"]) for name, one in found.items()}
    assert asked["a->b"] == (4e6, 0.01)
    assert asked["b->a"] == (1e6, 0.01)
    assert asked["c->a"] == (2e6, 0.03)  # as it will be, however long until then
    for name, (rate, delay) in asked.items():
        measured = found[name]["measured"]
        assert found[name]["applied"] == found[name]["requested"]
        assert measured["delay_s"] == pytest.approx(delay, abs=0.01)
        if rate is not None:
            assert measured["rate_bit_s"] == pytest.approx(rate, rel=0.1)
    assert png.stat().st_size > 10_000


def test_a_loss_is_judged_where_there_are_packets_enough_to_tell() -> None:
    asked = LinkSettings(source="a", target="b", rate=1e7, loss=0.01)
    found = Measured(rate_bit_s=1e7, burst_s=1.0, message_bytes=1500, delay_s=0.0, jitter_s=0.0, samples=9)

    def missed(found_loss: float | None, packets: int = 10_000, **link: Any) -> tuple[str, ...]:
        settings = asked.model_copy(update=link)
        return judged(Proof(settings, settings, found, packets, found_loss, ("rate off",))).deviations

    # of 10,000 packets 100 are lost, give or take 10: three times that and a little more is allowed
    for loss in (0.01, 0.0131, 0.0069, None):
        assert missed(loss) == ("rate off",)
    assert missed(0.0136) == ("rate off", "loss 1.36 % of 10000 packets instead of 1 %")
    assert missed(0.0065) == ("rate off", "loss 0.65 % of 10000 packets instead of 1 %")
    assert missed(0.9, bursts=Bursts(enter=0.01, leave=0.5)) == ("rate off",)
    assert missed(0.5, packets=50) == ("rate off",)  # half a packet would be lost
    assert len(missed(0.001, loss=0.0)) == 2


def test_what_misses_is_drawn_apart_from_what_does_not() -> None:
    asked = LinkSettings(source="a", target="b", rate=1e7, delay=0.05, loss=0.01)
    found = Measured(rate_bit_s=9e6, burst_s=1.0, message_bytes=1500, delay_s=0.051, jitter_s=0.001, samples=9)
    unlimited = LinkSettings(source="b", target="a", jitter=0.01)
    proofs = [
        Proof(asked, asked, found, 10_000, 0.02, ("rate off", "loss off")),
        Proof(unlimited, unlimited, found, 0, None, ()),
    ]
    panels = {axes.get_xlabel().split(",")[0]: axes for axes in draw_deviation(proofs, 0.05).axes}

    def drawn(panel: str) -> list[tuple[float, Any]]:
        dots = [line for line in panels[panel].lines if line.get_marker() == "o"]
        return [(float(np.asarray(dot.get_xdata())[0]), dot.get_color()) for dot in dots]

    off, kept = "#D55E00", "#0072B2"
    assert drawn("Rate") == [(pytest.approx(100 * (0.9 / 0.99 - 1)), off)]
    assert drawn("Median delay")[0] == (pytest.approx(1.0), kept)
    assert drawn("Loss") == [(pytest.approx(1.0), off)]
    assert len(drawn("Jitter")) == 2


def test_a_run_whose_links_miss_their_tolerance_does_not_start(write_topology: Write, tmp_path: Path) -> None:
    # no host keeps a rate to one part in a billion
    file, out = write_topology(2), tmp_path / "run"
    strict = ("--set", "emulation.tolerance=0.000000001", "--set", "emulation.allow_deviation=false")
    done = edgesim("run", file, "--clock", "wall", *strict, "--out", out)
    assert done.returncode == 1
    assert "is not what was asked of it: rate " in done.stderr
    assert "Traceback" not in done.stderr
    found = summary(out)
    assert found["status"] == "failed"
    assert found["steps"] == 0
    assert found["deviations"]


@pytest.mark.alone
def test_a_deviation_that_is_allowed_stands_in_the_summary(write_topology: Write, tmp_path: Path) -> None:
    file, out = write_topology(2), tmp_path / "run"
    strict = ("--clock", "wall", "--set", "emulation.tolerance=0.000000001")
    done = edgesim("run", file, *strict, "--allow-deviation", "--out", out, "--no-figures")
    assert done.returncode == 0, done.stderr
    found = summary(out)
    assert found["status"] == "finished"
    assert found["deviations"]
    assert {missed.split(": ")[0] for missed in found["deviations"]} <= {"link n0->n1", "link n1->n0"}
    probes: dict[str, Any] = {name: link["probed"] for name, link in found["links"].items()}
    for probe in probes.values():
        assert probe["rate_bit_s"] == pytest.approx(2e7, rel=0.2)


def test_a_moment_that_is_no_time_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "links.yaml"
    file.write_text(LINKS)
    done = edgesim("links", file, "--at", "soon")
    assert done.returncode == 2
    assert done.stderr == "edgesim: --at: found 'soon', allowed a time such as '4 ms'\n"
