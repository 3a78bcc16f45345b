"""What a run folder comes to: the content of summary.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesim.ledger import ledger
from edgesim.network.shaping import payload_rate
from edgesim.results import PARTS, Columns, Run
from edgesim.topology.paths import Hop
from edgesim.topology.quantities import format_time
from node_agent.events import Sent
from node_agent.job import LinkSettings
from node_agent.plain import plain

_NEGLIGIBLE = 1e-3
"""of the time of a run: a shorter time without a measurement is left out of the words, not out of the numbers"""


def summarise(
    run: Run, *, wall_s: float | None = None, status: str = "finished", error: str | None = None
) -> dict[str, Any]:
    """The content of summary.json, from what a run folder holds.

    Args:
        run: the folder as read.
        wall_s: how long the run took on the host, s; None: nobody was there at its end.
        status: finished; failed or interrupted, with an `error` of one line; or killed.

    A value that was not measured is None; so is a number that is not finite.
    """
    steps, nodes = run.steps, run.nodes
    topology = run.config.get("topology", {})
    training = topology.get("training", {})
    rows = {node: run.of_node(node) for node in nodes}
    finished = run.events_of("finished")
    started = {event["node"]: event for event in run.events_of("started")}
    evaluations = run.events_of("evaluation")
    last = evaluations[-1] if evaluations else {"step": None, "metrics": {}}
    sent = {node: int(rows[node]["bytes_sent"].sum()) for node in nodes}
    dense = {node: len(rows[node]["step"]) * event["dense_step_bytes"] for node, event in started.items()}
    parameters = next((event["facts"].get("parameters") for event in started.values()), None)
    values = int(steps["values_sent"].sum())
    durations = steps["duration_s"]
    losses = [rows[node]["loss"][-1] for node in nodes if len(rows[node]["loss"])]
    digests = {event["params_sha256"] for event in finished}
    agree = _agree(run, len(finished), digests)
    read_back = read_back_links(run)
    entries = ledger(run, read_back)
    energy = {node: _energy(run, node, rows[node]) for node in nodes}
    summary = {
        "status": status,
        "error": error,
        "name": run.name,
        "seed": topology.get("seed"),
        "nodes": nodes,
        "fleet": run.config.get("fleet", {}).get("kind", "local"),
        "clock": run.config.get("clock"),
        "compute": run.config.get("compute"),
        "links_imposed": topology.get("emulation", {}).get("links"),
        "tcp_congestion_control": (run.config.get("network") or {}).get("tcp_congestion_control"),
        "compressor": run.config.get("compressor"),
        "density": _followed(training.get("density"), steps["density"]),
        "workload": training.get("workload"),
        "scene": run.config.get("scene"),
        "prior": run.config.get("prior"),
        "scored": run.config.get("scored"),
        "mended": _mended([event["facts"] for event in started.values()]),
        "steps": min((len(rows[node]["step"]) for node in nodes), default=0),
        "time_s": max((event["time_s"] for event in finished), default=_last(steps["time_s"])),
        "wall_s": wall_s,
        "setup_s": max((event["time_s"] for event in started.values()), default=None),
        "time_to_target_s": _time_to(training.get("goal"), evaluations),
        "metrics": {"loss": float(np.mean(losses)) if losses else None, **last["metrics"]},
        "metrics_step": last["step"],
        "evaluations": [
            {"step": one["step"], "time_s": one["time_s"], "auc": one["metrics"]["auc"]} for one in evaluations
        ],
        "bytes_sent": sent,
        "bytes_retransmitted": {
            source: int(np.nansum(run.of_link(source, target)["retransmitted_bytes"])) for source, target in run.ring
        },
        "bytes_framing": {
            source: int(np.nansum(run.of_link(source, target)["framing_bytes"])) for source, target in run.ring
        },
        "bytes_setup": {
            node: Sent(**started[node]["sent"]).message_bytes if node in started else None for node in nodes
        },
        "bytes_dense": dense or None,
        "ratio_wire": _ratio(sum(dense.values()) if dense else None, sum(sent.values())),
        "ratio_values": _ratio(parameters * len(steps["step"]) if parameters else None, values),
        "parameters": parameters,
        "step_time_s": {
            "p50": float(np.percentile(durations, 50)) if len(durations) else None,
            "p95": float(np.percentile(durations, 95)) if len(durations) else None,
            **{part: _mean(steps[f"{part}_s"]) if len(durations) else None for part in PARTS},
        },
        "link_utilisation": {},
        "links": {},
        "ledger": {f"{source}->{target}": entry.described() for (source, target), entry in entries.items()},
        "deviations": [
            f"link {event['link']}: {missed}" for event in run.events_of("probed") for missed in event["deviations"]
        ]
        + [
            f"link {source}->{target}: {missed}"
            for (source, target), entry in entries.items()
            for missed in entry.deviations(at_rest=len(finished) == len(nodes))
        ],
        "energy_j": _known({node: one.joules for node, one in energy.items()}),
        "energy_source": _known({node: one.source for node, one in energy.items()}),
        "energy_unmeasured_s": _known({node: one.unmeasured_s for node, one in energy.items()}),
        "params_sha256": digests.pop() if len(digests) == 1 and agree else None,
        "nodes_agree": agree,
    }
    hops, hop_settings = run.hops, run.hop_settings
    probed = {event["link"]: event for event in run.events_of("probed")}
    for source, target in run.ring:
        name, link = f"{source}->{target}", run.of_link(source, target)
        hop = hops.get((source, target))
        summary["link_utilisation"][name] = _ratio(float(link["busy_s"].sum()), _last(link["time_s"]))
        asked, applied = hop_settings.get((source, target)), started.get(source, {}).get("link")
        summary["links"][name] = {
            "over": list(hop.over) if hop else [],
            "requested": as_si(asked) if asked else None,
            "applied": applied_by_kernel(hop, read_back)
            or (as_si(LinkSettings.model_validate(applied)) if applied else None),
            "probed": probed[name]["found"] if name in probed else None,
            "measured": measured(link) | lost_by_relays(hop, read_back),
        }
    content: dict[str, Any] = plain(summary)
    return content


def _followed(bounds: Mapping[str, float] | None, densities: NDArray[Any]) -> dict[str, Any] | None:
    """Where a density followed the link: within which bounds, and what it came to."""
    known = densities[np.isfinite(densities)]
    if not bounds or not len(known):
        return None
    return {**bounds, "median": float(np.median(known)), "last": float(known[-1])}


def read_back_links(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """By source and target of each directed link what the kernel was found to impose, and what it had carried when last
    asked (`Applied`, as in events.jsonl); empty where the nodes imposed their links themselves."""
    entries = (link for event in run.events_of("network") for link in event["links"])
    return {(entry["link"]["source"], entry["link"]["target"]): entry for entry in entries}


def applied_by_kernel(hop: Hop | None, read_back: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the kernel was found to impose on a hop of the ring; None where that is not known.

    `payload_bit_s` is what full TCP segments have of `rate_bit_s`. Of a hop over several links, or over one that other
    hops take too, it is what those links as read back come to, without their counters: these are of all that a link
    carries.
    """
    if hop is None or not read_back.keys() >= set(hop.links):
        return None
    link = hop.settings({ends: LinkSettings.model_validate(read_back[ends]["link"]) for ends in hop.links})
    entry = read_back[hop.links[0]] if hop.whole else {}
    return {
        **as_si(link),
        "payload_bit_s": None if link.rate is None else payload_rate(link.rate, link.overhead),
        "burst_bytes": entry.get("burst"),
        "means": entry.get("means"),
        "counters": entry.get("counters"),
        "relay": entry.get("relayed"),
    }


