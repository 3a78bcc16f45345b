"""A file of a job on its way to the board: announced with size and checksum, sent in one go or in several."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from node_agent.daemon.api import File, Received
from node_agent.daemon.disk import write_whole
from node_agent.daemon.refusal import Refusal

CHUNK = 2**20


class Upload:
    """Where a file stands. It lies at `part` until all of it is there and its checksum is right, then at `whole`."""

    def __init__(self, announced: File, part: Path, whole: Path) -> None:
        """Takes up what has arrived earlier. Raises OSError."""
        self.announced = announced
        self._part, self._whole = part, whole
        self._turn = 0
        self._checking = False
        self.received = 0
        self.complete = whole.exists()
        if self.complete:
            self.received = announced.bytes
        elif part.exists():
            self.received = min(part.stat().st_size, announced.bytes)

    @property
    def status(self) -> Received:
        return Received(name=self.announced.name, bytes=self.announced.bytes, received=self.received)

    def begin(self, offset: int, length: int = 0) -> int:
        """A sender goes on at `offset`, with `length` bytes if it knows that; returns its turn. The sender before it,
        whose connection may hang, is heard no more. Raises Refusal where that is not what is missing."""
        if self._checking:
            raise Refusal(409, f"{self.announced.name}: its checksum is being computed")
        if offset != self.received:
            raise Refusal(
                409, f"offset: found {offset}, allowed {self.received}: so much of {self.announced.name} has arrived"
            )
        if offset + length > self.announced.bytes:
            raise self._too_much()
        self._turn += 1
        return self._turn

    def add(self, turn: int, chunk: bytes) -> None:
        """Append what has arrived. Raises Refusal if it is more than announced or from an earlier turn, and OSError
        where the disk takes it not."""
        if turn != self._turn:
            raise Refusal(409, f"{self.announced.name}: another request goes on with this file")
        room = self.announced.bytes - self.received
        accepted = chunk[:room]
        if accepted:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                write_whole(descriptor, accepted)
            finally:
                os.close(descriptor)
            self.received += len(accepted)
        if len(chunk) > room:
            raise self._too_much()

    def _too_much(self) -> Refusal:
        return Refusal(413, f"{self.announced.name}: found more than the {self.announced.bytes} bytes announced")

    @property
    def due(self) -> bool:
        """Whether all has arrived that was announced, and it is to be finished."""
        return not (self.complete or self._checking) and self.received == self.announced.bytes

    async def finish(self) -> None:
        """If it is due, check what has arrived and put it in its place, in a thread. Raises Refusal if the checksum
        differs: what arrived is discarded; OSError where the disk fails."""
        if self.due:
            self._checking = True  # before anybody else may ask
            await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        try:
            self._part.touch(0o600)  # an empty file has not been written to
            found = self._sha256()
            if found != self.announced.sha256:
                self._discard()
                allowed = self.announced.sha256
                raise Refusal(422, f"{self.announced.name}: sha256: found {found}, allowed {allowed}; send it again")
            os.replace(self._part, self._whole)
            _sync(self._whole.parent)
            self.complete = True
        finally:
            self._checking = False

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        with self._part.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self.received = 0


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
