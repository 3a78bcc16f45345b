"""How the command `node-agent` ends: its exit codes, and what it says where it refuses."""

from __future__ import annotations

import sys

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def refuse(message: str, code: int = BAD_INPUT) -> int:
    """Say why; returns the code."""
    print(f"node-agent: {message}", file=sys.stderr)
    return code
