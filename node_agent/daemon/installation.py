"""What is installed on the board, against what was when its daemon began.

Jobs are processes of their own: they import what is there when they start, while the daemon goes on with what it has
imported. After an upgrade both would be of different versions.
"""

from __future__ import annotations

import hashlib
from importlib import metadata

PROJECT = "edgesim"

BESIDE = ("torch", "numpy")
"""what jobs import besides, of which the daemon has told the versions"""


class Installation:
    """As it is when this is made."""

    def __init__(self) -> None:
        self._content = _content()
        self._versions = _versions()

    def changed(self) -> str | None:
        """What differs now, and what is to be done, in one line; None: nothing."""
        now = _versions()
        for name, before in self._versions.items():
            if now[name] != before:
                return _told(f"{name} {before or 'absent'} when it began and {now[name] or 'absent'} now")
        if _content() != self._content:
            return _told(f"another build of {PROJECT} {now[PROJECT] or ''} than when it began")
        return None


def _told(found: str) -> str:
    return f"agent: found {found}, allowed what it began with: restart it (systemctl restart edgesim-agent)"


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in (PROJECT, *BESIDE)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # from the sources, or just being replaced
        return None


def _content() -> bytes:
    """A digest of the list of installed files, which has a digest of each (Binary distribution format, RECORD)."""
    try:
        listed = metadata.distribution(PROJECT).read_text("RECORD")
    except metadata.PackageNotFoundError:
        listed = None
    return hashlib.sha256((listed or "").encode()).digest()
