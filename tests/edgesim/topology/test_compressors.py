"""Compressors within compressors, in topology files and wherever they are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgesim.catalogue import entries, render_entries
from edgesim.comparison import compressor_label
from edgesim.topology.picture import draw
from edgesim.topology.reader import TopologyError, read
from edgesim.topology.schema import json_schema
from node_agent.compression.settings import (
    CATALOGUE,
    FP16Settings,
    NoneSettings,
    QSGDSettings,
    SizeAdaptiveSettings,
    TopKSettings,
)

NAMES = f"{', '.join(list(CATALOGUE)[:-1])} or {list(CATALOGUE)[-1]}, or a mapping with one of these as its name"
ADAPTIVE = SizeAdaptiveSettings(threshold=1000, smaller=NoneSettings(), larger=TopKSettings(density=0.1))


def write(folder: Path, compressors: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(f"nodes: [a]\ntraining:\n  compressor:\n{compressors}", encoding="utf-8")
    return path


def test_parts_are_named_or_set(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "    - size-adaptive\n"
        "    - {name: size-adaptive, threshold: 1000, smaller: none, larger: {name: topk, density: 0.1}}\n",
    )
    usual, adaptive = read(path).training.compressor
    assert usual == SizeAdaptiveSettings(smaller=FP16Settings(), larger=QSGDSettings())
    assert adaptive == ADAPTIVE
    (reset,) = read(path, ["training.compressor={name: size-adaptive, larger: fp16}"]).training.compressor
    assert reset == SizeAdaptiveSettings(larger=FP16Settings())


@pytest.mark.parametrize(
    ("compressor", "problems"),
    [
        ("{larger: topc}", [f"larger: found 'topc', allowed {NAMES}; did you mean 'topk'?"]),
        ("{smaller: {density: 1}}", [f"smaller: found a mapping without a name, allowed {NAMES}"]),
        ("{smaller: 5}", [f"smaller: found 5, allowed {NAMES}"]),
        ("{smaller: null}", [f"smaller: found nothing, allowed {NAMES}"]),
        ("{larger: [topk]}", [f"larger: found a list of 1, allowed {NAMES}"]),
        (
            "{larger: {name: topk, density: true}}",
            ["larger.density: found true, allowed a number above 0 and at most 1"],
        ),
        (
            "{threshold: 0.5, larger: {name: qsgd, level: 3}}",
            [
                "larger.level: found an unknown key, allowed name, error_feedback, levels or bucket; "
                "did you mean 'levels'?",
                "threshold: found 0.5, allowed a whole number of at least 1",
            ],
        ),
        (
            "{larger: {name: size-adaptive, smaller: {name: terngrad, clip: 0}}}",
            ["larger.smaller.clip: found 0, allowed a number above 0"],
        ),
        (
            "{smaler: none}",
            [
                "smaler: found an unknown key, allowed name, error_feedback, threshold, smaller or larger; "
                "did you mean 'smaller'?"
            ],
        ),
    ],
)
def test_mistakes_in_parts_have_their_place(tmp_path: Path, compressor: str, problems: list[str]) -> None:
    path = write(tmp_path, f"    {compressor.replace('{', '{name: size-adaptive, ', 1)}\n")
    with pytest.raises(TopologyError) as refused:
        read(path)
    assert sorted(str(refused.value).splitlines()) == [f"{path}:4: training.compressor.{one}" for one in problems]


def test_names_are_offered_in_the_json_schema() -> None:
    parts = json_schema()["$defs"]["SizeAdaptiveSettings"]["properties"]
    for part in (parts["smaller"], parts["larger"]):
        assert {"enum": list(CATALOGUE)} in part["anyOf"]


def test_parts_are_shown_as_compressors(tmp_path: Path) -> None:
    label = "size-adaptive threshold=1000 smaller=(none) larger=(topk density=0.1)"
    assert compressor_label(ADAPTIVE.model_dump()) == label
    assert compressor_label(SizeAdaptiveSettings().model_dump()) == "size-adaptive"
    path = write(tmp_path, f"    {json.dumps(ADAPTIVE.model_dump())}\n")
    assert f"compressor {label.replace('=', ' ')}" in " ".join(str(draw(read(path))).split())


def test_the_catalogue_tells_parts_settings_and_reductions() -> None:
    listed: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in entries()}
    assert list(listed) == list(CATALOGUE)
    assert {name: entry["reduction"] for name, entry in listed.items()} == {
        name: settings().reduction for name, settings in CATALOGUE.items()
    }
    larger = listed["size-adaptive"]["settings"]["larger"]
    assert (larger["type"], larger["default"]) == ("compressor", "qsgd")
    assert "$" not in json.dumps(list(listed.values()))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_entries(["size-adaptive", "terngrad"]))
    for row in ("larger qsgd compressor the compressor of large tensors", "clip 2.5 > 0 or null standard deviations"):
        assert row in " ".join(captured.get().split())
