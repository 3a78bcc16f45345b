from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgesim.topology.reader import TopologyError, read
from edgesim.topology.schema import Topology
from node_agent.compression.settings import CATALOGUE, GCCSettings, NSISettings

NAMES = " or ".join(", ".join(CATALOGUE).rsplit(", ", 1))

EXAMPLE = """\
name: leo-ring-4
seed: 7
defaults:
  node: {device: jetson-orin-nano-8gb}
  link: {rate: 10 Mbit/s, delay: 6.6 ms, jitter: 0.2 ms}
nodes: [sat-0, sat-1, sat-2, sat-3]
links:
  - between: [sat-0, sat-1]
  - between: [sat-1, sat-2]
    reverse: {rate: 2 Mbit/s}                # each direction may differ
  - between: [sat-2, sat-3]
    loss: 0.1 %
  - between: [sat-3, sat-0]
    schedule: [{from: 0 s, to: 300 s}]       # contact windows
ring: [sat-0, sat-1, sat-2, sat-3]
emulation: {links: userspace, clock: wall}
training:
  workload: background
  scene: indian-pines
  target: stone-steel-towers
  compressor: {name: gcc, density: 0.5}
  steps: 400
  batch: 256
"""

NAME = "a name: letters, digits, '.', '_' and '-', at most 64, beginning with a letter, a digit or '_'"
RATE = "a rate such as '10 Mbit/s', or unlimited"
PROPERTIES = "rate, delay, jitter, jitter_kind, reorder, loss, burst_length, bursts, queue, overhead, schedule"
SECTIONS = "name, seed, defaults, constellation, nodes, ring, links, events, emulation or training"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    """The lines of the refusal, the folder left out."""
    with pytest.raises(TopologyError) as refusal:
        read(path, overrides)
    return str(refusal.value).replace(f"{path.parent}{os.sep}", "").splitlines()


def refused(folder: Path, text: str | bytes) -> list[str]:
    path = folder / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
    return problems(path)


def test_the_example_of_the_contract(file: Path) -> None:
    found = read(file)
    assert (found.name, found.seed, found.ring) == ("leo-ring-4", 7, ("sat-0", "sat-1", "sat-2", "sat-3"))
    assert {node.device for node in found.nodes} == {"jetson-orin-nano-8gb"}
    assert found.link("sat-1", "sat-2").rate == 10e6
    assert found.link("sat-2", "sat-1").rate == 2e6
    assert found.link("sat-2", "sat-3").loss == 0.001
    assert found.link("sat-0", "sat-1").jitter == 0.0002
    schedule = found.link("sat-0", "sat-3").schedule
    assert schedule is not None
    assert (schedule[0].start, schedule[0].end) == (0, 300)
    assert found.training.compressor == (GCCSettings(density=0.5),)


def test_only_nodes_are_needed_and_the_file_names_the_rest(tmp_path: Path) -> None:
    path = tmp_path / ".my first ring (2).yaml"
    path.write_text("nodes: [a, b]\n", encoding="utf-8")
    assert read(path) == Topology.model_validate({"name": "my-first-ring-2-", "nodes": ["a", "b"]})


def test_plain_values_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "no.yaml"
    path.write_text("nodes: [no, on, 2026-01-01]\ntraining: {learning_rate: 1e-3}\n", encoding="utf-8")
    found = read(path)
    assert found.ring == ("no", "on", "2026-01-01")
    assert found.training.learning_rate == 0.001


