"""What a job printed on its board, copied into a file here."""

from __future__ import annotations

from pathlib import Path

from edgesim.fleet.client import LARGEST_LOG, BoardClient, BoardError


def fetch_log(client: BoardClient, job: str, path: Path) -> None:
    """Append to `path` what it does not hold yet. Raises BoardError, also where the file cannot be written."""
    try:
        with path.open("ab") as file:
            while (offset := file.tell()) < LARGEST_LOG:
                part = client.log(job, offset)
                if not part:
                    return
                file.write(part)
                file.flush()
    except OSError as error:
        raise BoardError(client.name, f"its log: {path}: cannot be written: {error.strerror}") from error
