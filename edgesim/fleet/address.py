"""Where a board's agent is reached: HOST[:PORT]."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from edgesim.topology.problems import Refusal, shown
from node_agent.daemon.api import PORT as PORT

ALLOWED = "an address such as 10.0.0.11, orin-1.lab:7443 or [fd00::11]:7443"

_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Address:
    host: str
    """a name in lower case, or an IP address without brackets"""
    port: int = PORT

    @classmethod
    def parse(cls, value: Any) -> Address:
        """Raises Refusal."""
        if not isinstance(value, str):
            raise Refusal(shown(value), ALLOWED)
        bare = _ip(value)
        if bare is not None:
            return cls(bare)
        match = _WITH_PORT.fullmatch(value)
        if match is None:
            raise Refusal(shown(value), ALLOWED)
        inside, host, port = match["v6"], match["host"], int(match["port"] or PORT)
        if not 1 <= port <= 65535:
            raise Refusal(shown(value), "a port from 1 to 65535")
        number = _ip(host if inside is None else inside)
        if inside is not None and (number is None or ":" not in number):
            raise Refusal(shown(value), ALLOWED)
        if number is None and (not _NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host)):
            raise Refusal(shown(value), ALLOWED)
        return cls(number or host.lower(), port)

    @property
    def loopback(self) -> bool:
        number = _ip(self.host)
        return self.host == "localhost" if number is None else ipaddress.ip_address(number).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ip(text: str) -> str | None:
    """The usual form of an IP address; None if it is none. A zone is part of no address that others could use."""
    try:
        return None if "%" in text else str(ipaddress.ip_address(text))
    except ValueError:
        return None