def lost_by_relays(hop: Hop | None, read_back: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, float | None]:
    """The measured loss of a hop whose links the kernel imposes, 1 - Π (1 - loss of a link): the nodes' own counts know
    of no packet beneath TCP."""
    if hop is None or not read_back.keys() >= set(hop.links):
        return {}
    through = 1.0
    for entry in (read_back[ends] for ends in hop.links):
        lost = _lost(entry)
        if lost is None:
            return {"loss": None}
        through *= 1 - lost
    return {"loss": 1 - through}


def _lost(entry: Mapping[str, Any]) -> float | None:
    """The share of packets that one direction of a link lost; None where nothing counts them."""
    relay, counters = entry["relayed"], entry["counters"]
    if relay is not None:
        return _ratio(relay["lost"], relay["packets_in"])
    if entry["means"] == "netem":  # whose drops the token bucket before it does not see
        return None
    return _ratio(counters["dropped"], counters["packets"] + counters["dropped"])


def of(run: Run) -> dict[str, Any]:
    """A run's summary; of one that was killed before it could write its own, made from what it left."""
    return run.summary or summarise(run, status="killed")


def _mean(values: NDArray[Any]) -> float:
    """The same however the rows were interleaved as they came."""
    return math.fsum(values) / len(values)


def _known(of_nodes: Mapping[str, Any]) -> dict[str, Any] | None:
    """None where nothing is known of any node."""
    return dict(of_nodes) if any(value is not None for value in of_nodes.values()) else None


class _Energy(NamedTuple):
    """What training takes: J, None where that is not known; how it is known; and the time, s, that is not in it."""

    joules: float | None
    source: str | None
    unmeasured_s: float | None


def _energy(run: Run, node: str, steps: Columns) -> _Energy:
    """Of a node's board: measured where it was, else modelled."""
    measured = _measured_energy(run, node)
    return measured if measured.joules is not None else _Energy(*_modelled_energy(run, node, steps), None)


