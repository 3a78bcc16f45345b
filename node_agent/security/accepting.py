"""Taking connections, so that nobody who has not shown who he is costs more than a little memory."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

MOST_HANDSHAKES = 64
"""that go on at a time; asyncio reserves a quarter of a MiB for each (SSLProtocol.max_size)"""

NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""errors that say that there is nothing left to take a connection with"""

LATER = 1.0
"""s after which it is tried again then"""

SUBSCRIBER = 64
"""bits of an IPv6 address that one host may not choose at will (RFC 6177: sites are given at least so many)"""

log = logging.getLogger(__name__)


class Accepting:
    """Takes every connection of a listening socket, from when it is made until it is closed, in the running event loop.

    Where more than `most` are in their handshake, the oldest of the address that has the most of them goes: who asks
    for many stands in nobody's way but his own.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None,
        within: float,
        most: int = MOST_HANDSHAKES,
    ) -> None:
        """`protocol` makes one for each connection; `within` s a handshake has to be done. The socket stays the
        caller's."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._protocol = protocol
        self._tls = tls
        self._within = within
        self._most = most
        self._waiting: dict[asyncio.Task[None], str] = {}
        self._again: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more; handshakes that go on are given up."""
        self._loop.remove_reader(self._listening)
        if self._again is not None:
            self._again.cancel()
        for handshake in list(self._waiting):
            handshake.cancel()

    def _listen(self) -> None:
        self._loop.add_reader(self._listening, self._take)

    def _take(self) -> None:
        """One: then the event loop looks after those that are there."""
        try:
            connection, place = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            log.error("connections wait: %s", error.strerror)
            self._loop.remove_reader(self._listening)
            self._again = self._loop.call_later(LATER, self._listen)
            return
        connection.setblocking(False)
        handshake = self._loop.create_task(self._shake_hands(connection))
        self._waiting[handshake] = _whose(place)
        handshake.add_done_callback(lambda done: self._over(done, connection))
        if len(self._waiting) > self._most:
            self._give_one_up()

    async def _shake_hands(self, connection: socket.socket) -> None:
        within = self._within if self._tls is not None else None
        await self._loop.connect_accepted_socket(
            self._protocol, connection, ssl=self._tls, ssl_handshake_timeout=within
        )

    def _over(self, handshake: asyncio.Task[None], connection: socket.socket) -> None:
        self._waiting.pop(handshake, None)
        if handshake.cancelled():
            connection.close()  # nobody else has it where the handshake had not begun
            return
        error = handshake.exception()
        if error is not None and not isinstance(error, OSError):  # the peer's failures are of that kind
            self._loop.call_exception_handler({"message": "a connection failed", "exception": error})

    def _give_one_up(self) -> None:
        crowd = Counter(self._waiting.values()).most_common(1)[0][0]
        oldest = next(handshake for handshake, whose in self._waiting.items() if whose == crowd)
        del self._waiting[oldest]
        oldest.cancel()


def _whose(place: tuple[str, int]) -> str:
    """The address of a peer, or of all those that one peer may have."""
    address = ip_address(place[0].partition("%")[0])
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, SUBSCRIBER), strict=False))
