"""Files that exist whole or not at all, also after a loss of power: written beside, synced, and put in place."""

from __future__ import annotations

import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644

ABANDONED = 60.0
"""s after which nobody writes a file any more that is still not in its place"""


def replace(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Write a file so that its old or its new content is there at any moment. Raises OSError."""
    partial = _written_beside(path, content, mode)
    try:
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file that must not exist yet; nobody ever sees it half written or with another mode.

    Raises:
        FileExistsError: it exists; it is left as it is.
        OSError: it cannot be written.
    """
    partial = _written_beside(path, content, mode)
    try:
        os.link(partial, path)  # which, unlike a rename, never replaces
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Whether it is there or not. Raises OSError."""
    path.unlink(missing_ok=True)
    if path.parent.exists():
        _sync_folder(path.parent)


def sweep(folder: Path, abandoned_s: float = ABANDONED) -> None:
    """Remove what processes that were killed while they wrote have left in a folder, and last wrote to so long ago.

    Raises OSError.
    """
    latest = time.time() - abandoned_s
    for partial in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):  # it has just been put in its place
            if abandoned_s == 0 or partial.stat().st_mtime < latest:
                remove(partial)


def _written_beside(path: Path, content: bytes, mode: int) -> Path:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)
