from __future__ import annotations

import json
from typing import Any

import pytest
from agents import a_job
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from node_agent.daemon.admission import Inadmissible, admit
from node_agent.job import Job

LINK = {"source": "n0", "target": "n1"}


def job(**values: Any) -> Job:
    return Job.model_validate(a_job("shard.npy", **values))


def refused(job: Job, files: tuple[str, ...] = ("shard.npy",)) -> str:
    with pytest.raises(Inadmissible) as raised:
        admit(job, files, "lo")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_job_runs_on_the_board_s_own_interface() -> None:
    asked = job(interface="eth7")
    assert admit(asked, ["shard.npy"], "wg0") == asked.model_copy(update={"interface": "wg0"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"rendezvous": "file:///tmp/meet"}, "rendezvous: found 'file:///tmp/meet', allowed tcp://HOST:PORT"),
        ({"rendezvous": "tcp://10.0.0.1:0"}, "rendezvous: "),
        ({"rendezvous": "tcp://10.0.0.1:80/../x"}, "rendezvous: "),
        ({"rendezvous": "tcp://10.0.0.1:80\n"}, "rendezvous: "),
        ({"entrance": {"network": "/proc/1/ns/net"}}, "entrance: found "),
        ({"egress": "eth0"}, "egress: found 'eth0', allowed null"),
        ({"aside": "eth0"}, "aside: found 'eth0', allowed null"),
        ({"imposed": "kernel"}, "imposed: found 'kernel', allowed 'node'"),
        ({"steps": 10**9}, "steps: found 1000000000, allowed 1 to 10000000"),
        ({"timeout": -1.0}, "timeout: found -1.0, allowed 0.001 to 3600"),
        ({"telemetry_interval": 1e9}, "telemetry_interval: found 1000000000.0, allowed 0.01 to 3600"),
        ({"compute_factor": float("nan")}, "compute_factor: found nan, allowed finite numbers"),
        ({"seed": 2**80}, "seed: found a number of more than 63 bits"),
        ({"run": "r" * 5000}, "run: found 'rrrr"),
        ({"run": "a\nb"}, "run: found 'a\\nb'"),
        ({"pauses": [{"start": 0, "end": float("inf")}]}, "pauses.0.end: found inf"),
    ],
)
def test_what_a_board_does_not_take(values: dict[str, Any], reason: str) -> None:
    assert refused(job(**values)).startswith(reason)


def test_a_ring_is_bounded() -> None:
    names = [f"n{index}" for index in range(65)]
    assert refused(job(nodes=names, outgoing=LINK, incoming=LINK)) == "nodes: found 65, allowed at most 64"
    assert refused(job(nodes=["a", "a"], outgoing=LINK, incoming=LINK)).startswith("nodes: found a name twice")


def test_of_many_that_are_wrong_the_first_is_told() -> None:
    """All of them would take minutes, and the board would do nothing else."""
    wrong = {"changes": [0] * 1000, "schedule": [0] * 1000, **LINK}
    with pytest.raises(ValidationError) as raised:
        job(nodes=[0] * 1000, outgoing=wrong, pauses=[0] * 1000)
    assert raised.value.error_count() < 10


def test_a_network_is_bounded() -> None:
    asked = a_job("shard.npy")
    for network, found in (([2**20], "a width of 1048576"), ([0], "a width of 0"), ([8] * 99, "99 layers")):
        asked["workload"]["network"] = network
        assert refused(Job.model_validate(asked)).startswith(f"workload.network: found {found}")


def test_a_scene_is_a_file_of_the_claim() -> None:
    assert refused(job(), files=()) == (
        "workload.scene.file: found 'shard.npy', allowed none: the claim announced no files"
    )
    assert refused(job(), files=("b", "a")).endswith("allowed one of a, b")
    asked = a_job("shard.npy")
    asked["workload"]["scene"] = {"path": "indian-pines"}
    assert refused(Job.model_validate(asked)).startswith("workload.scene: found a path")


@given(st.text(alphabet="./\\abc\0~%", max_size=12))
@settings(max_examples=60)
def test_no_path_leads_out(name: str) -> None:
    """Names are refused before a file is looked for, or are names of no folder."""
    try:
        found = Job.model_validate(a_job(name))
    except ValidationError:
        return
    assert not set("/\\\0") & set(name)
    assert not name.startswith(".")
    assert refused(found).startswith("workload.scene.file")


@pytest.mark.parametrize("place", [(), ("workload",), ("workload", "scene"), ("compressor",)])
def test_no_field_is_unknown(place: tuple[str, ...]) -> None:
    asked = a_job("shard.npy")
    inside = asked
    for step in place:
        inside = inside[step]
    inside["surprise"] = None
    with pytest.raises(ValidationError, match=r"surprise\n.*Extra inputs are not permitted"):
        Job.model_validate_json(json.dumps(asked))


def test_the_backend_is_the_board_s_where_the_job_leaves_it_open() -> None:
    files = ["shard.npy"]
    assert admit(job(), files, "lo", "nccl").backend == "auto"  # on the CPU there is no choice
    assert admit(job(device="auto"), files, "lo", "nccl").backend == "nccl"
    assert admit(job(device="auto", backend="gloo"), files, "lo").backend == "gloo"
    with pytest.raises(Inadmissible, match="backend: found gloo, allowed auto or nccl on this board"):
        admit(job(device="auto", backend="gloo"), files, "lo", "nccl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
TEMPLATE = a_job("shard.npy")
PLACES = [(key,) for key in TEMPLATE] + [("workload", key) for key in TEMPLATE["workload"]]


@given(st.sampled_from(PLACES), JSON)
def test_whatever_a_job_says_it_is_refused_or_runs_in_its_bounds(place: tuple[str, ...], value: Any) -> None:
    asked = json.loads(json.dumps(TEMPLATE))
    inside = asked
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    try:
        taken = admit(Job.model_validate_json(json.dumps(asked)), ["shard.npy"], "lo")
    except (ValidationError, Inadmissible):
        return
    assert taken.interface == "lo"
    assert taken.rendezvous.startswith("tcp://")
    assert (taken.entrance, taken.egress, taken.aside, taken.imposed) == (None, None, None, "node")
    assert taken.workload is None or taken.workload.scene.file == "shard.npy"
