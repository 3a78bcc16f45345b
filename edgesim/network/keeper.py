"""The process that makes a run's namespaces, holds them and shapes their links.

It alone touches the kernel's network. The namespaces have no name anywhere: they are there as long as this process or
one inside them is, and the devices with them. When its controller is gone, however it went, it ends.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from pyroute2 import IPRoute, NetlinkError

from edgesim.network import devices, passage, shaping, tun
from edgesim.network.plan import (
    ASIDE,
    ASIDE_RANGE,
    ASIDE_ROUTER,
    CONGESTION_CONTROL,
    DATA,
    Applied,
    Built,
    Kernel,
    Plan,
    Wire,
    aside_address,
    data_address,
    device_to,
    relay_groups,
)
from edgesim.network.relay import Relay, RelayFailed, Tunnel
from edgesim.network.syscalls import CLONE_NEWNET, CLONE_NEWUSER, setns, unshare
from node_agent.job import Entrance, LinkSettings, LinkState

MOST_BUFFERED = 256 * 2**20
"""bytes of one connection that an end may hold. Half of it is the window (tcp(7)): 1.7 Gbit/s over a round trip of 600
ms; with a host's usual 4 MB a long link would carry a fraction of its rate"""

LONGEST_WAIT = 3600.0
"""s until the next look at what holds; a wait of weeks is more than poll(2) takes"""

SETTINGS = {
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/tcp_congestion_control": CONGESTION_CONTROL,
    "ipv4/tcp_retries2": "255",
    "ipv4/tcp_syn_retries": "127",
    "ipv4/tcp_wmem": f"4096 16384 {MOST_BUFFERED}",
    "ipv4/tcp_rmem": f"4096 131072 {MOST_BUFFERED}",
}
"""of every namespace. IPv6 would send on every link by itself; TCP would take a closed window of a quarter of an hour
for the end of a connection."""

TUN_QUEUE = 1000
"""packets that may wait for the relay to read them"""


class Namespace:
    """A network namespace that was made here, with a netlink socket inside."""

    def __init__(self) -> None:
        unshare(CLONE_NEWNET)
        self.descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.netlink = IPRoute(groups=0)
        self.up("lo")

    def enter(self) -> None:
        setns(self.descriptor, CLONE_NEWNET)

    def index(self, device: str) -> int:
        return cast(int, self.netlink.link_lookup(ifname=device)[0])

    def up(self, device: str) -> None:
        self.netlink.link("set", index=self.index(device), state="up")

    def join(self, device: str, other: Namespace, its_device: str, mtu: int = shaping.MTU) -> None:
        """A veth pair between this namespace and another one (or itself)."""
        peer = {"ifname": its_device, "net_ns_fd": other.descriptor, "mtu": mtu}
        self.netlink.link("add", kind="veth", ifname=device, mtu=mtu, peer=peer)
        self.up(device)
        other.up(its_device)

    def address(self, device: str, address: str) -> None:
        self.netlink.addr("add", index=self.index(device), address=address, prefixlen=32)

    def route(self, destination: str, device: str, *, via: str | None = None, source: str | None = None) -> None:
        how = {"gateway": via, "flags": ["onlink"]} if via is not None else {"scope": "link"}
        preferred = {"prefsrc": source} if source is not None else {}
        self.netlink.route("add", dst=destination, oif=self.index(device), **how, **preferred)

    def neighbour(self, device: str, address: str, hardware: str) -> None:
        """So that nobody has to ask for it: the question, too, would travel over the link."""
        self.netlink.neigh("add", dst=address, lladdr=hardware, ifindex=self.index(device), state="permanent")

    def hardware(self, device: str) -> str:
        (link,) = self.netlink.get_links(self.index(device))
        return cast(str, link.get_attr("IFLA_ADDRESS"))

    def qdiscs(self, device: str) -> dict[str, Any]:
        """By kind."""
        return {str(message.get_attr("TCA_KIND")): message for message in self.netlink.get_qdiscs(self.index(device))}


