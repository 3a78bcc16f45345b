"""What a full disk is, and how much of a disk a folder takes."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from node_agent import atomic

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errors that say that nothing more can be written"""


def is_full(error: OSError) -> bool:
    return error.errno in FULL


def used(folder: Path) -> int:
    """Bytes of the disk that all files below take."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:  # what a job has just removed takes nothing
            continue
    return total


def free(folder: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(folder).free


def write_whole(descriptor: int, content: bytes) -> None:
    """Append all of it, or nothing: what was written before an error is taken back. Raises OSError."""
    before = os.lseek(descriptor, 0, os.SEEK_END)
    view = memoryview(content)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def replace(path: Path, content: bytes) -> None:
    """`atomic.replace` of a file that is the daemon's own. Raises OSError."""
    atomic.replace(path, content, atomic.PRIVATE)
