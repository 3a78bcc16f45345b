"""A run whose links the kernel imposes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgesim.figures.links import throughput
from edgesim.figures.topology import topology
from edgesim.fleet.local import LocalFleet
from edgesim.network import namespaces
from edgesim.network.plan import Kernel, make_plan
from edgesim.proof import prove
from edgesim.results import Run
from edgesim.run import Experiment
from edgesim.topology.reader import read
from node_agent.compression.settings import CompressorSettings, GCCSettings, NoneSettings, TopKSettings
from node_agent.job import ProbeSettings

Write = Callable[..., Path]

DENSE = NoneSettings()


def run(file: Path, folder: Path, *overrides: str, compressor: CompressorSettings = DENSE) -> Run:
    experiment = Experiment.prepare(read(file, overrides), "", overrides)
    return experiment.run(compressor, folder, LocalFleet(), lambda event: None)


def assert_reconciled(run: Run) -> None:
    """What the collectives come to by formula, what the nodes sent and what the kernel's devices carried agree: the
    first two in every step, all of them in the end, when nothing is under way."""
    np.testing.assert_array_equal(run.steps["formula_bytes"], run.steps["bytes_sent"])
    assert not any("bytes" in deviation for deviation in run.summary["deviations"])
    assert len(run.summary["ledger"]) == len(run.nodes)
    for name, entry in run.summary["ledger"].items():
        node = name.partition("->")[0]
        assert entry["formula_bytes"] == entry["encoded_bytes"] == run.summary["bytes_sent"][node]
        assert entry["carried_bytes"] >= 0.995 * entry["encoded_bytes"]
        if entry["retransmitted_packets"] == 0:
            assert entry["carried_bytes"] == pytest.approx(entry["encoded_bytes"], rel=0.005)
            assert entry["largest_gap_bytes"] <= run.of_node(node)["bytes_sent"].max(), "what a step has sent is left"


def test_the_kernels_links_train_the_same_parameters(kernel: Kernel, write_topology: Write, tmp_path: Path) -> None:
    file = write_topology(2, links="{rate: 20 Mbit/s}")
    virtual = run(file, tmp_path / "virtual", "training.steps=4")
    netns = run(file, tmp_path / "netns", "training.steps=4", "emulation.links=netns", "emulation.clock=wall")
    found = netns.summary
    assert found["nodes_agree"] is True
    assert found["params_sha256"] == virtual.summary["params_sha256"]
    assert (found["links_imposed"], found["tcp_congestion_control"]) == ("netns", "reno")
    for name, link in found["links"].items():
        assert link["requested"]["rate_bit_s"] == link["applied"]["rate_bit_s"] == 2e7
        assert link["applied"]["means"] == "kernel"
        assert link["applied"]["payload_bit_s"] == pytest.approx(2e7 * 1448 / 1500)
        sent = found["bytes_sent"][name.partition("->")[0]]
        assert link["applied"]["counters"]["bytes"] > sent, "the kernel has counted every packet, headers and all"
        assert link["applied"]["counters"]["dropped"] == 0
        assert link["measured"]["loss"] == 0.0
    assert_reconciled(netns)
    assert [event["moment"] for event in netns.events_of("network")] == ["began", "ended"]
    assert netns.config["network"]["means"] == {"n0--n1": "kernel"}


def test_relayed_links_are_proved(relaying: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "WARM_UP", 0.3)
    file = tmp_path / "two.yaml"
    file.write_text(
        "nodes: [b, a]\nring: [a, b]\nemulation: {links: netns}\n"
        "links: [{between: [b, a], rate: 10 Mbit/s, delay: 8 ms, reverse: {rate: 5 Mbit/s}}]\n"
    )
    topology = read(file)
    probe = ProbeSettings(samples=10, burst_time=0.5, tolerance=0.05, binding=False)
    ((there, back),) = prove(topology, LocalFleet, probe, plan=make_plan(topology, "test", relaying))
    assert [proof.requested.name for proof in (there, back)] == ["b->a", "a->b"]
    for proof, rate in ((there, 10e6), (back, 5e6)):
        assert (proof.applied.rate, proof.applied.delay, proof.loss) == (rate, 0.008, 0.0)
        assert proof.goodput == pytest.approx(1448 / 1500)
        assert proof.measured.delay_s == pytest.approx(0.008, abs=0.01)
        assert proof.measured.rate_bit_s == pytest.approx(rate * 1448 / 1500, rel=0.15)


def test_a_ring_goes_over_several_links(kernel: Kernel, write_topology: Write, tmp_path: Path) -> None:
    """A line n0 - n1 - n2 trains what the ring of three links trains; n2 -> n0 goes over n1."""
    line = ["links=[{between: [n0, n1], rate: 40 Mbit/s}, {between: [n1, n2], rate: 20 Mbit/s}]"]
    file = write_topology(3, links="{rate: 20 Mbit/s}")
    virtual = run(file, tmp_path / "virtual", "training.steps=4", compressor=TopKSettings())
    # No probe has to be made again on a busy machine.
    over = ("emulation.links=netns", "emulation.clock=wall", "emulation.tolerance=90 %")
    netns = run(file, tmp_path / "netns", *line, "training.steps=4", *over, compressor=TopKSettings())
    assert_reconciled(netns)
    found = netns.summary
    assert found["nodes_agree"] is True
    assert found["params_sha256"] == virtual.summary["params_sha256"]
    assert [found["links"][name]["over"] for name in ("n0->n1", "n1->n2", "n2->n0")] == [[], [], ["n1"]]
    link = found["links"]["n2->n0"]
    assert link["requested"]["rate_bit_s"] == link["applied"]["rate_bit_s"] == 2e7, "the least on the way"
    assert link["applied"]["counters"] is None, "links count all that they carry"
    assert link["measured"]["loss"] == 0.0
    carried = {
        (entry["link"]["source"], entry["link"]["target"]): entry["counters"]["bytes"]
        for entry in netns.events_of("network")[-1]["links"]
    }
    for ends in (("n2", "n1"), ("n1", "n0")):
        assert carried[ends] > found["bytes_sent"]["n2"], "what n2 sends goes over both links"
    for figure in (throughput(netns), topology(netns)):
        figure.canvas.draw()


def test_bytes_agree_where_links_impose_nothing(kernel: Kernel, write_topology: Write, tmp_path: Path) -> None:
    """Messages of such a ring have no headers, and the links are not probed."""
    file = write_topology(3, links="{}")
    over = ("training.steps=3", "emulation.links=netns", "emulation.clock=wall")
    netns = run(file, tmp_path / "netns", *over, compressor=GCCSettings())
    assert netns.links["header_bytes"].sum() == 0
    assert_reconciled(netns)