def _measured_energy(run: Run, node: str) -> _Energy:
    """As the node told when it finished, or else in its last sample: evaluations are in it. Of a machine that several
    nodes share, each has an equal part."""
    told = [event for event in run.events_of("finished") if event["node"] == node]
    if told:
        joules, power = told[0].get("energy_j"), told[0].get("power_source")
        unmeasured, whole, until = told[0].get("energy_unmeasured_s") or 0.0, told[0]["time_s"], ""
    else:
        samples = run.telemetry
        mine = np.flatnonzero((samples["node"] == node) & np.isfinite(samples["energy_j"]))
        if not len(mine):
            return _Energy(None, None, None)
        joules, power, unmeasured, whole = (
            samples[name][mine[-1]].item() for name in ("energy_j", "power_source", "energy_unmeasured_s", "host_s")
        )
        until = f", until {format_time(whole)}, the last sample"
    if joules is None:
        return _Energy(None, None, None)
    shared = _sharing(run, node)
    parts = max(1, len(shared))
    whose = f", an equal part of what the machine of {', '.join(shared)} took" if parts > 1 else ""
    told_of = unmeasured > _NEGLIGIBLE * whole
    without = f", without {format_time(unmeasured)} in which it was not known" if told_of else ""
    return _Energy(joules / parts, f"measured: {power}{whose}{without}{until}", unmeasured)


def _sharing(run: Run, node: str) -> list[str]:
    """The nodes that ran on the same machine, this one among them."""
    machines = {event["node"]: event["machine"] for event in run.events_of("sensors") if event["machine"] is not None}
    return [other for other, machine in machines.items() if machine == machines.get(node)]


def _modelled_energy(run: Run, node: str, steps: Columns) -> tuple[float | None, str | None]:
    """The board's power at rest all the time, and what it takes loaded on top of that while it computes, encodes or
    decodes. None where its power in its mode is not known; radios are no part of it."""
    board = run.config.get("boards", {}).get(node, {})
    power = board.get("power_w")
    if not power:
        return None, None
    busy = sum(math.fsum(steps[f"{part}_s"]) for part in ("compute", "encode", "decode"))
    joules = power["idle"] * math.fsum(steps["duration_s"]) + (power["loaded"] - power["idle"]) * busy
    return joules, f"modelled: {board['board']}, mode {board['mode']}"


def _time_to(goal: float | None, evaluations: Sequence[Mapping[str, Any]]) -> float | None:
    for evaluation in evaluations:
        auc = evaluation["metrics"]["auc"]
        if goal is not None and auc is not None and auc >= goal:
            return float(evaluation["time_s"])
    return None


def _mended(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What had to be mended in the scene: bands left out, and over all strips the values that were interpolated or
    clipped at zero and the pixels without any value."""
    if not facts or "bands_dropped" not in facts[0]:
        return None
    counts = {name: sum(strip[name] for strip in facts) for name in ("non_finite", "negative", "empty_pixels")}
    return {"bands_dropped": facts[0]["bands_dropped"], **counts}


def measured(link: Columns) -> dict[str, float | None]:
    """What a link really gave, from its rows (`Run.of_link`).

    `rate_bit_s` is that of back-to-back messages, `delay_s` the mean one-way delay of messages that were awaited,
    `jitter_s` its standard deviation, and `loss` the share of the bytes on the wire that were sent again.
    """
    samples = np.nan_to_num(link["delay_samples"])
    delays = np.nan_to_num(link["delay_s"])
    mean = _ratio(float((delays * samples).sum()), float(samples.sum()))
    squares = samples * ((delays - (mean or 0.0)) ** 2 + np.nan_to_num(link["delay_sd_s"]) ** 2)
    variance = _ratio(float(squares.sum()), float(samples.sum()))
    wire = sum(float(np.nansum(link[f"{part}_bytes"])) for part in ("payload", "header", "retransmitted"))
    return {
        "rate_bit_s": _ratio(float(np.nansum(link["rate_bits"])), float(np.nansum(link["rate_s"]))),
        "delay_s": mean,
        "jitter_s": None if variance is None else variance**0.5,
        "loss": _ratio(float(np.nansum(link["retransmitted_bytes"])), wire),
    }


def disagreement(run: Run) -> int | None:
    """The first step after which the nodes' parameters were not the same; None if there is none."""
    order = np.argsort(run.steps["step"], kind="stable")
    steps, prints = run.steps["step"][order], run.steps["fingerprint"][order]
    differing = np.flatnonzero((steps[1:] == steps[:-1]) & (prints[1:] != prints[:-1]))
    return int(steps[differing[0]]) if len(differing) else None


def _last(times: NDArray[Any]) -> float:
    return float(times.max()) if len(times) else 0.0


def _ratio(numerator: float | None, denominator: float) -> float | None:
    return numerator / denominator if numerator is not None and denominator > 0 else None


def _agree(run: Run, finished: int, digests: set[str]) -> bool | None:
    """None: nothing differs, but not every node came to its end."""
    if len(digests) > 1 or disagreement(run) is not None:
        return False
    return True if finished == len(run.nodes) else None


def as_si(link: LinkSettings) -> dict[str, Any]:
    """One direction of a link as summary.json has it."""
    return {
        "rate_bit_s": link.rate,
        "delay_s": link.delay,
        "jitter_s": link.jitter,
        "jitter_kind": link.jitter_kind,
        "loss": link.loss,
        "bursts": link.bursts.model_dump() if link.bursts else None,
        "queue_bytes": link.queue,
        "overhead_bytes": link.overhead,
        "schedule": [[window.start, window.end] for window in link.schedule] if link.schedule else None,
        "changes": len(link.changes),
        "deadline_s": link.deadline,
        "reorder": link.reorder,
    }
