from __future__ import annotations

from pathlib import Path

import pytest

from edgesim.devices import known
from edgesim.topology.computing import assumptions, boards
from edgesim.topology.reader import TopologyError, read
from edgesim.topology.schema import Topology

ORIN = "jetson-orin-nano-8gb"


def topology(nodes: str, defaults: str = "{}", emulation: str = "{clock: virtual}", folder: Path = Path()) -> Topology:
    file = folder / "ring.yaml"
    file.write_text(f"defaults: {{node: {defaults}}}\nnodes: {nodes}\nemulation: {emulation}\n")
    return read(file)


@pytest.mark.parametrize(
    ("nodes", "defaults", "emulation", "compute"),
    [
        ("[a, b]", f"{{device: {ORIN}}}", "{clock: virtual}", "modelled"),
        ("[a, b]", f"{{device: {ORIN}}}", "{clock: wall}", "measured"),
        ("[a, b]", f"{{device: {ORIN}}}", "{clock: virtual, compute: measured}", "measured"),
        ("[a, b]", "{}", "{clock: virtual}", "measured"),
        ("[a, {name: b, device: host}]", f"{{device: {ORIN}}}", "{clock: virtual}", "measured"),
    ],
)
def test_computing_is_modelled_where_every_node_has_a_device(
    nodes: str, defaults: str, emulation: str, compute: str, tmp_path: Path
) -> None:
    found = topology(nodes, defaults, emulation, tmp_path)
    assert found.compute == compute
    assert len(boards(found)) == (2 if compute == "modelled" else 0)


def test_each_node_has_its_own_board_and_mode(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(known()["jetson-nano-4gb"].read_text())
    found = topology(f"[a, {{name: b, mode: 7W}}, {{name: c, device: {own}}}]", f"{{device: {ORIN}}}", folder=tmp_path)
    a, b, c = (boards(found)[name] for name in "abc")
    assert [board.mode for board in (a, b, c)] == ["15W", "7W", "MAXN"]
    # eta_c x 2 x 1024 cores x 625 MHz; 7W leaves 2 of 4 clusters on, at 408 MHz
    assert a.device.roofline(a.mode).flop_s == 0.5 * 2 * 1024 * 625e6
    assert b.device.roofline(b.mode).flop_s == 0.5 * 2 * 512 * 408e6
    assert c.device.roofline(c.mode).byte_s == 25.6e9
    assert a.described()["power_w"] == {"idle": 4.8, "loaded": 12.5}
    assert c.described()["unverified"] == [
        "memory.gb_s",
        "efficiency.memory",
        "efficiency.launch_us (not known, taken as 0)",
    ]


def test_a_mode_of_the_defaults_belongs_to_their_device(tmp_path: Path) -> None:
    found = topology(
        "[a, {name: b, device: jetson-tx2}, {name: c, device: host}]",
        f"{{device: {ORIN}, mode: 7W}}",
        "{clock: virtual, compute: measured}",
        tmp_path,
    )
    assert [node.mode for node in found.nodes] == ["7W", None, None]


REFUSED = {
    "an unknown device": (
        "[a, {name: b, device: jetson-tx3}]",
        "{}",
        "{}",
        "ring.yaml:2: nodes.1.device: found 'jetson-tx3', which is no device, allowed host, a name that "
        "`edgesim devices` lists, or a profile of your own (.yaml); did you mean 'jetson-tx2'?",
    ),
    "a profile that is not there": (
        "[a]",
        "{device: none.yaml}",
        "{}",
        "ring.yaml:1: defaults.node.device: found none.yaml: cannot read: No such file or directory, allowed a sound "
        "device profile",
    ),
    "an unknown mode": (
        "[a, {name: b, mode: 9W}]",
        f"{{device: {ORIN}}}",
        "{}",
        "ring.yaml:2: nodes.1.mode: found '9W', allowed 15W, 7W, 15W-super, 25W or MAXN_SUPER",
    ),
    "a mode of the defaults, once": (
        "[a, b]",
        "{device: jetson-tx2, mode: maxn}",
        "{}",
        "ring.yaml:1: defaults.node.mode: found 'maxn', allowed MAXN, MAXQ, MAXP_CORE_ALL, MAXP_CORE_ARM or "
        "MAXP_CORE_DENVER; did you mean 'MAXN'?",
    ),
    "a mode of the host": (
        "[{name: a, mode: MAXN}]",
        "{}",
        "{}",
        "ring.yaml:2: nodes.0.mode: found a power mode of host, allowed one of a device that has modes",
    ),
    "a clock that nobody knows": (
        "[a]",
        "{device: jetson-thor-t5000, mode: 120W}",
        "{clock: virtual}",
        "ring.yaml:1: defaults.node.mode: found Jetson Thor T5000: the GPU's clock in mode 120W is not known, so that "
        "no time can be computed, allowed a mode whose clocks are known, or compute: measured",
    ),
    "the host's time modelled": (
        "[a, {name: b, device: jetson-tx2}]",
        "{}",
        "{clock: virtual, compute: modelled}",
        "ring.yaml:2: nodes.0: found host, allowed a device with a profile, where the time of computing is modelled",
    ),
    "modelled time that passes by itself": (
        "[a]",
        "{device: jetson-tx2}",
        "{compute: modelled}",
        "ring.yaml:3: emulation.compute: found modelled under the wall clock, allowed measured, or clock: virtual",
    ),
    "modelled time with a factor": (
        "[a]",
        "{device: jetson-tx2, compute_factor: 2}",
        "{clock: virtual}",
        "ring.yaml:1: defaults.node.compute_factor: found 2, allowed 1, where the time of computing is modelled",
    ),
    "no text": (
        "[{name: a, device: [x], mode: {}}]",
        "{}",
        "{clock: virtual}",
        "ring.yaml:2: nodes.0.device: found a list of 1, allowed host, the name of a device, or a device profile "
        "(.yaml)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, tmp_path: Path) -> None:
    nodes, defaults, emulation, message = REFUSED[case]
    with pytest.raises(TopologyError) as error:
        topology(nodes, defaults, emulation, tmp_path)
    assert str(error.value).replace(f"{tmp_path}/", "").splitlines()[0] == message
    assert len(str(error.value).splitlines()) == (2 if case == "no text" else 1)


def test_a_mode_whose_clock_is_not_known_may_be_measured(tmp_path: Path) -> None:
    thor = "{device: jetson-thor-t5000, mode: 120W}"
    assert topology("[a]", thor, "{clock: virtual, compute: measured}", tmp_path).compute == "measured"


def test_what_is_assumed_is_said_once_for_all_boards_alike(tmp_path: Path) -> None:
    found = topology("[a, {name: b, device: jetson-nano-4gb}, c]", f"{{device: {ORIN}}}", folder=tmp_path)
    assert assumptions(found) == [
        "a, c: Jetson Orin Nano 8 GB, 15W: modelled at 640 GFLOP/s and 68.01 GB/s; unverified: efficiency.compute, "
        "efficiency.memory, efficiency.launch_us (not known, taken as 0)",
        "b: Jetson Nano 4 GB, MAXN: modelled at 118 GFLOP/s and 25.6 GB/s; unverified: memory.gb_s, "
        "efficiency.memory, efficiency.launch_us (not known, taken as 0)",
    ]
    assert assumptions(topology("[a, b]", folder=tmp_path)) == []
