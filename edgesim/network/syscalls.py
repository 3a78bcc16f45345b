"""The system calls for namespaces, which Python has from 3.12 on only, and for descendants."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this thread (with CLONE_NEWUSER: this process, of one thread) into new namespaces. Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move this thread into the namespace behind a file descriptor. Raises OSError."""
    _checked(_libc.setns(descriptor, kind), "setns")


def adopt_descendants() -> None:
    """Become the parent of every descendant whose own parent ends, so that none can get away."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def enter(network: str, user: str | None) -> None:
    """Move this process, which must have one thread only, into the namespaces at these paths. Raises OSError."""
    kinds = ((user, CLONE_NEWUSER), (network, CLONE_NEWNET))
    # Both are opened first: from inside the one the path of the other may not be allowed any more.
    opened = [(os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind) for path, kind in kinds if path is not None]
    try:
        for descriptor, kind in opened:
            setns(descriptor, kind)
    finally:
        for descriptor, _ in opened:
            os.close(descriptor)
