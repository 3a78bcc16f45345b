"""What is not granted: an exception with the answer's status code and its one line."""

from __future__ import annotations

from node_agent.daemon.api import JobStatus

LONGEST = 500
"""characters of an error's text"""


class Refusal(Exception):
    """Raised by whatever serves a request; becomes the body `Refused`."""

    def __init__(self, code: int, error: str, status: JobStatus | None = None) -> None:
        super().__init__(error)
        self.code = code
        self.error = one_line(error)
        self.status = status


def one_line(text: str) -> str:
    """The text without line breaks, control characters and lone surrogates, and not too long."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    plain = "".join(letter if letter.isprintable() else " " for letter in whole[: 2 * LONGEST])
    short = " ".join(plain.split())
    return short if len(short) <= LONGEST else short[: LONGEST - 1] + "…"
