"""What comes from a job's process, in files.

Its events as it wrote them are lines, counted from 1, readable from any of them; those that no disk takes any more are
kept in memory, as many as fit there: they can still be told. What it prints is kept up to a limit.
"""

from __future__ import annotations

import os
from array import array
from itertools import pairwise
from pathlib import Path

from node_agent.daemon.disk import write_whole

CHUNK = 2**20

KEPT = 16 * 2**20
"""bytes of lines kept in memory when the disk is full"""


LIMIT = 8 * 2**20
ANSWER = 2**20
"""bytes in one answer"""

TAIL = 64 * 1024


class Journal:
    def __init__(self, path: Path, kept: int = KEPT) -> None:
        """Opens the file, or makes it. A last line without its end, left by a daemon that was killed, is cut off.

        Raises OSError.
        """
        self._kept = kept
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
        self._ends = array("Q")
        self._memory: list[bytes] = []
        self._in_memory = 0
        self.lost = 0
        """lines for which there was no room at all"""
        self._index()

    def _index(self) -> None:
        """Find the ends of the lines that are there."""
        at = 0
        while chunk := os.pread(self._file, CHUNK, at):
            found = chunk.find(b"\n")
            while found >= 0:
                self._ends.append(at + found + 1)
                found = chunk.find(b"\n", found + 1)
            at += len(chunk)
        if at > self.size:
            os.ftruncate(self._file, self.size)

    @property
    def last(self) -> int:
        """Sequence number of the last line."""
        return len(self._ends) + len(self._memory)

    @property
    def size(self) -> int:
        """Size of the file."""
        return self._ends[-1] if self._ends else 0

    def append(self, line: bytes) -> None:
        """Add a line, its end included. Raises OSError where the disk takes it not; the line is kept in memory then, if
        there is room, and so are all later ones."""
        if self._memory or self.lost:
            self._remember(line)
            return
        try:
            write_whole(self._file, line)
        except OSError:
            self._remember(line)
            raise
        self._ends.append(self.size + len(line))

    def _remember(self, line: bytes) -> None:
        if self.lost or self._in_memory + len(line) > self._kept:
            self.lost += 1
            return
        self._memory.append(line)
        self._in_memory += len(line)

    def retry(self) -> bool:
        """Write what is in memory, if the disk takes it now; returns whether all is on the disk."""
        try:
            while self._memory:
                write_whole(self._file, self._memory[0])
                line = self._memory.pop(0)
                self._in_memory -= len(line)
                self._ends.append(self.size + len(line))
        except OSError:
            return False
        return True

    def read(self, after: int, most: int = CHUNK) -> list[bytes]:
        """The lines that follow number `after`, each with its end: at least one if there is one, else no more than
        `most` bytes. Raises OSError."""
        on_disk = len(self._ends)
        if after < on_disk:
            begin = self._ends[after - 1] if after else 0
            until = after + 1
            while until < on_disk and self._ends[until] - begin <= most:
                until += 1
            content = self._span(begin, self._ends[until - 1])
            bounds = [end - begin for end in (begin, *self._ends[after:until])]
            return [content[start:end] for start, end in pairwise(bounds)]
        return self._memory[after - on_disk : after - on_disk + 1]

    def _span(self, begin: int, end: int) -> bytes:
        parts = []
        while begin < end:
            part = os.pread(self._file, end - begin, begin)
            if not part:
                raise OSError(5, "the journal is shorter than it was")
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._file)


class Output:
    """What a job prints: a file that grows up to a limit, with a note where it was cut."""

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