def test_anchors_and_merges(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(
        dedent("""\
            nodes: [a, b, c]
            links:
              - &slow {between: [a, b], rate: 1 kbit/s, delay: 5 ms}
              - {<<: *slow, between: [b, c]}
              - {rate: 2 kbit/s, <<: *slow, between: [c, a]}
            """),
        encoding="utf-8",
    )
    assert [(link.name, link.rate, link.delay) for link in read(path).ring_links()] == [
        ("a->b", 1e3, 0.005),
        ("b->c", 1e3, 0.005),
        ("c->a", 2e3, 0.005),
    ]


MALFORMED: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["bad.yaml: found an empty file, allowed a mapping with at least: nodes"]),
    "comments only": ("# nothing\n", ["bad.yaml: found an empty file, allowed a mapping with at least: nodes"]),
    "a list": ("- a\n- b\n", ["bad.yaml:1: found a list of 2, allowed a mapping with at least: nodes"]),
    "a word": ("\n\nhello\n", ["bad.yaml:1: found 'hello', allowed a mapping with at least: nodes"]),
    "no YAML": (
        "nodes: [a, b\nname: x\n",
        ["bad.yaml:2: found no valid YAML (expected ',' or ']', but got ':'), allowed YAML"],
    ),
    "a tab": (
        "nodes:\n\t- a\n",
        ["bad.yaml:2: found no valid YAML (found character '\\t' that cannot start any token), allowed YAML"],
    ),
    "two documents": (
        "nodes: [a]\n---\nnodes: [b]\n",
        ["bad.yaml:2: found no valid YAML (but found another document), allowed YAML"],
    ),
    "binary": (
        b"nodes: [a]\n\x7fELF\xfe\xff\x00",
        ["bad.yaml:2: found byte 0xfe, which is no UTF-8, allowed text"],
    ),
    "control characters": (
        b"nodes: [a]\nname: \x01\n",
        ["bad.yaml:2: found no valid YAML (the character '\\x01'), allowed YAML"],
    ),
    "too large": (b"#" * 1_000_001, ["bad.yaml: found a larger file, allowed at most 1 MB"]),
    "nested too deeply": (
        "nodes: " + "[" * 3000,
        ["bad.yaml:1: found no valid YAML (sections nested too deeply), allowed YAML"],
    ),
    "an alias of itself": (
        "nodes: &n [*n]\n",
        ["bad.yaml:1: nodes.0: found an alias of itself, allowed aliases of other values"],
    ),
    "an alias of nothing": (
        "nodes: *n\n",
        ["bad.yaml:1: found no valid YAML (found undefined alias 'n'), allowed YAML"],
    ),
    "a tag": (
        "nodes: !!python/object/apply:os.system [a]\n",
        [
            "bad.yaml:1: nodes: found the tag 'tag:yaml.org,2002:python/object/apply:os.system', "
            "allowed plain YAML without tags"
        ],
    ),
    "a key twice": (
        "nodes: [a]\nseed: 1\nseed: 2\n",
        ["bad.yaml:3: seed: found the key twice (first on line 2), allowed each key once"],
    ),
    "no nodes": (
        "\nname: x\n",
        [
            "bad.yaml:1: nodes: found nothing, allowed a list of at least 1 and at most 64 "
            "(the nodes: names, or mappings with a name)"
        ],
    ),
    "an empty list of nodes": (
        "nodes: []\n",
        ["bad.yaml:1: nodes: found an empty list, allowed a list of at least 1 and at most 64"],
    ),
    "too many nodes": (
        f"nodes: {[f'n{i}' for i in range(65)]}\n",
        ["bad.yaml:1: nodes: found a list of 65, allowed a list of at least 1 and at most 64"],
    ),
    "unknown sections": (
        "nodes: [a]\nlinkz: []\ntraning: {}\n",
        [
            f"bad.yaml:2: linkz: found an unknown key, allowed {SECTIONS}; did you mean 'links'?",
            f"bad.yaml:3: traning: found an unknown key, allowed {SECTIONS}; did you mean 'training'?",
        ],
    ),
    "an unknown key in a link": (
        "nodes: [a, b]\nlinks:\n  - between: [a, b]\n    reverse:\n      rat: 1 kbit/s\n",
        [
            "bad.yaml:5: links.0.reverse.rat: found an unknown key, "
            f"allowed {PROPERTIES} or deadline; did you mean 'rate'?"
        ],
    ),
    "an empty section": (
        "nodes: [a]\nemulation:\n",
        [
            "bad.yaml:2: emulation: found nothing, "
            "allowed a mapping of links, clock, compute, timeout, tolerance, allow_deviation, allow_versions"
        ],
    ),
    "bad units": (
        """\
        nodes: [a, b]
        defaults:
          link:
            rate: 10 Mbut/s
            delay: 4
            jitter: 1 Mbit/s
            loss: lots
        """,
        [
            f"bad.yaml:4: defaults.link.rate: found '10 Mbut/s', allowed {RATE}; did you mean '10 Mbit/s'?",
            "bad.yaml:5: defaults.link.delay: found 4, allowed a time with its unit, such as '4 ms'",
            "bad.yaml:6: defaults.link.jitter: found '1 Mbit/s', allowed a time such as '4 ms'",
            "bad.yaml:7: defaults.link.loss: found 'lots', allowed a fraction such as '0.1 %'",
        ],
    ),
    "negative and absurd values": (
        """\
        seed: -1
        nodes: [a, {name: b, compute_factor: 0}]
        links:
          - between: [a, b]
            rate: 10 mbit/s
            delay: -5 ms
            jitter: 2 min
            loss: 60 %
            reverse: {rate: 0, delay: 2 d}
        """,
        [
            "bad.yaml:1: seed: found -1, allowed a whole number of at least 0 and at most 4294967295",
            "bad.yaml:2: nodes.1.compute_factor: found 0, allowed a number above 0 and at most 1000000",
            "bad.yaml:5: links.0.rate: found '10 mbit/s', allowed 1 bit/s to 1 Tbit/s; did you mean '10 Mbit/s'?",
            "bad.yaml:6: links.0.delay: found '-5 ms', allowed 0 s to 60 min",
            "bad.yaml:7: links.0.jitter: found '2 min', allowed 0 s to 60 s",
            "bad.yaml:8: links.0.loss: found '60 %', allowed 0 % to 50 %",
            "bad.yaml:9: links.0.reverse.rate: found 0, allowed 1 bit/s to 1 Tbit/s",
            "bad.yaml:9: links.0.reverse.delay: found '2 d', allowed 0 s to 60 min",
        ],
    ),
    "bad names": (
        "name: 'my ring'\nnodes: [sat 0, 7, '', {device: host}]\n",
        [
            f"bad.yaml:1: name: found 'my ring', allowed {NAME}",
            f"bad.yaml:2: nodes.0: found 'sat 0', allowed {NAME}",
            "bad.yaml:2: nodes.1: found 7, allowed a name, or a mapping with a name; did you mean '7'?",
            f"bad.yaml:2: nodes.2: found '', allowed {NAME}",
            "bad.yaml:2: nodes.3.name: found nothing, allowed text (the node's name)",
        ],
    ),
    "a node twice": (
        "nodes:\n  - a\n  - name: a\n",
        ["bad.yaml:3: nodes.1: found 'a' a second time, allowed every node once"],
    ),
    "dangling ends": (
        """\
        nodes: [sat-0, sat-1, ground]
        links:
          - between: [sat-0, gruond]
          - between: [sat-9, sat-1]
        """,
        [
            "bad.yaml:3: links.0.between.1: found 'gruond', which is no node, "
            "allowed sat-0, sat-1 or ground; did you mean 'ground'?",
            "bad.yaml:4: links.1.between.0: found 'sat-9', which is no node, allowed sat-0, sat-1 or ground",
        ],
    ),
    "links of one or three ends": (
        "nodes: [a, b, c]\nlinks:\n  - between: [a]\n  - between: [a, b, c]\n  - rate: 1 kbit/s\n  - a\n",
        [
            "bad.yaml:3: links.0.between: found a list of 1, allowed a list of 2 node names",
            "bad.yaml:4: links.1.between: found a list of 3, allowed a list of 2 node names",
            "bad.yaml:5: links.2.between: found nothing, allowed a list (the two nodes that the link joins)",
            f"bad.yaml:6: links.3: found 'a', allowed a mapping of {PROPERTIES}, deadline, preset, between, reverse",
        ],
    ),
    "a link to itself": (
        "nodes: [a, b]\nlinks:\n  - between: [a, b]\n  - between: [b, b]\n",
        ["bad.yaml:4: links.1.between: found a link from b to itself, allowed two different nodes"],
    ),
    "a link twice": (
        "nodes: [a, b]\nlinks:\n  - between: [a, b]\n  - between: [b, a]\n",
        [
            "bad.yaml:4: links.1.between: found a second link between b and a, "
            "allowed one, whose directions may differ by reverse (the first is links.0)"
        ],
    ),
    "a ring over a missing link": (
        "nodes: [a, b, c]\nlinks:\n  - between: [a, b]\n  - between: [b, c]\nring:\n  - a\n  - b\n  - c\n",
        [
            "bad.yaml:8: ring.2: found no link between c and a, neighbours in the ring, "
            "allowed a ring over the links that are given; or links: netns, where it goes over b"
        ],
    ),
    "a ring in the order of nodes over a missing link": (
        "nodes: [a, b, c]\nlinks:\n  - between: [a, b]\n  - between: [c, a]\n",
        [
            "bad.yaml:2: links: found no link between b and c, neighbours in the ring, "
            "allowed a ring over the links that are given; or links: netns, where it goes over a"
        ],
    ),
    "a ring with no way between neighbours": (
        "nodes: [a, b, c, d]\nemulation: {links: netns}\nlinks:\n  - between: [a, b]\n  - between: [c, d]\n",
        [
            f"bad.yaml:3: links: found no link between {ends}, neighbours in the ring, and no way over other nodes, "
            "allowed a ring over the links that are given"
            for ends in ("b and c", "d and a")
        ],
    ),
    "a ring over links that are never open at once": (
        "nodes: [a, b, c]\nemulation: {links: netns}\nlinks:\n"
        "  - {between: [a, b], schedule: [{from: 0 s, to: 5 s}]}\n"
        "  - {between: [b, c], schedule: [{from: 5 s, to: 9 s}]}\nring: [a, b, c]\n",
        [
            "bad.yaml:6: ring: found c->a over b, links that are never open at the same time, "
            "allowed neighbours whose links have some contact at the same time"
        ],
    ),
    "a ring that leaves out a node": (
        "nodes: [a, b, c]\nring: [a, c]\n",
        ["bad.yaml:2: ring: found a ring without b, allowed every node once"],
    ),
    "a ring that repeats a node": (
        "nodes: [a, b]\nring: [a, b, a]\n",
        ["bad.yaml:2: ring.2: found 'a' a second time, allowed every node once"],
    ),
    "a ring with a stranger": (
        "nodes: [earth, moon]\nring: [earth, mon]\n",
        ["bad.yaml:2: ring.1: found 'mon', which is no node, allowed earth or moon; did you mean 'moon'?"],
    ),
    "bad windows": (
        """\
        nodes: [a, b]
        links:
          - between: [a, b]
            schedule:
              - {from: 5 s, to: 5 s}
              - {from: 3 s}
            reverse:
              schedule: [{from: 0, to: 9 s}, {from: 8 s, to: 10 s}]
        """,
        [
            "bad.yaml:5: links.0.schedule.0: found 5 s to 5 s, allowed a window that opens before it closes",
            "bad.yaml:6: links.0.schedule.1: found a mapping of from, "
            "allowed from and to; or at, with at least one of rate, delay, jitter and loss",
            "bad.yaml:8: links.0.reverse.schedule: found 0 s to 9 s followed by 8 s to 10 s, "
            "allowed ascending windows that do not overlap",
        ],
    ),
    "no window": (
        "nodes: [a, b]\ndefaults: {link: {schedule: []}}\n",
        ["bad.yaml:2: defaults.link.schedule: found an empty list, allowed a list of at least 1"],
    ),
    "emulation": (
        "nodes: [a]\nemulation: {links: netnz, clock: virtaul, timeout: 0 s}\n",
        [
            "bad.yaml:2: emulation.links: found 'netnz', allowed userspace or netns; did you mean 'netns'?",
            "bad.yaml:2: emulation.clock: found 'virtaul', allowed wall or virtual; did you mean 'virtual'?",
            "bad.yaml:2: emulation.timeout: found '0 s', allowed 100 ms to 24 h",
        ],
    ),
    "training": (
        """\
        nodes: [a]
        training:
          workload: background
          scene: 3
          target: [a]
          steps: 0
          batch: 2.5
          learning_rate: fast
          network: [100, 0, wide]
          goal: 98 %
          bucket: 10 Mb
          prior: orakel
        """,
        [
            "bad.yaml:4: training.scene: found 3, allowed text",
            "bad.yaml:5: training.target: found a list of 1, allowed the name or number of a class, or null",
            "bad.yaml:6: training.steps: found 0, allowed a whole number of at least 1 and at most 1000000",
            "bad.yaml:7: training.batch: found 2.5, allowed a whole number of at least 1 and at most 1000000",
            "bad.yaml:8: training.learning_rate: found 'fast', allowed a number above 0 and at most 10",
            "bad.yaml:9: training.network.1: found 0, allowed a whole number of at least 1 and at most 65536",
            "bad.yaml:9: training.network.2: found 'wide', allowed a whole number of at least 1 and at most 65536",
            "bad.yaml:10: training.goal: found '98 %', allowed a number above 0 and at most 1",
            "bad.yaml:11: training.bucket: found '10 Mb', allowed a size such as '10 MB'; did you mean '10 MB'?",
            "bad.yaml:12: training.prior: found 'orakel', allowed blob, pixels or oracle; did you mean 'oracle'?",
        ],
    ),
    "booleans are no numbers": (
        "seed: true\nnodes: [a]\ntraining: {steps: true, goal: true, compressor: {name: topk, density: true}}\n",
        [
            "bad.yaml:1: seed: found true, allowed a whole number of at least 0 and at most 4294967295",
            "bad.yaml:3: training.compressor.density: found true, allowed a number above 0 and at most 1",
            "bad.yaml:3: training.steps: found true, allowed a whole number of at least 1 and at most 1000000",
            "bad.yaml:3: training.goal: found true, allowed a number above 0 and at most 1",
        ],
    ),
    "compressor settings that do not go together": (
        """\
        nodes: [a]
        training:
          compressor:
            - {name: randomk, unbiased: true}
            - {name: cltk, low_pass: 0.5, error_feedback: false}
        """,
        [
            "bad.yaml:4: training.compressor.0.unbiased: found true, allowed false, or true with error_feedback: false",
            "bad.yaml:5: training.compressor.1.low_pass: found 0.5, "
            "allowed 1, or a number below it with error_feedback: true",
        ],
    ),
    "compressors": (
        """\
        nodes: [a]
        training:
          compressor:
            - {name: gcc, density: 1.5, densty: 1}
            - {name: nsi, neighbourhood: 2.5, layer_rule: uniformly, smoothing: .nan}
            - {name: none, error_feedback: true}
            - topc
            - {density: 0.5}
            - fp16
            - {name: fp16, error_feedback: 1}
        """,
        [
            "bad.yaml:4: training.compressor.0.density: found 1.5, allowed a number above 0 and at most 1",
            "bad.yaml:4: training.compressor.0.densty: found an unknown key, "
            "allowed name, error_feedback, density, selector, fill or mask; did you mean 'density'?",
            "bad.yaml:5: training.compressor.1.neighbourhood: found 2.5, "
            "allowed a whole number of at least 1 and at most 63",
            "bad.yaml:5: training.compressor.1.layer_rule: found 'uniformly', "
            "allowed uniform, proportional, relative_change or global_threshold; did you mean 'uniform'?",
            "bad.yaml:5: training.compressor.1.smoothing: found nan, allowed a number of at least 0 and below 1",
            "bad.yaml:6: training.compressor.2.error_feedback: found true, allowed false",
            f"bad.yaml:7: training.compressor.3: found 'topc', allowed {NAMES}, "
            "or a mapping with one of these as its name; did you mean 'topk'?",
            f"bad.yaml:8: training.compressor.4: found a mapping without a name, allowed {NAMES}, "
            "or a mapping with one of these as its name",
            "bad.yaml:10: training.compressor.6.error_feedback: found 1, allowed true or false",
        ],
    ),
    "densities that follow nothing": (
        "nodes: [a]\ntraining:\n  density: automatic\n",
        ["bad.yaml:3: training.density: found 'automatic', allowed auto, or a mapping of lowest and highest"],
    ),
    "bounds of a density": (
        "nodes: [a]\ntraining:\n  compressor: topk\n  density:\n    lowest: 0\n    heighest: 0.5\n",
        [
            "bad.yaml:5: training.density.lowest: found 0, allowed a number above 0 and at most 1",
            "bad.yaml:6: training.density.heighest: found an unknown key, allowed lowest or highest; "
            "did you mean 'highest'?",
        ],
    ),
    "bounds of a density that cross": (
        "nodes: [a]\ntraining:\n  compressor: topk\n  density: {lowest: 0.5, highest: 0.1}\n",
        ["bad.yaml:4: training.density: found a mapping, allowed a highest density that is not below the lowest"],
    ),
    "a density for what has none": (
        "nodes: [a]\ntraining:\n  compressor: [none, fp16]\n  density: auto\n",
        [
            "bad.yaml:4: training.density: found a density for none or fp16, "
            "allowed to leave it out, or a compressor that has one",
        ],
    ),
    "the same compressor twice": (
        "nodes: [a]\ntraining:\n  compressor: [gcc, {name: gcc, density: 0.5}]\n",
        ["bad.yaml:3: training.compressor: found gcc twice with the same settings, allowed different ones"],
    ),
    "keys with line breaks": (
        'nodes: [a]\n"a\\nb": 1\n',
        [f"bad.yaml:2: 'a\\nb': found an unknown key, allowed {SECTIONS}"],
    ),
    "an empty ring": (
        "nodes: [a, b]\nring: []\n",
        ["bad.yaml:2: ring: found a ring without a and b, allowed every node once"],
    ),
    "a ring of anything": (
        "nodes: [a, b]\nlinks: [{between: [a, b]}]\nring: [a, [b]]\n",
        [f"bad.yaml:3: ring.1: found a list of 1, allowed {NAME}"],
    ),
    "lists of another shape": (
        "nodes: [a, b]\nlinks: 3\nring: {a: b}\n",
        ["bad.yaml:2: links: found 3, allowed a list", "bad.yaml:3: ring: found a mapping, allowed a list"],
    ),
    "an unknown end among many nodes": (
        f"nodes: {[f'n{i}' for i in range(11)]}\nring: {['moon'] + [f'n{i}' for i in range(1, 11)]}\n",
        ["bad.yaml:2: ring.0: found 'moon', which is no node, allowed one of the 11 nodes"],
    ),
    "sections of another shape": (
        "nodes: {a: b}\nlinks: 3\nring: a\ntraining: []\ndefaults: {link: [1]}\n",
        [
            "bad.yaml:1: nodes: found a mapping, allowed a list of at least 1 and at most 64",
            "bad.yaml:2: links: found 3, allowed a list",
            "bad.yaml:3: ring: found 'a', allowed a list",
            "bad.yaml:4: training: found an empty list, allowed a mapping of workload, scene, target, cube, "
            "mask, prior, accelerator, compressor, density, steps, batch, learning_rate, network, evaluate_every, "
            "goal, bucket",
            f"bad.yaml:5: defaults.link: found a list of 1, allowed a mapping of {PROPERTIES}, deadline, preset",
        ],
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files(tmp_path: Path, case: str) -> None:
    text, messages = MALFORMED[case]
    assert refused(tmp_path, text) == messages


def test_fields_and_what_joins_them_are_reported_together(tmp_path: Path) -> None:
    text = """\
        nodes: [a, b]
        links:
          - between: [a, z]
            rate: fast
        training: {steps: 0}
        """
    assert [line.split(": found")[0] for line in refused(tmp_path, text)] == [
        "bad.yaml:3: links.0.between.1",
        "bad.yaml:4: links.0.rate",
        "bad.yaml:5: training.steps",
    ]


def test_aliases_that_multiply_are_stopped(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (message,) = refused(tmp_path, "\n".join(lines))
    assert message.endswith("found too many values, allowed 100000, aliases followed")


def test_a_number_beyond_all_measure(tmp_path: Path) -> None:
    (message,) = refused(tmp_path, f"nodes: [a]\nseed: {'9' * 5000}\n")
    assert message.startswith("bad.yaml:2: seed: found '999")
    assert len(message) < 200


def test_a_file_of_nothing_but_problems_is_cut_short(tmp_path: Path) -> None:
    messages = refused(tmp_path, "nodes: [a]\n" + "".join(f"key{i}: 1\n" for i in range(500)))
    assert len(messages) == 101
    assert messages[-1] == "… and 400 more problems"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml") == ["none.yaml: found no such file, allowed a topology file (YAML)"]
    assert problems(tmp_path / "a\0b.yaml") == ["a\0b.yaml: found no such file, allowed a topology file (YAML)"]
    (tmp_path / "folder").mkdir()
    assert problems(tmp_path / "folder") == ["folder: found a folder, allowed a topology file (YAML)"]
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (message,) = problems(tmp_path / "loop.yaml")
    assert message.startswith("loop.yaml: found a file that cannot be read (")


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfnodes: [a, b]\r\nseed: 3\r\n")
    assert read(path).seed == 3
    assert refused(tmp_path, b"nodes: [a]\r\n\r\nseed: x\r\n")[0].startswith("bad.yaml:3: seed:")


def test_overrides_reach_any_field(file: Path) -> None:
    found = read(
        file,
        [
            "training.steps=100",
            "links.0.rate=1 Mbit/s",
            "links.0.reverse.delay=9 ms",
            "emulation.clock=virtual",
            "emulation.compute=measured",
            "nodes.1.compute_factor=4",
            "training.compressor.density=0.25",
            "defaults.link.loss=1 %",
            "seed=11",
            "training.target=",
        ],
    )
    assert found.training.steps == 100
    assert found.link("sat-0", "sat-1").rate == 1e6
    assert found.link("sat-1", "sat-0").delay == 0.009
    assert found.emulation.clock == "virtual"
    assert found.node("sat-1").compute_factor == 4
    assert found.training.compressor == (GCCSettings(density=0.25),)
    assert found.link("sat-1", "sat-2").loss == 0.01
    assert found.link("sat-2", "sat-3").loss == 0.001
    assert found.seed == 11
    assert found.training.target is None


def test_overrides_make_missing_sections_and_take_flow_values(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("nodes: [a, b]\ntraining: {compressor: gcc}\n", encoding="utf-8")
    found = read(path, ["emulation.timeout=5 s", "defaults.link={rate: 1 kbit/s}"])
    assert found.emulation.timeout == 5
    assert found.link("b", "a").rate == 1000
    assert read(path, ["training.compressor.density=0.1"]).training.compressor == (GCCSettings(density=0.1),)
    several = read(path, ["training.compressor=[gcc, {name: nsi, density: 0.1}]"]).training.compressor
    assert several == (GCCSettings(), NSISettings(density=0.1))


def test_the_last_override_wins(file: Path) -> None:
    assert read(file, ["training.steps=1", "training={}", "training.steps=3"]).training.steps == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training", "found 'training', allowed path=value, such as training.steps=100"),
        ("training..steps=1", "found 'training..steps=1', allowed path=value, such as training.steps=100"),
        ("traning.steps=1", f"traning: found an unknown key, allowed {SECTIONS}; did you mean 'training'?"),
        ("training.steps=0", "training.steps: found 0, allowed a whole number of at least 1 and at most 1000000"),
        ("training.steps=[1", "training.steps: found '[1', allowed a YAML value"),
        ("links.9.rate=1 kbit/s", "links.9: found index 9, allowed an index from 0 to 3"),
        ("links.first.rate=1 kbit/s", "links.first: found 'first', allowed an index from 0 to 3"),
        ("seed.0=1", "seed.0: found index 0, allowed a key: there is no list here"),
        ("links.0.rate=quick", f"links.0.rate: found 'quick', allowed {RATE}"),
        ("links.1.between=[sat-1, sat-7]", "links.1.between.1: found 'sat-7', which is no node, allowed "
         "sat-0, sat-1, sat-2 or sat-3"),
        ("training.compressor={name: gcc, density: 7}", "training.compressor.density: found 7, allowed a number "
         "above 0 and at most 1"),
    ],
)  # fmt: skip
def test_a_bad_override_is_named_instead_of_a_line(file: Path, override: str, message: str) -> None:
    assert problems(file, override) == [f"--set {override}: {message}"]


def test_problems_of_the_file_come_before_those_of_overrides(file: Path) -> None:
    file.write_text(EXAMPLE.replace("batch: 256", "batch: 0"), encoding="utf-8")
    first, second = problems(file, "seed=-1")
    assert first.startswith("example.yaml:23: training.batch:")
    assert second.startswith("--set seed=-1: seed:")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a", "b", "gcc"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "between", "rate", "density", "from", "to", "link", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
sections = ["name", "seed", "defaults", "nodes", "links", "ring", "events", "emulation", "training"]


@settings(max_examples=120)
@given(st.dictionaries(st.sampled_from(sections), values))
@example({"nodes": ["\x1e"], "ring": []})
@example({"nodes": ["a", "b"], "ring": [[], "b"], "events": [{"at": 0, "event": "down", "link": ["a", "b"]}]})
def test_any_yaml_is_read_or_refused_in_our_own_words(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        read(path)
    except TopologyError as refusal:
        for line in str(refusal).splitlines():
            assert "allowed" in line
            assert "Input should" not in line


def paths(data: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*keys, key)
        yield from paths(value, (*keys, key))


@settings(max_examples=150)
@given(st.sampled_from(list(paths(yaml.safe_load(EXAMPLE)))), values)
def test_one_changed_value_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, keys: tuple[Any, ...], value: object
) -> None:
    data = yaml.safe_load(EXAMPLE)
    holder = data
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        read(path)
    except TopologyError as refusal:
        for problem in refusal.problems:
            assert problem.place.startswith(f"{path}:")
            assert "Input should" not in str(problem)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(TopologyError, match="allowed"):
        read(path)


def test_reading_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, edgesim.topology.reader; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
