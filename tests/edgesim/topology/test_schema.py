from __future__ import annotations

import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesim.topology.quantities import format_fraction, format_rate, format_time
from edgesim.topology.schema import Topology, json_schema
from node_agent.compression.settings import CATALOGUE, GCCSettings, NoneSettings, NSISettings
from node_agent.job import LinkSettings, Window


def topology(**data: Any) -> Topology:
    return Topology.model_validate(data)


def names(links: list[LinkSettings]) -> list[str]:
    return [link.name for link in links]


def test_one_node_needs_no_links() -> None:
    alone = topology(nodes=["a"])
    assert alone.ring == ("a",)
    assert alone.world_size == 1
    assert alone.links == ()
    assert alone.ring_links() == alone.directed_links() == []


def test_two_nodes_share_one_link_in_both_directions() -> None:
    pair = topology(nodes=["a", "b"], defaults={"link": {"rate": "1 Mbit/s"}})
    assert [link.between for link in pair.links] == [("a", "b")]
    assert names(pair.ring_links()) == names(pair.directed_links()) == ["a->b", "b->a"]
    assert all(link.rate == 1e6 for link in pair.ring_links())


def test_three_nodes_close_the_ring() -> None:
    three = topology(nodes=["a", "b", "c"], ring=["b", "a", "c"])
    assert names(three.ring_links()) == ["b->a", "a->c", "c->b"]
    assert len(three.links) == 3
    assert len(three.directed_links()) == 6


@settings(max_examples=40)
@given(st.integers(1, 64), st.randoms())
def test_any_ring_visits_every_node_over_its_links(size: int, random: Any) -> None:
    order = [f"n{i}" for i in range(size)]
    nodes = random.sample(order, size)
    found = topology(nodes=nodes, ring=order)
    assert names(found.ring_links()) == [f"n{i}->n{(i + 1) % size}" for i in range(size) if size > 1]
    assert {node.name for node in found.nodes} == set(order)
    assert len(found.links) == {1: 0, 2: 1}.get(size, size)


def test_reverse_overrides_the_direction_against_between() -> None:
    link = {"between": ["b", "a"], "rate": "10 Mbit/s", "delay": "4 ms", "reverse": {"rate": "2 Mbit/s", "loss": "1 %"}}
    pair = topology(nodes=["a", "b"], links=[link])
    # 100 ms of 10 Mbit/s are 125 kB; of 2 Mbit/s fewer than the least, 64 KiB
    assert pair.link("b", "a") == LinkSettings(source="b", target="a", rate=10e6, delay=0.004, queue=125_000)
    assert pair.link("a", "b") == LinkSettings(source="a", target="b", rate=2e6, delay=0.004, loss=0.01, queue=65_536)
    assert names(pair.directed_links()) == ["b->a", "a->b"]
    assert names(pair.ring_links()) == ["a->b", "b->a"]


def test_links_take_what_they_do_not_say_from_the_defaults() -> None:
    found = topology(
        nodes=["a", "b"],
        defaults={
            "link": {"rate": "1 Mbit/s", "delay": "5 ms", "jitter": "1 ms", "schedule": [{"from": 0, "to": "9 s"}]}
        },
        links=[{"between": ["a", "b"], "rate": "unlimited", "reverse": {"delay": 0}}],
    )
    windows = (Window(start=0, end=9),)
    assert found.link("a", "b") == LinkSettings(
        source="a", target="b", rate=None, delay=0.005, jitter=0.001, schedule=windows
    )
    assert found.link("b", "a") == LinkSettings(
        source="b", target="a", rate=None, delay=0, jitter=0.001, schedule=windows
    )


def test_a_schedule_can_be_lifted_in_one_direction() -> None:
    link = {"between": ["a", "b"], "schedule": [{"from": 0, "to": "9 s"}], "reverse": {"schedule": None}}
    found = topology(nodes=["a", "b"], links=[link])
    assert found.link("a", "b").schedule is not None
    assert found.link("b", "a").schedule is None


def test_nodes_take_what_they_do_not_say_from_the_defaults() -> None:
    found = topology(
        nodes=["a", {"name": "b", "compute_factor": 3}],
        defaults={"node": {"device": "jetson-tx2", "compute_factor": 2}},
    )
    assert [(node.device, node.compute_factor) for node in found.nodes] == [("jetson-tx2", 2), ("jetson-tx2", 3)]
    assert found.node("b").compute_factor == 3


def test_asking_for_what_is_not_there() -> None:
    found = topology(nodes=["a", "b", "c"], ring=["a", "b", "c"])
    with pytest.raises(ValueError, match="no link joins 'a' and 'z'"):
        found.link("a", "z")
    with pytest.raises(ValueError, match="no node 'z'"):
        found.node("z")


def test_links_off_the_ring_are_kept() -> None:
    pairs = [["a", "b"], ["b", "c"], ["c", "d"], ["d", "a"], ["a", "c"]]
    found = topology(nodes=list("abcd"), links=[{"between": pair} for pair in pairs])
    assert "a->c" in names(found.directed_links())
    assert "a->c" not in names(found.ring_links())


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("gcc", (GCCSettings(),)),
        ({"name": "gcc", "density": 0.25}, (GCCSettings(density=0.25),)),
        (["none", {"name": "nsi", "density": 0.02}], (NoneSettings(), NSISettings(density=0.02))),
    ],
)
def test_compressors(written: Any, settings: tuple[Any, ...]) -> None:
    assert topology(nodes=["a"], training={"compressor": written}).training.compressor == settings


