"""What is wrong with a value or a file, said the same way everywhere: found …, allowed …; did you mean …?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from typing import Any

LONGEST_SHOWN = 60
MOST_SHOWN = 100


def shown(value: Any) -> str:
    """A value as a message quotes it, never longer than a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value[: LONGEST_SHOWN + 1]) if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def dotted(keys: Iterable[str | int]) -> str:
    """A value's path, as in links.0.rate, on one line whatever a file's keys may hold."""
    path = ".".join(map(str, keys))
    return path if len(path) <= LONGEST_SHOWN and path.isprintable() else shown(path)


def listed(words: Iterable[str]) -> str:
    """'a', 'a or b', 'a, b or c'."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def closest(word: Any, allowed: Iterable[str]) -> str | None:
    """The allowed word that was probably meant: the same in another case, or one like it."""
    if not isinstance(word, str):
        return None
    words = list(allowed)
    for other in words:
        if other.casefold() == word.casefold():
            return other
    near = get_close_matches(word, words, n=2)
    if len(near) == 2 and len({SequenceMatcher(None, word, other).ratio() for other in near}) == 1:
        return None  # sat-9 may be any of sat-0 … sat-3
    return near[0] if near else None


class Refusal(ValueError):
    """A value that cannot be taken, and what could."""

    def __init__(self, found: str, allowed: str, suggestion: str | None = None) -> None:
        super().__init__(found, allowed, suggestion)
        self.found = found
        self.allowed = allowed
        self.suggestion = suggestion

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion is not None else ""
        return f"found {self.found}, allowed {self.allowed}{hint}"


@dataclass(frozen=True)
class Problem:
    """A refusal and its place."""

    place: str
    """file:line, or the option that set the value"""
    field: str
    """path of the value, as in links.0.rate; empty for the file as a whole"""
    refusal: Refusal

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.field, str(self.refusal)) if part)


class TopologyError(ValueError):
    """A topology that cannot be used; one line a problem, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = [str(problem) for problem in problems[:MOST_SHOWN]]
        if len(problems) > MOST_SHOWN:
            lines.append(f"… and {len(problems) - MOST_SHOWN} more problems")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)