class Keeper:
    def __init__(self) -> None:
        self._nodes: list[Namespace] = []
        self._plan: Plan | None = None
        self._relays: list[Relay] = []
        self._origin: float | None = None
        self._user = False

    def gain_privileges(self) -> None:
        """Become able to make network namespaces, by a user namespace where there is no other way. Raises OSError."""
        with suppress(PermissionError):
            unshare(CLONE_NEWNET)
            return
        user, group = os.geteuid(), os.getegid()
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        self._user = True
        with suppress(FileNotFoundError):
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")

    def probe(self) -> Kernel:
        """What works here, tried in namespaces that vanish again."""
        try:
            self.gain_privileges()
            here, there = Namespace(), Namespace()
            here.join("a", there, "b")
        except (OSError, NetlinkError) as error:
            return Kernel(forbidden=_reason(error))
        bucket = shaping.token_bucket(LinkSettings(source="a", target="b", rate=1e6), LinkState(rate=1e6), 14)
        netem = shaping.Netem(0.01, 0.0, 100)
        here.enter()
        return Kernel(
            unprivileged=self._user,
            buckets=_why_not(lambda: _shape(here, "a", bucket), "this kernel has no tbf"),
            netem=_why_not(lambda: _shape(here, "a", netem), "") is None,
            tun=_why_not(lambda: os.close(tun.open_tun("t")), f"{tun.DEVICE}"),
            congestion=_why_not(
                lambda: devices.write_setting("ipv4/tcp_congestion_control", CONGESTION_CONTROL),
                f"TCP congestion control {CONGESTION_CONTROL} cannot be set",
            ),
        )

    def build(self, plan: Plan) -> Built:
        """Make everything that the plan says. Raises OSError, NetlinkError, RelayFailed."""
        self.gain_privileges()
        self._plan = plan
        router = Namespace()
        self._settle(router)
        for rank in range(len(plan.nodes)):
            node = Namespace()
            self._settle(node)
            node.join(DATA, node, f"{DATA}-peer")
            node.address(DATA, data_address(rank))
            self._join_aside(router, node, rank)
            self._nodes.append(node)
        tunnels = [tunnel for wire in plan.wires if (tunnel := self._lay(wire)) is not None]
        self._relays = [Relay(group, plan.seed) for group in relay_groups(tunnels)]
        for rank, node in enumerate(self._nodes):
            self._route(rank, node)
        pid = os.getpid()
        user = f"/proc/{pid}/ns/user" if self._user else None
        return Built(
            tuple(Entrance(network=f"/proc/{pid}/fd/{node.descriptor}", user=user) for node in self._nodes),
            tuple(relay.pid for relay in self._relays),
            all(relay.real_time for relay in self._relays) if self._relays else None,
        )

    def _settle(self, node: Namespace) -> None:
        node.enter()
        for path, value in SETTINGS.items():
            with suppress(FileNotFoundError):  # a kernel without IPv6
                devices.write_setting(path, value)

    def _join_aside(self, router: Namespace, node: Namespace, rank: int) -> None:
        node.join(ASIDE, router, f"n{rank}")
        node.address(ASIDE, aside_address(rank))
        if rank == 0:
            router.address("lo", ASIDE_ROUTER)
        node.route(ASIDE_RANGE, ASIDE, via=ASIDE_ROUTER, source=aside_address(rank))
        node.neighbour(ASIDE, ASIDE_ROUTER, router.hardware(f"n{rank}"))
        router.route(f"{aside_address(rank)}/32", f"n{rank}")
        router.neighbour(f"n{rank}", aside_address(rank), node.hardware(ASIDE))

    def _lay(self, wire: Wire) -> Tunnel | None:
        ends = [self._nodes[rank] for rank in wire.ends]
        names = [wire.device(0), wire.device(1)]
        tunnel = None
        if wire.means == "relay":
            descriptors = []
            for end, name in zip(ends, names, strict=True):
                end.enter()
                descriptors.append(tun.open_tun(name))
                end.netlink.link("set", index=end.index(name), mtu=shaping.MTU, txqlen=TUN_QUEUE, state="up")
            tunnel = Tunnel(wire.forward, wire.backward, *descriptors)
        else:
            ends[0].join(names[0], ends[1], names[1])
            ends[0].neighbour(names[0], data_address(wire.ends[1]), ends[1].hardware(names[1]))
            ends[1].neighbour(names[1], data_address(wire.ends[0]), ends[0].hardware(names[0]))
        for place, (end, name) in enumerate(zip(ends, names, strict=True)):
            if wire.means != "relay":
                end.enter()
                devices.stop_offload(name)
            # TCP builds large segments whatever the device says of itself, and leaves cutting them to the queue.
            end.netlink.link("set", index=end.index(name), gso_max_segs=wire.together(place))
            self._impose(wire, place, wire.leaving(place).state_at(0.0))
        return tunnel

    def _impose(self, wire: Wire, end: int, state: LinkState) -> None:
        """Set what of one direction holds now."""
        settings, node, device = wire.leaving(end), self._nodes[wire.ends[end]], wire.device(end)
        if shaping.limited(settings) or wire.means == "netem":
            header = 0 if wire.means == "relay" else shaping.ETHERNET
            _shape(node, device, shaping.token_bucket(settings, state, header, wire.at_once(end)))
        if wire.means == "netem":
            _shape(node, device, shaping.netem(settings, state))

    def _route(self, rank: int, node: Namespace) -> None:
        assert self._plan is not None
        for other, hop in self._plan.next_hops(rank).items():
            via = None if other == hop else data_address(hop)
            node.route(f"{data_address(other)}/32", device_to(hop), via=via, source=data_address(rank))

    def begin(self, origin: float) -> None:
        """The run's clock shows 0 at `origin` of this host's monotonic clock; may be said again where it was set."""
        self._origin = origin
        for relay in self._relays:
            relay.start_clock(origin)
        self.follow()

    def follow(self) -> float | None:
        """Bring rates to what holds now. Returns when that will next have to be done, on the host's monotonic clock."""
        if self._origin is None or self._plan is None:
            return None
        now = time.monotonic()
        later = []
        for wire in self._plan.wires:
            for end in (0, 1):
                settings = wire.leaving(end)
                if not settings.changes:
                    continue
                self._impose(wire, end, settings.state_at(now - self._origin))
                later += [self._origin + change.at for change in settings.changes if self._origin + change.at > now]
        return min(later, default=None)

    def close(self) -> None:
        for relay in self._relays:
            relay.close()

    def applied(self) -> list[Applied]:
        """Every directed link, as read back."""
        assert self._plan is not None
        relayed = {name: counters for relay in self._relays for name, counters in relay.counters().items()}
        return [self._read(wire, end, relayed) for wire in self._plan.wires for end in (0, 1)]

    def _read(self, wire: Wire, end: int, relayed: Mapping[str, passage.Counters]) -> Applied:
        node, device, asked = self._nodes[wire.ends[end]], wire.device(end), wire.leaving(end)
        node.enter()
        found = node.qdiscs(device)
        bucket = shaping.TokenBucket.reported(found["tbf"]) if "tbf" in found else None
        netem = shaping.Netem.reported(found["netem"]) if "netem" in found else None
        header = 0 if wire.means == "relay" else shaping.ETHERNET
        read: dict[str, Any] = {
            "rate": bucket.rate_bits if bucket else None,
            "queue": bucket.limit if bucket else None,
            "overhead": bucket.overhead + header if bucket else 0,
        }
        if wire.means != "relay":  # the relay does what it has been told, or has ended
            read |= {"delay": netem.delay if netem else 0.0, "loss": netem.loss if netem else 0.0}
        return Applied(
            link=asked.model_copy(update=read),
            means=wire.means,
            burst=bucket.burst if bucket else None,
            offloads=tuple(devices.offloads(device)),
            counters=shaping.Counters.reported(found["tbf"]) if bucket else _device_counters(node, device),
            relayed=relayed.get(asked.name),
        )


