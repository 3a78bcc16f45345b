"""What a run folder comes to: the content of summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesim.results import PARTS, Columns, Run
from node_agent.events import Sent
from node_agent.job import LinkSettings
from node_agent.plain import plain


def summarise(
    run: Run,
    *,
    seed: int,
    links_imposed: str,
    compressor: Mapping[str, Any],
    workload: Any,
    wall_s: float,
    metrics: Mapping[str, float | None],
    bytes_dense: Mapping[str, int] | None = None,
    applied: Mapping[str, Mapping[str, Any]] | None = None,
    parameters: int | None = None,
    time_to_target_s: float | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """The content of summary.json, computed from what a closed run folder holds.

    Args:
        run: the folder as read; its configuration gives name, nodes, clock and what was asked of the links.
        links_imposed: what imposed the links, "userspace" or "netns".
        compressor: its name and settings.
        workload: its name, or its name and settings.
        wall_s: how long the run took on the host.
        metrics: of the trained model; the last step's mean `loss` is added.
        bytes_dense: per node, what the same steps would have sent uncompressed.
        applied: per directed link ("a->b"), the settings read back from what imposes it.
        parameters: number of trained values, for a run that did not finish.
        time_to_target_s: when the metric first reached its target.
        error: why the run failed, on one line; None: it finished.

    A value that was not measured is None; so is a number that is not finite.
    """
    steps, nodes = run.steps, run.nodes
    rows = {node: run.of_node(node) for node in nodes}
    finished = run.events_of("finished")
    setup = {event["node"]: Sent(**event["sent"]) for event in run.events_of("started")}
    sent = {node: int(rows[node]["bytes_sent"].sum()) for node in nodes}
    values = int(steps["values_sent"].sum())
    time_s = max((event["time_s"] for event in finished), default=_last(steps["time_s"]))
    parameters = finished[0]["parameters"] if finished else parameters
    durations = steps["duration_s"]
    last = [rows[node]["loss"][-1] for node in nodes if len(rows[node]["loss"])]
    digests = {event["params_sha256"] for event in finished}
    agree = _agree(run, len(finished), digests)
    summary = {
        "status": "finished" if error is None else "failed",
        "error": error,
        "name": run.name,
        "seed": seed,
        "nodes": nodes,
        "clock": run.config.get("clock"),
        "links_imposed": links_imposed,
        "compressor": dict(compressor),
        "workload": workload,
        "steps": min((len(rows[node]["step"]) for node in nodes), default=0),
        "time_s": time_s,
        "wall_s": wall_s,
        "time_to_target_s": time_to_target_s,
        "metrics": {"loss": float(np.mean(last)) if last else None, **metrics},
        "bytes_sent": sent,
        "bytes_retransmitted": {
            source: int(np.nansum(run.of_link(source, target)["retransmitted_bytes"])) for source, target in run.ring
        },
        "bytes_setup": {node: setup[node].message_bytes if node in setup else None for node in nodes},
        "bytes_dense": dict(bytes_dense) if bytes_dense is not None else None,
        "ratio_wire": _ratio(sum(bytes_dense.values()) if bytes_dense else None, sum(sent.values())),
        "ratio_values": _ratio(parameters * len(steps["step"]) if parameters else None, values),
        "parameters": parameters,
        "step_time_s": {
            "p50": float(np.percentile(durations, 50)) if len(durations) else None,
            "p95": float(np.percentile(durations, 95)) if len(durations) else None,
            **{part: float(steps[f"{part}_s"].mean()) if len(durations) else None for part in PARTS},
        },
        "link_utilisation": {},
        "links": {},
        "energy_j": None,
        "params_sha256": digests.pop() if len(digests) == 1 and agree else None,
        "nodes_agree": agree,
    }
    for source, target in run.ring:
        name, link = f"{source}->{target}", run.of_link(source, target)
        summary["link_utilisation"][name] = _ratio(float(link["busy_s"].sum()), _last(link["time_s"]))
        asked = run.link_settings.get((source, target))
        summary["links"][name] = {
            "requested": as_si(asked) if asked else None,
            "applied": dict(applied[name]) if applied and name in applied else None,
            "measured": measured(link),
        }
    content: dict[str, Any] = plain(summary)
    return content


def measured(link: Columns) -> dict[str, float | None]:
    """What a link really gave, from its rows (`Run.of_link`).

    `rate_bit_s` is that of back-to-back messages, `delay_s` the mean one-way delay of messages that were awaited, and
    `loss` the share of the bytes on the wire that were sent again.
    """
    samples = np.nan_to_num(link["delay_samples"])
    delays = np.nan_to_num(link["delay_s"])
    wire = sum(float(np.nansum(link[f"{part}_bytes"])) for part in ("payload", "header", "retransmitted"))
    return {
        "rate_bit_s": _ratio(float(np.nansum(link["rate_bits"])), float(np.nansum(link["rate_s"]))),
        "delay_s": _ratio(float((delays * samples).sum()), float(samples.sum())),
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
        "loss": link.loss,
        "schedule": [[window.start, window.end] for window in link.schedule] if link.schedule else None,
    }
