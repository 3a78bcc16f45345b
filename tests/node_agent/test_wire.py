from __future__ import annotations

import json
from base64 import b64encode
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from node_agent import events
from node_agent.events import Event, Observation
from node_agent.wire import DTYPES, WireError, decode, encode

ARRAYS = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(DTYPES).flatmap(lambda name: arrays.arrays(np.dtype(name), arrays.array_shapes(max_side=4))),
    max_size=2,
)
PLAIN = tuple(kind for kind in get_args(Event) if kind is not Observation)


def test_every_kind_of_event_is_known_by_its_name() -> None:
    assert len({kind.__name__.lower() for kind in get_args(Event)}) == len(get_args(Event))


@settings(max_examples=60)
@given(st.one_of([st.from_type(kind) for kind in PLAIN if kind is not events.Started]))
def test_events_come_back_as_they_were(event: Event) -> None:
    line = encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert repr(decode(line)) == repr(event)  # under which a number that is none equals itself


@given(ARRAYS)
def test_arrays_come_back_bit_for_bit(found: dict[str, Any]) -> None:
    again = decode(encode(Observation(1, "n1", 3, 0.5, found)))
    assert isinstance(again, Observation)
    assert (again.rank, again.node, again.step, again.time_s) == (1, "n1", 3, 0.5)
    assert again.arrays.keys() == found.keys()
    for name, array in found.items():
        assert again.arrays[name].dtype == array.dtype
        assert again.arrays[name].shape == array.shape
        assert again.arrays[name].tobytes() == array.tobytes()
        assert again.arrays[name].flags.writeable


def test_facts_may_be_anything_plain() -> None:
    facts = {"scaling": [0.0, 1.5], "scene": "a × b", "bands": np.int64(3), "none": None}
    event = events.Started(0, "n0", 7, facts, events.Sent())
    again = decode(encode(event))
    assert isinstance(again, events.Started)
    assert again.facts == {**facts, "bands": 3}


GOOD = json.loads(encode(Observation(0, "n", 1, 0.0, {"map": np.zeros((2, 3), np.float32)})))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event": "exec"}, "event: found 'exec', allowed probed"),
        ({"command": "reboot"}, "found unknown field 'command'"),
        ({"rank": "first"}, "observation.rank"),
        ({"arrays": {"map": {"dtype": "object", "shape": [1], "base64": ""}}}, "found dtype 'object', allowed bool"),
        ({"arrays": {"map": {"dtype": "float32", "shape": [2**15, 2**15], "base64": "AAAA"}}}, "found 3 bytes"),
        ({"arrays": {"map": {"dtype": "float32", "shape": [-1], "base64": ""}}}, "found shape"),
        ({"arrays": {"map": {"dtype": "bool", "shape": [2**31, 2**31, 0], "base64": ""}}}, "found shape"),
        ({"time_s": float("nan")}, "found NaN, which is no JSON"),
        ({"arrays": {"map": {"dtype": "float32", "shape": [1], "base64": "?"}}}, "no base64"),
        ({"arrays": {"map": 3}}, "allowed dtype, shape and base64"),
    ],
)
def test_what_is_no_event_is_refused_in_one_line(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(json.dumps({**GOOD, **change}))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60),
        JSON.map(json.dumps),
        st.builds(
            lambda kind, known, value: json.dumps({**GOOD, "event": kind, known: value}),
            st.sampled_from([kind.__name__.lower() for kind in get_args(Event)]),
            st.sampled_from(sorted(GOOD)),
            JSON,
        ),
        st.builds(
            lambda dtype, shape, octets: json.dumps(
                {**GOOD, "arrays": {"a": {"dtype": dtype, "shape": shape, "base64": b64encode(octets).decode()}}}
            ),
            st.sampled_from(DTYPES),
            st.lists(st.integers(-1, 2**33), max_size=5),
            st.binary(max_size=8),
        ),
    )
)
def test_any_line_is_an_event_or_is_refused(line: bytes | str) -> None:
    try:
        event = decode(line)
    except WireError as error:
        assert len(str(error).splitlines()) == 1, repr(error)  # noqa: PT017
    else:
        assert isinstance(event, get_args(Event))