def _device_counters(node: Namespace, device: str) -> shaping.Counters:
    (link,) = node.netlink.get_links(node.index(device))
    counts = link.get_attr("IFLA_STATS64")
    return shaping.Counters(counts["tx_bytes"], counts["tx_packets"], counts["tx_dropped"])


def _shape(node: Namespace, device: str, what: shaping.TokenBucket | shaping.Netem) -> None:
    """Add a qdisc, or change it where it is there already: connections and what is queued stay."""
    arguments = what.arguments()
    command = "change" if arguments["kind"] in node.qdiscs(device) else "add"
    node.netlink.tc(command, index=node.index(device), **arguments)


def _why_not(attempt: Callable[[], object], what: str) -> str | None:
    try:
        attempt()
    except (OSError, NetlinkError) as error:
        return f"{what} ({_reason(error)})"
    return None


def _reason(error: Exception) -> str:
    """In one line, and in words where the kernel's own are a riddle."""
    number = error.code if isinstance(error, NetlinkError) else error.errno if isinstance(error, OSError) else None
    if number == errno.ENOSPC:
        return "the limit user.max_user_namespaces or user.max_net_namespaces is reached"
    if number in (errno.EPERM, errno.EACCES):
        return "not allowed to this user"
    if isinstance(number, int):
        return os.strerror(number)
    return str(error) if isinstance(error, RelayFailed) else f"{type(error).__name__}: {error}"


def serve(connection: Connection) -> None:
    """Answer the controller until it is gone, or something fails: that is said, also unasked, and is the end."""
    keeper = Keeper()
    verbs: dict[str, Callable[..., object]] = {
        "probe": keeper.probe,
        "build": keeper.build,
        "begin": keeper.begin,
        "applied": keeper.applied,
    }
    following: float | None = None
    try:
        while True:
            wait = None if following is None else min(LONGEST_WAIT, max(0.0, following - time.monotonic()))
            if connection.poll(wait):
                verb, *arguments = connection.recv()
            else:
                verb, arguments = "follow", []
            try:
                result = verbs[verb](*arguments) if verb != "follow" else None
                following = keeper.follow()
            except Exception as error:  # whatever it is, the controller raises it
                connection.send((False, f"{verb}: {_reason(error)}"))
                return
            if verb != "follow":
                connection.send((True, result))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        keeper.close()


def main() -> None:
    descriptor = int(sys.argv[1])
    serve(Connection(descriptor))


if __name__ == "__main__":
    main()
