"""Links: presets, changes over time, losses in bursts, the queue's length."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesim.topology import presets
from edgesim.topology.links import LinkProperties, losses
from edgesim.topology.schema import Topology
from node_agent.job import Bursts, LinkSettings


def pair(**link: Any) -> Topology:
    return Topology.model_validate({"nodes": ["a", "b"], "links": [{"between": ["a", "b"], **link}]})


def test_changes_hold_from_their_moment_on_and_keep_what_they_do_not_say() -> None:
    link = pair(
        rate="10 Mbit/s",
        delay="5 ms",
        loss="1 %",
        schedule=[
            {"from": 0, "to": "1 h"},
            {"at": "60 s", "rate": "2 Mbit/s"},
            {"at": "90 s", "delay": "9 ms", "loss": 0},
        ],
    ).link("a", "b")
    assert link.schedule is not None
    assert [(window.start, window.end) for window in link.schedule] == [(0, 3600)]
    states = [link.state_at(moment) for moment in (0, 59.9, 60, 89.9, 90, 1e6)]
    assert [state.rate for state in states] == [10e6, 10e6, 2e6, 2e6, 2e6, 2e6]
    assert [state.delay for state in states] == [0.005, 0.005, 0.005, 0.005, 0.009, 0.009]
    assert [state.loss for state in states] == [0.01, 0.01, 0.01, 0.01, 0, 0]


def test_changes_alone_leave_a_link_always_open() -> None:
    assert pair(rate="1 Mbit/s", schedule=[{"at": "1 s", "rate": "unlimited"}]).link("a", "b").schedule is None


def test_a_burst_length_and_a_mean_loss_make_a_gilbert_elliott_model() -> None:
    # bursts of 5: left with probability 1/5; 1/11 of the packets in them: entered with probability 1/5 · (1/11)/(10/11)
    link = pair(loss=1 / 11, burst_length=5.0).link("a", "b")
    assert link.bursts is not None
    assert (link.bursts.leave, link.bursts.enter) == pytest.approx((0.2, 0.02))
    assert link.bursts.mean == pytest.approx(link.loss) == pytest.approx(1 / 11)


def test_a_gilbert_elliott_model_has_its_own_mean() -> None:
    # entered once in 100 packets and left once in 4: 1/26 of them inside, where half are lost
    link = pair(bursts={"enter": "1 %", "leave": "25 %", "lost_inside": "50 %"}).link("a", "b")
    assert link.bursts == Bursts(enter=0.01, leave=0.25, lost_inside=0.5)
    assert link.loss == pytest.approx(1 / 52)


@given(
    loss=st.floats(0.001, 0.5),
    bursts=st.none()
    | st.fixed_dictionaries(
        {"enter": st.floats(0.01, 0.5), "leave": st.floats(0.5, 1), "lost_inside": st.floats(0.01, 1)}
    ),
    burst_length=st.floats(1, 1000),
)
def test_a_changed_loss_is_the_mean_of_what_it_makes_of_bursts(
    loss: float, bursts: dict[str, float] | None, burst_length: float
) -> None:
    given_bursts = {"burst_length": burst_length} if bursts is None else {"bursts": bursts}
    properties = LinkProperties.model_validate(given_bursts)
    state = losses(properties, loss)
    assert state["loss"] == loss
    if state["bursts"] is not None and state["bursts"].enter < 1:
        assert state["bursts"].mean == pytest.approx(loss)


def test_a_loss_of_one_kind_replaces_the_other_kind_of_the_defaults() -> None:
    def link(default: dict[str, Any], own: dict[str, Any]) -> LinkSettings:
        data = {"nodes": ["a", "b"], "defaults": {"link": default}, "links": [{"between": ["a", "b"], **own}]}
        return Topology.model_validate(data).link("a", "b")

    full: dict[str, Any] = {"bursts": {"enter": 0.1, "leave": 0.1}}
    assert link(full, {"loss": 0.02}).bursts is None
    assert link({"loss": 0.02, "burst_length": 3.0}, full).loss == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("link", "queue"),
    [
        ({}, None),  # no rate, no queue
        ({"rate": "10 Mbit/s", "delay": "5 ms"}, 125_000),  # 100 ms of the rate
        ({"rate": "10 Mbit/s", "delay": "300 ms"}, 750_000),  # a round trip of 600 ms
        ({"rate": "9600 bit/s", "delay": "5 ms"}, 65_536),
        ({"rate": "10 Mbit/s", "schedule": [{"at": "5 s", "rate": "80 Mbit/s"}]}, 1_000_000),
        ({"rate": "10 Mbit/s", "queue": "3 kB"}, 3000),
    ],
)  # fmt: skip
def test_a_queue_holds_the_bandwidth_delay_product_unless_told_otherwise(
    link: dict[str, Any], queue: int | None
) -> None:
    assert pair(**link).link("a", "b").queue == queue


def test_a_preset_gives_both_directions_and_the_file_has_the_last_word() -> None:
    link = {"preset": "leo-sband", "delay": "5 ms", "reverse": {"rate": "64 kbit/s"}}
    there, back = pair(**link).link("a", "b"), pair(**link).link("b", "a")
    assert (there.rate, there.delay) == (2e6, 0.005)
    assert (back.rate, back.delay) == (64e3, 0.005)
    other = Topology.model_validate({"nodes": ["a", "b"], "defaults": {"link": {"preset": "geo-relay"}}})
    assert (other.link("a", "b").rate, other.link("b", "a").rate) == (50e6, 10e6)


def test_a_preset_that_a_link_names_comes_before_the_defaults_and_one_of_the_defaults_after_them() -> None:
    def link(default: dict[str, Any], own: dict[str, Any]) -> LinkSettings:
        data = {"nodes": ["a", "b"], "defaults": {"link": default}, "links": [{"between": ["a", "b"], **own}]}
        return Topology.model_validate(data).link("a", "b")

    usual = {"rate": "10 Mbit/s", "delay": "5 ms", "jitter": "1 ms"}
    far = link(usual, {"preset": "geo-bent-pipe"})
    assert (far.rate, far.delay, far.jitter) == (50e6, 0.26, 0.001)
    near = link({**usual, "preset": "geo-bent-pipe"}, {})
    assert (near.rate, near.delay) == (10e6, 0.005)


@pytest.mark.parametrize(
    "bursts", [{"enter": "1 %", "leave": "0.01 %"}, {"enter": "60 %", "leave": "40 %"}, {"enter": 0, "leave": 0.5}]
)
def test_bursts_that_lose_most_or_last_for_ever_are_refused(bursts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"bursts"):
        pair(bursts=bursts)


def test_every_preset_is_a_link_and_tells_its_sources() -> None:
    for name, preset in presets.load().items():
        topology = pair(preset=name)
        for link in topology.directed_links():
            assert link.rate
            assert link.delay > 0
        assert preset.source
        assert preset.about
        for figure in preset.unverified:
            direction, quantity = figure.split(".")
            assert quantity in getattr(preset, direction), f"{name}: {figure}"
