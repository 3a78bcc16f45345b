"""Words to the service manager that started the daemon, by the protocol of sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Does nothing where no service manager listens."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = self._watchdog(environment)
        """longest silence that it bears, s; None: any"""

    @staticmethod
    def _watchdog(environment: Mapping[str, str]) -> float | None:
        period, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        if not period.isdigit() or int(period) == 0 or (process and process != str(os.getpid())):
            return None
        return int(period) / 1e6

    def tell(self, *words: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            sending.sendto("\n".join(words).encode(), self._address)

    async def keep_alive(self) -> None:
        """Says now and then that the event loop goes on."""
        while self.watchdog_s is not None:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 3)
