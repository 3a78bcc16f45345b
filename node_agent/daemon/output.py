"""What a job prints: a file that grows up to a limit, with a note where it was cut."""

from __future__ import annotations

import os
from pathlib import Path

from node_agent.daemon.disk import write_whole

LIMIT = 8 * 2**20
ANSWER = 2**20
"""bytes in one answer"""

TAIL = 64 * 1024


class Output:
    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        """Raises OSError."""
        self._limit = limit
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        self.bytes = os.fstat(self._file).st_size
        self._cut = self.bytes >= limit

    def append(self, content: bytes) -> None:
        """Raises OSError where the disk takes it not."""
        if self._cut:
            return
        room = self._limit - self.bytes
        if len(content) > room:
            self._cut = True
            content = content[:room] + f"\n(cut here: a job's log holds {self._limit} bytes)\n".encode()
        write_whole(self._file, content)
        self.bytes += len(content)

    def read(self, offset: int, most: int = ANSWER) -> bytes:
        return os.pread(self._file, most, offset)

    def last_line(self) -> str:
        """The last one that is not empty, as text; empty if there is none."""
        tail = os.pread(self._file, TAIL, max(0, self.bytes - TAIL)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def close(self) -> None:
        os.close(self._file)