def test_training_by_default() -> None:
    training = topology(nodes=["a"]).training
    assert (training.scene, training.target, training.prior) == ("indian-pines", "stone-steel-towers", "blob")
    assert training.compressor == (NoneSettings(),)
    assert training.network == (400, 400, 50)
    assert training.bucket is None


def test_the_default_target_belongs_to_the_default_scene() -> None:
    assert topology(nodes=["a"], training={"scene": "other.mat"}).training.target is None
    assert topology(nodes=["a"], training={"target": None}).training.target is None
    assert topology(nodes=["a"], training={"target": 16}).training.target == 16
    assert topology(nodes=["a"], training={"scene": "indian-pines"}).training.target == "stone-steel-towers"


def test_the_resolved_topology_is_plain_si_data() -> None:
    link = {"between": ["a", "b"], "rate": "1 kbit/s", "schedule": [{"from": "1 s", "to": "1 min"}]}
    dumped = topology(
        nodes=["a", "b"], links=[link], training={"compressor": ["none", "gcc"], "bucket": "1 MB"}
    ).model_dump(mode="json")
    assert json.loads(json.dumps(dumped)) == dumped
    assert dumped["links"][0]["rate"] == dumped["links"][0]["reverse"]["rate"] == 1000
    (window,) = dumped["links"][0]["schedule"]
    assert (window["start"], window["end"]) == (1, 60)
    assert [compressor["name"] for compressor in dumped["training"]["compressor"]] == ["none", "gcc"]
    assert dumped["training"]["bucket"] == 1_000_000
    assert dumped["emulation"] == {"links": "userspace", "clock": "wall", "compute": None, "timeout": 60,
                                   "tolerance": 0.05, "allow_deviation": False, "allow_versions": False}  # fmt: skip


def test_a_topology_is_frozen_and_pickles() -> None:
    found = topology(nodes=["a", "b"])
    with pytest.raises(ValidationError, match="frozen"):
        found.seed = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(found)) == found


def up_to(largest: float) -> st.SearchStrategy[float]:
    return st.just(0.0) | st.floats(1e-12, largest)


@given(rate=st.none() | st.floats(1, 1e12), delay=up_to(3600), jitter=up_to(60), loss=up_to(0.5))
def test_what_is_written_is_what_the_link_gets(rate: float | None, delay: float, jitter: float, loss: float) -> None:
    link = {
        "between": ["a", "b"],
        "rate": "unlimited" if rate is None else f"{rate!r} bit/s",
        "delay": f"{delay!r} s",
        "jitter": f"{jitter!r} s",
        "loss": loss,
    }
    found = topology(nodes=["a", "b"], links=[link]).link("a", "b")
    assert (found.rate, found.delay, found.jitter, found.loss) == (rate, delay, jitter, loss)


@given(st.floats(1, 1e12), st.floats(1e-9, 3600), st.floats(1e-6, 0.5))
def test_what_is_formatted_can_be_written(rate: float, delay: float, loss: float) -> None:
    link = {
        "between": ["a", "b"],
        "rate": format_rate(rate),
        "delay": format_time(delay),
        "loss": format_fraction(loss),
    }
    found = topology(nodes=["a", "b"], links=[link]).link("b", "a")
    assert found.rate == pytest.approx(rate, rel=1e-3)
    assert found.delay == pytest.approx(delay, rel=1e-3)
    assert found.loss == pytest.approx(loss, rel=1e-3)


def schema_of(*keys: str) -> dict[str, Any]:
    schema = json_schema()
    found: dict[str, Any] = schema
    for key in keys:
        found = found["properties"][key]
        while "$ref" in found:
            found = schema["$defs"][found["$ref"].rpartition("/")[2]]
    return found


def test_the_json_schema_covers_every_field_and_describes_it() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == set(Topology.model_fields)
    assert [choice["required"] for choice in schema["anyOf"]] == [["nodes"], ["constellation"]]
    for definition in [schema, *schema["$defs"].values()]:
        bodies = [part for part in definition.get("anyOf", [definition]) if "properties" in part]
        for body in bodies:
            assert body["additionalProperties"] is False
            for name, field in body["properties"].items():
                assert "description" in field or "const" in field, name


def test_quantities_are_patterns_in_the_json_schema() -> None:
    written = schema_of("defaults", "link", "rate")
    for text in ("10 Mbit/s", "9600 bit/s", "1.5e3kbps", "unlimited", *written["examples"]):
        assert re.search(written["pattern"], text), text
    for text in ("10", "10 Mbut/s", "ten Mbit/s"):
        assert not re.search(written["pattern"], text), text


def test_defaults_in_the_json_schema_are_as_one_would_write_them() -> None:
    assert schema_of("defaults", "link", "rate")["default"] == "unlimited"
    assert schema_of("emulation", "timeout")["default"] == "60 s"
    assert Topology.model_validate({"nodes": ["a"], "training": {"bucket": None}}) == topology(nodes=["a"])
    assert "default" not in schema_of("ring")


def test_compressors_are_offered_by_name_in_the_json_schema() -> None:
    one_of = schema_of("training", "compressor")["anyOf"]
    assert {"enum": list(CATALOGUE)} in one_of
    assert any(choice.get("type") == "array" for choice in one_of)
