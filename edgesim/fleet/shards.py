"""What a board gets of a scene: its own strip, and nothing else of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgesim.fleet.base import FleetError, Strips
from node_agent.daemon.api import File
from node_agent.job import ShardSettings
from node_agent.workloads.formats import SceneError
from node_agent.workloads.shard import write_shard

NAME = "shard.npy"
"""of the file, in a job's folder"""


@dataclass(frozen=True)
class Shard:
    """A strip as a file of this host, ready to be sent."""

    path: Path
    file: File
    settings: ShardSettings


def make_shards(strips: Strips, folder: Path) -> list[Shard]:
    """A shard for each node, by rank, in `folder`. Raises FleetError where one cannot be written."""
    return [_make(strips, lines, folder / str(rank)) for rank, lines in enumerate(strips.lines)]


def _make(strips: Strips, lines: tuple[int, int], folder: Path) -> Shard:
    path = folder / NAME
    try:
        folder.mkdir()
        settings = write_shard(strips.scene, lines, path)
        return Shard(path, File(name=NAME, bytes=path.stat().st_size, sha256=_sha256(path)), settings)
    except OSError as error:
        raise FleetError(f"{path}: cannot be written: {error.strerror}") from error
    except SceneError as error:
        raise FleetError(str(error)) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
