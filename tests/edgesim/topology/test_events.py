"""Events: what they make of links and nodes, against cases worked out by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgesim.topology.events import pauses
from edgesim.topology.schema import Topology
from node_agent.job import LinkSettings


def with_units(value: Any) -> Any:
    """Moments as a file writes them: 10 is "10 s" here."""
    if isinstance(value, dict):
        return {
            key: f"{inner} s" if key in ("at", "from", "to", "for") and isinstance(inner, int) else with_units(inner)
            for key, inner in value.items()
        }
    return [with_units(inner) for inner in value] if isinstance(value, list) else value


def topology(*events: dict[str, Any], **link: Any) -> Topology:
    links = [{"between": ["a", "b"], "rate": "10 Mbit/s", "delay": "5 ms", **link}]
    return Topology.model_validate(with_units({"nodes": ["a", "b"], "links": links, "events": list(events)}))


def link(*events: dict[str, Any], **properties: Any) -> LinkSettings:
    return topology(*events, **properties).link("a", "b")


def windows(settings: LinkSettings) -> list[tuple[float, float]]:
    return [(window.start, window.end) for window in settings.schedule or ()]


def test_a_link_is_down_for_a_while_or_until_it_is_up_again() -> None:
    ends = {"link": ["a", "b"]}
    assert windows(link({"at": 10, "event": "down", "for": 5, **ends}))[:1] == [(0, 10)]
    for back in ({"at": 10, "event": "down", "for": 5, **ends}, {"at": 10, "event": "down", **ends}):
        events = [back] if "for" in back else [back, {"at": 15, "event": "up", **ends}]
        first, second = windows(link(*events))
        assert first == (0, 10)
        assert second[0] == 15
        assert second[1] > 1e8  # and never again
    assert windows(link({"at": 10, "event": "down", **ends})) == [(0, 10)]


def test_a_link_that_is_down_has_no_contact_even_in_its_windows() -> None:
    settings = link(
        {"at": 8, "event": "down", "link": ["b", "a"], "for": 4},
        {"at": 11, "event": "down", "link": ["a", "b"], "for": 10},
        schedule=[{"from": 0, "to": 10}, {"from": 20, "to": 30}],
    )
    assert windows(settings) == [(0, 8), (21, 30)]


def test_one_direction_may_fail_alone() -> None:
    found = topology({"at": 8, "event": "down", "link": ["a", "b"], "oneway": True})
    assert windows(found.link("a", "b")) == [(0, 8)]
    assert found.link("b", "a").schedule is None


def test_a_degraded_link_recovers_and_later_events_come_before_earlier_ones() -> None:
    ends = {"link": ["a", "b"]}
    settings = link(
        {"at": 10, "event": "degrade", "rate": "1 Mbit/s", "loss": "2 %", "for": 20, **ends},
        {"at": 15, "event": "degrade", "rate": "2 Mbit/s", **ends},
        {"at": 18, "event": "up", **ends},
        {"at": 40, "event": "degrade", "delay": "1 s", "for": 1, **ends},
    )
    states = {moment: settings.state_at(moment) for moment in (0, 10, 15, 18, 40, 41)}
    assert [state.rate for state in states.values()] == [10e6, 1e6, 2e6, 10e6, 10e6, 10e6]
    assert [state.loss for state in states.values()] == [0, 0.02, 0.02, 0, 0, 0]
    assert [state.delay for state in states.values()] == [0.005, 0.005, 0.005, 0.005, 1.0, 0.005]


def test_a_degraded_link_still_changes_as_scheduled() -> None:
    settings = link(
        {"at": 10, "event": "degrade", "loss": "5 %", "for": 10, "link": ["a", "b"]},
        schedule=[{"at": 15, "rate": "3 Mbit/s"}],
    )
    found = [(change.at, change.rate, change.loss) for change in settings.changes]
    assert found == [(10, 10e6, 0.05), (15, 3e6, 0.05), (20, 3e6, 0)]


def test_a_queue_holds_what_the_worst_of_events_needs() -> None:
    degraded = link({"at": 10, "event": "degrade", "delay": "500 ms", "link": ["a", "b"]})
    assert degraded.queue == 1_250_000  # 10 Mbit/s for a round trip of a second


def test_pauses_of_a_node_that_overlap_are_one() -> None:
    found = topology(
        {"at": 30, "event": "pause", "node": "a", "for": 5},
        {"at": 10, "event": "pause", "node": "a", "for": 5},
        {"at": 12, "event": "pause", "node": "a", "for": 8},
        {"at": 1, "event": "pause", "node": "b", "for": 1},
    )
    assert [(pause.start, pause.end) for pause in pauses(found.events, "a")] == [(10, 20), (30, 35)]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"event": "down"}, "found down with at, allowed at and link; for and oneway if wanted"),
        ({"event": "up", "link": ["a", "b"], "for": 3},
         "found up with at, link, for, allowed at and link; oneway if wanted"),
        ({"event": "degrade", "link": ["a", "b"]},
         "found degrade with at, link, allowed at, link and at least one of rate, delay, jitter and loss; for and "
         "oneway if wanted"),
        ({"event": "pause", "node": "a"}, "found pause with at, node, allowed at, node and for"),
        ({"event": "pause", "node": "c", "for": 3}, "found 'c', which is no node, allowed a or b"),
        ({"event": "down", "link": ["a", "c"]}, "found 'c', which is no node, allowed a or b"),
        ({"event": "down", "link": ["a"]}, "found a list of 1, allowed a list of 2 node names"),
    ],
)  # fmt: skip
def test_events_that_make_no_sense_are_refused(event: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        topology({"at": 0, **event})


def test_a_link_that_is_down_for_all_of_its_contact_is_refused() -> None:
    with pytest.raises(ValueError, match="down whenever it would have contact"):
        topology({"at": 0, "event": "down", "link": ["a", "b"]}, schedule=[{"from": 5, "to": 9}])
