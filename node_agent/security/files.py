"""Files that hold secrets, or must exist whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node_agent.security.errors import IdentityError

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_FOLDER = 0o700


class UnsafeFileError(IdentityError):
    """A secret that others can read."""


def make_private_folder(path: Path) -> None:
    """Make the folder, and those above it, readable by their owner alone; those that exist are left as they are."""
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        missing.mkdir(PRIVATE_FOLDER, exist_ok=True)


def replace(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Write a file so that its old or its new content is there at any moment, also after a loss of power."""
    temporary = _written_beside(path, content, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file that must not exist yet; nobody ever sees it half written or with another mode.

    Raises:
        FileExistsError: it exists; it is left as it is.
    """
    temporary = _written_beside(path, content, mode)
    try:
        os.link(temporary, path)  # which, unlike a rename, never replaces
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.exists():
        _sync_folder(path.parent)


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


def _written_beside(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
