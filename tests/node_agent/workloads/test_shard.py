from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node_agent.job import SceneSettings
from node_agent.workloads.formats import SceneError
from node_agent.workloads.scenes import open_scene
from node_agent.workloads.shard import open_shard, write_shard


def test_a_shard_gives_the_scenes_own_lines_and_no_other(scene: Path, tmp_path: Path) -> None:
    whole = open_scene(SceneSettings(path=str(scene)))
    height = whole.shape[0]
    lines = (height // 3, height - 1)
    settings = write_shard(whole, lines, tmp_path / "shard.npy")
    shard = open_shard(settings, lines, tmp_path)
    assert (shard.name, shard.shape, shard.describe) == (whole.name, whole.shape, whole.describe)
    assert np.array_equal(shard.lines(*lines), whole.lines(*lines), equal_nan=True)
    assert np.array_equal(shard.lines(lines[0] + 1, lines[1]), whole.lines(lines[0] + 1, lines[1]), equal_nan=True)
    size = (tmp_path / "shard.npy").stat().st_size
    assert size == 128 + 4 * (lines[1] - lines[0]) * whole.shape[1] * whole.shape[2]
    with pytest.raises(SceneError, match="allowed a non-empty range"):
        shard.lines(0, lines[1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "not a strip"),
        (b"cos\nsystem\n(S'true'\ntR.", "not a strip"),  # a pickle
        ("cut", "not a strip"),
        ("float64", "found float64 of"),
        ("lines", "found float32 of 3"),
    ],
)
def test_what_is_no_such_strip_is_refused(
    scene: Path, tmp_path: Path, content: bytes | str | None, reason: str
) -> None:
    whole = open_scene(SceneSettings(path=str(scene)))
    file = tmp_path / "shard.npy"
    settings = write_shard(whole, (0, 4), file)
    if content is None:
        file.unlink()
    elif content == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif content == "float64":
        np.save(file, whole.lines(0, 4).astype(np.float64))
    elif content == "lines":
        np.save(file, whole.lines(0, 3))
    else:
        assert isinstance(content, bytes)
        file.write_bytes(content)
    with pytest.raises(SceneError, match=reason) as caught:
        open_shard(settings, (0, 4), tmp_path)
    assert "\n" not in str(caught.value)
