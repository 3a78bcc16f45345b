"""Files and folders that are their owner's alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node_agent.atomic import PRIVATE
from node_agent.security.errors import IdentityError

PRIVATE_FOLDER = 0o700


class UnsafeFileError(IdentityError):
    """A secret that others can read."""


def make_private_folder(path: Path) -> None:
    """Make the folder, and those above it, readable by their owner alone; those that exist are left as they are."""
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(PRIVATE_FOLDER, exist_ok=True)


def read_private(path: Path) -> bytes:
    """The content of a file that only its owner may read.

    Raises:
        UnsafeFileError: others may read or write it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise UnsafeFileError(
                f"{path}: found mode {mode:04o}, allowed 0600: others can read this key; "
                f"if nobody has, chmod 600 {path}"
            )
        return file.read()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process that asks for it changes the folder meanwhile."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
