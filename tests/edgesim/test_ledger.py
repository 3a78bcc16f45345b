"""Bytes by formula, as sent and as carried: cases that a hand calculation confirms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesim.ledger import Entry, ledger
from edgesim.results import Run, RunFolder, load
from edgesim.summary import summarise
from node_agent.events import Carried, Finished, Received, Sent, Step, StepParts
from node_agent.job import LinkSettings

PARTS = StepParts(compute=0.1, encode=0.0, wait=0.0, transfer=0.0, decode=0.0)
SENT = Sent(messages=2, payload_bytes=2000, header_bytes=56)


def a_run(path: Path, nodes: str, pairs: str, carried: dict[str, list[Carried | None]], formula: int = 2056) -> Run:
    """Nodes that sent `SENT` in every step over links between the `pairs`; `carried` by their devices, step by step."""
    folder = RunFolder.create(path)
    both = [ends for pair in pairs.split() for ends in (pair, pair[::-1])]
    links = [LinkSettings(source=source, target=target) for source, target in both]
    folder.write_config({"nodes": list(nodes), "links": [link.model_dump() for link in links]})
    for rank, node in enumerate(nodes):
        for number, device in enumerate(carried[node], start=1):
            folder.record(
                Step(
                    *(rank, node, number, 0.1 * number, 0.1, 0.5, PARTS, SENT, Received(), 10),
                    fingerprint=number,
                    formula_bytes=formula,
                    carried=device,
                )
            )
        folder.record(Finished(rank, node, 0.2, 2, "ab" * 32, 10))
    folder.close()
    return load(path)


def imposed(run: Run, means: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {ends: {"means": means} for ends in run.link_settings}


@pytest.mark.parametrize(("means", "header"), [("kernel", 66), ("netem", 66), ("relay", 52)])
def test_what_a_device_carries_besides_is_known(tmp_path: Path, means: str, header: int) -> None:
    # Of a ring of two each device has, in a step, 2 messages of 2056 bytes together with 96 of Gloo's each, and 2
    # notices of 48 bytes; in 7 packets. Half of the first step's bytes leave in the second one.
    carried = [Carried(1172 + 7 * header, 7, 0), Carried(3516 + 7 * header, 7, 0)]
    run = a_run(tmp_path, "ab", "ab", {"a": carried, "b": carried})
    for entry in ledger(run, imposed(run, means)).values():
        assert entry.described() == {
            "formula_bytes": 4112,
            "encoded_bytes": 4112,
            "interface_bytes": 4688 + 14 * header,
            "interface_packets": 14,
            "header_bytes": 14 * header,
            "transport_bytes": 576,
            "passing_bytes": 0,
            "carried_bytes": 4112,
            "retransmitted_packets": 0,
            "largest_gap_bytes": 1172,
            "carried_ratio": 1.0,
        }
        assert entry.deviations(at_rest=True) == []


def test_a_device_carries_what_others_send_over_its_link(tmp_path: Path) -> None:
    # The ring a c b d over the line a - b - c - d: what leaves b for c is c->b's notices, b->d and a->c.
    one = 2056 + 2 * 96
    carried = {
        "a": [Carried(one + 2 * 48 + 66, 1, 0)],
        "c": [Carried(2 * one + 2 * 2 * 48 + 66, 1, 0)],
        "b": [Carried(2 * one + 2 * 2 * 48 + 66, 1, 0)],
        "d": [Carried(one + 2 * 48 + 66, 1, 0)],
    }
    run = a_run(tmp_path, "acbd", "ab bc cd", carried)
    entries = ledger(run, imposed(run, "kernel"))
    assert {ends: entry.carried.passing_bytes for ends, entry in entries.items() if entry.carried} == {
        ("a", "c"): 0,
        ("c", "b"): 2056,
        ("b", "d"): 2056,
        ("d", "a"): 0,
    }
    for entry in entries.values():
        assert entry.carried is not None
        assert entry.carried.carried_bytes == entry.encoded_bytes == 2056


def test_what_differs_is_a_deviation_of_the_run(tmp_path: Path) -> None:
    run = a_run(tmp_path, "ab", "ab", {"a": [None], "b": [None]}, formula=2000)
    found = summarise(run)
    assert found["ledger"]["a->b"] == {"formula_bytes": 2000, "encoded_bytes": 2056}
    assert found["deviations"] == [
        f"link {link}: 2,056 bytes sent instead of 2,000 by formula" for link in ("a->b", "b->a")
    ]


def entry(run: Run) -> Entry:
    return ledger(run, imposed(run, "kernel"))["a", "b"]


@pytest.mark.parametrize(
    ("beyond", "again", "agrees"),
    [(0, 0, True), (10, 0, True), (-10, 0, True), (11, 0, False), (-11, 0, False), (1500, 1, True), (-11, 1, False)],
)
def test_a_device_may_carry_half_a_percent_more_or_less_and_what_was_sent_again(
    tmp_path: Path, beyond: int, again: int, agrees: bool
) -> None:
    carried = [Carried(2344 + 2 * 66 + beyond, 2, again)]
    found = entry(a_run(tmp_path, "ab", "ab", {"a": carried, "b": carried}))
    text = f"its device carried {2056 + beyond:,} of 2,056 bytes sent"
    assert found.deviations(at_rest=True) == ([] if agrees else [text])
    assert found.deviations(at_rest=False) == []


def test_only_steps_that_every_node_came_to_the_end_of_count(tmp_path: Path) -> None:
    carried = [Carried(2344 + 66, 1, 0)] * 3
    found = entry(a_run(tmp_path, "ab", "ab", {"a": carried, "b": carried[:2]}))
    assert found.encoded_bytes == 2 * 2056
    assert found.carried is not None
    assert found.carried.carried_bytes == 2 * 2056
