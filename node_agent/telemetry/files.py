"""Small files of the kernel's: a value each, and often not for everybody to read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def text(path: Path) -> str | None:
    """The content without the blanks and zero bytes around it; None where it cannot be read now or is no text."""
    try:
        return path.read_text().strip(" \t\r\n\0")
    except (OSError, UnicodeDecodeError):
        return None


def number(path: Path) -> int | None:
    """The integer that a file holds; None where it cannot be read now or holds none."""
    content = text(path)
    try:
        return None if content is None else int(content)
    except ValueError:
        return None


def first_readable(paths: Iterable[Path]) -> Path | None:
    """The first that holds an integer and may be read by this user."""
    return next((path for path in paths if number(path) is not None), None)
