"""The communication hook in plain DistributedDataParallel scripts."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import ddp_programs
import pytest
import torch
from processes import on_nodes

from node_agent.compression import configure
from node_agent.compression.settings import CATALOGUE

ROOT = Path(__file__).parents[2]

SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"density": 0.1},
    "randomk": {"density": 0.2},
    "nsi": {"density": 0.1, "warmup_steps": 4},
}
"""of those whose own are for larger networks"""


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """Of each of four processes."""
    return on_nodes(4, ddp_programs.everything, [configure(name, **SETTINGS.get(name, {})) for name in CATALOGUE])


@pytest.mark.parametrize("name", CATALOGUE)
def test_with_every_compressor_the_loss_falls_and_all_replicas_stay_the_same(
    found: list[dict[str, Any]], name: str
) -> None:
    assert len({one[name].digest for one in found}) == 1
    losses = torch.tensor([one[name].losses for one in found]).mean(0)
    assert losses[-1] < 0.9 * losses[0]


def test_without_compression_the_averages_are_those_of_ddp(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert one["one bucket"].losses == pytest.approx(one["own average"].losses, rel=1e-4)
        for ours, theirs in zip(one["one bucket"].weights, one["own average"].weights, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_it_is_over_the_ranks_of_the_models_own_group(found: list[dict[str, Any]]) -> None:
    digests = [one["3 and 1"].digest for one in found]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    digests = [one["2 and 2"].digest for one in found]
    assert digests[0] == digests[3] != digests[1] == digests[2]


@pytest.mark.parametrize("how", ["saved", "pickled"])
def test_a_saved_state_goes_on_exactly(found: list[dict[str, Any]], how: str) -> None:
    for one in found:
        whole, resumed = one[how]
        assert (resumed.losses, resumed.digest) == (whole.losses, whole.digest)


@pytest.mark.parametrize("name", ["none", "topk"])
def test_a_gradient_that_is_not_a_number_is_raised_on_every_rank(found: list[dict[str, Any]], name: str) -> None:
    for one in found:
        messages = one[f"poisoned {name}"]
        assert len(messages) == 2
        for message in messages:
            assert "layer 8.bias: 5 of 5 gradient entries are NaN" in message
            assert "rank 1" in message


def test_what_cannot_be_exchanged_is_refused(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert one["double"] == "layer 8.weight: found torch.float64 on cpu, allowed torch.float32 on cpu"
    assert "rank 1 exchanges TopKSettings(" in found[0]["differing"]
    assert "rank 0 exchanges NoneSettings(" in found[1]["differing"]
    assert found[0]["unknown"].startswith("rank 1: compressor: found 'tokp', did you mean 'topk'?")
    assert found[1]["unknown"].startswith("compressor: found 'tokp'")
    assert re.fullmatch(r"rank 1 exchanges RandomK.*, step 1, rank 0 RandomK.*, step 0", found[0]["steps"])


def test_a_neighbour_that_takes_no_part_is_named(found: list[dict[str, Any]]) -> None:
    assert "link 1->2: silent for 2 s" in found[2]["abandoned"]
    assert "the exchange is closed" in found[1]["abandoned"]


def test_the_readmes_example_is_a_program(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "exchange_hook" in block]
    script = tmp_path / "train.py"
    script.write_text(program)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for said in on_nodes(2, ddp_programs.script, str(script), port):
        sent = re.search(r"(\d+) bytes sent", said)
        # 205 of 64 x 64 weights, 4 bytes each, and 129 entries of the other layers, summed by a ring of two
        assert sent
        assert int(sent[1]) > 20 * 4 * (205 + 129)
