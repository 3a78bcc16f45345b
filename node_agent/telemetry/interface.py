"""What a network device of this node's has sent, by the kernel's count."""

from __future__ import annotations

from pathlib import Path

from node_agent.events import Carried

_SENT_BYTES, _SENT_PACKETS = 8, 9
"""columns behind a device's name (proc_pid_net(5), dev): eight are of what it received"""


def carried(device: str) -> Carried:
    """Since the device exists, of the network namespace that this process is in. Raises ValueError if it has none of
    that name.

    Read from /proc, which shows the namespace of whoever reads: sysfs shows the one in which it was mounted.
    """
    lines = (line.split(":") for line in Path("/proc/self/net/dev").read_text().splitlines()[2:])
    devices = {name.strip(): counts.split() for name, counts in lines}
    if device not in devices:
        raise ValueError(f"network device: found {device}, allowed {', '.join(sorted(devices))}")
    counts = devices[device]
    return Carried(int(counts[_SENT_BYTES]), int(counts[_SENT_PACKETS]), _retransmitted())


def _retransmitted() -> int:
    """TCP segments (RFC 4022, tcpRetransSegs)."""
    lines = Path("/proc/self/net/snmp").read_text().splitlines()
    names, counts = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(counts[names.index("RetransSegs")])
