"""The data plane of a board: its interface, and the port at which the nodes of a run meet."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import psutil

LOOPBACK = "lo"

BACKLOG = 128


class NoAddress(ValueError):
    """An interface that has no address, or none that can be used; its text is one line."""


def default_interface(routes: Path = Path("/proc/net/route")) -> str:
    """The interface of the default route (of the lowest metric), else the loopback one."""
    try:
        rows = [line.split() for line in routes.read_text().splitlines()[1:]]
    except OSError:
        return LOOPBACK
    found = [(int(row[6]), row[0]) for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    return min(found)[1] if found else LOOPBACK


def address_of(interface: str) -> str:
    """The interface's IPv4 address, or its IPv6 one where it has no other. Raises NoAddress."""
    addresses = psutil.net_if_addrs().get(interface, [])
    for family in (socket.AF_INET, socket.AF_INET6):
        for address in addresses:
            if address.family == family:
                return address.address
    raise NoAddress(f"interface {interface}: found no IP address, allowed an interface that has one")


def is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def open_meeting(interface: str, port: int = 0) -> tuple[socket.socket, str, int]:
    """A listening socket on the interface's address, with that address and the port. Raises NoAddress."""
    address = address_of(interface)
    family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise NoAddress(f"interface {interface}: {address}, port {port}: {error.strerror}") from error
    return listening, address, listening.getsockname()[1]
