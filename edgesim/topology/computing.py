"""How long computing takes on a topology's nodes: whether it is modelled, and whether their devices allow that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesim import devices
from edgesim.devices import HOST, Device, DeviceError
from edgesim.topology.problems import Refusal, closest, listed, shown

if TYPE_CHECKING:
    from edgesim.topology.schema import Topology

Path = tuple[Any, ...]


def compute(clock: Any, asked: Any, boards: list[Any]) -> str:
    """measured or modelled: as asked, else modelled under the virtual clock where every node has a device."""
    if asked is not None:
        return str(asked)
    return "modelled" if clock == "virtual" and HOST not in boards else "measured"


def resolved(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A node's properties, the defaults' where it says nothing itself; their mode belongs to their device."""
    taken = {name: value for name, value in defaults.items() if name != "mode" or "device" not in own}
    return {**taken, **own}


def mismatches(data: Mapping[str, Any]) -> Iterator[tuple[Path, Refusal]]:
    """Power modes that a device has not, and times that cannot be modelled, each with its path in a file's data.
    Values of a wrong shape, and devices that there are not, are passed over: the fields themselves refuse those."""
    emulation, defaults = _mapping(data.get("emulation")), _mapping(_mapping(data.get("defaults")).get("node"))
    nodes = data.get("nodes")
    given = [_mapping(node) for node in nodes] if isinstance(nodes, (list, tuple)) else []
    nodes_resolved = [resolved(node, defaults) for node in given]
    boards = [node.get("device", HOST) for node in nodes_resolved]
    clock, asked = emulation.get("clock", "wall"), emulation.get("compute")
    modelled = compute(clock, asked, boards) == "modelled"
    if modelled and clock == "wall":
        yield ("emulation", "compute"), Refusal("modelled under the wall clock", "measured, or clock: virtual")
        return
    if clock == "virtual" and not modelled and _mapping(data.get("training")).get("accelerator") == "cuda":
        yield ("training", "accelerator"), Refusal("cuda", "cpu, where the virtual clock counts CPU time")
    said: set[Path] = set()
    for place, (node, own) in enumerate(zip(nodes_resolved, given, strict=True)):
        for field, refusal in _of_node(node, modelled):
            # What the defaults say is refused once, where they say it.
            path: Path = ("nodes", place, field) if field in own else ("defaults", "node", field)
            path = path if field in own or field in defaults else ("nodes", place)
            if path not in said:
                said.add(path)
                yield path, refusal


def _of_node(node: Mapping[str, Any], modelled: bool) -> Iterator[tuple[str, Refusal]]:
    name, mode = node.get("device", HOST), node.get("mode")
    if name == HOST:
        if mode is not None:
            yield "mode", Refusal(f"a power mode of {HOST}", "one of a device that has modes")
        if modelled:
            yield "device", Refusal(HOST, "a device with a profile, where the time of computing is modelled")
        return
    if not isinstance(name, str) or not isinstance(mode, (str, type(None))):
        return
    if modelled and node.get("compute_factor", 1) != 1:
        yield "compute_factor", Refusal(shown(node["compute_factor"]), "1, where the time of computing is modelled")
    try:
        device = devices.load(name)
    except (DeviceError, Refusal):
        return
    if mode is not None and mode not in device.modes:
        yield "mode", Refusal(shown(mode), listed(device.modes), closest(mode, device.modes))
    elif modelled:
        try:
            device.roofline(mode or device.default_mode)
        except DeviceError as error:
            yield "mode", Refusal(str(error), "a mode whose clocks are known, or compute: measured")


@dataclass(frozen=True)
class Board:
    """What a node runs on."""

    device: Device
    mode: str

    def described(self) -> dict[str, Any]:
        """For a run's configuration: what is assumed of the board, and what of that nobody has verified."""
        power = self.device.power_w(self.mode)
        return {
            "board": self.device.board,
            "mode": self.mode,
            "peak_flop_s": self.device.peak_flop_s(self.mode),
            "roofline": self.device.roofline(self.mode).model_dump(),
            "power_w": None if power is None else {"idle": power[0], "loaded": power[1]},
            "unverified": self.device.doubts(self.mode),
        }


def boards(topology: Topology) -> dict[str, Board]:
    """The board of each node whose computing is modelled; empty where it is measured."""
    if topology.compute == "measured":
        return {}
    found = {}
    for node in topology.nodes:
        device = devices.load(node.device)
        found[node.name] = Board(device, node.mode or device.default_mode)
    return found


def assumptions(topology: Topology) -> list[str]:
    """For people: a line for each kind of board whose time is modelled, with what of it nobody has verified."""
    named: dict[str, list[str]] = {}
    for name, board in boards(topology).items():
        reached = board.device.roofline(board.mode)
        line = (
            f"{board.device.board}, {board.mode}: modelled at {reached.flop_s / 1e9:.4g} GFLOP/s and "
            f"{reached.byte_s / 1e9:.4g} GB/s; unverified: {', '.join(board.device.doubts(board.mode))}"
        )
        named.setdefault(line, []).append(name)
    return [f"{', '.join(names)}: {line}" for line, names in named.items()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
