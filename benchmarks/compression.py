"""Every compressor on one large gradient: time beside copying it, bits on the wire beside the entropy bound, memory.

One thread. Methods and what they are compared with take turns in one process; figures are medians. Encoding includes
error feedback and the payload's bytes. At the end a step with the exchange behind backward, as in overlap.py. Writes
results/reference/compression.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import overlap
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from node_agent.compression import codec, create, indices
from node_agent.compression.compressor import Compressor
from node_agent.compression.settings import CATALOGUE

RESULT = Path(__file__).parents[1] / "results" / "reference" / "compression.json"
SIDE = 4472
"""rows and columns: 20 million entries"""
WARM = 2
"""steps before measuring: memories and scratch exist by then"""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in CATALOGUE if name != "size-adaptive"},
    "threshold": ("threshold", {"threshold": 2.6}),
    "strom": ("strom", {"threshold": 2.6}),
    "dgc": ("dgc", {"density": 0.01, "warmup_steps": 0}),
    "nsi": ("nsi", {"warmup_steps": 0}),
    "nsi zscore": ("nsi", {"warmup_steps": 0, "kind": "zscore"}),
    "nsi int8": ("nsi", {"warmup_steps": 0, "values": "int8"}),
    "topk float16": ("topk", {"values": "float16"}),
    "topk int4": ("topk", {"values": "int4"}),
    "topk 0.001": ("topk", {"density": 0.001}),
    "gcc zero fill": ("gcc", {"fill": "zero"}),
    "gcc local mask": ("gcc", {"mask": "local"}),
    "qsgd, 7 levels": ("qsgd", {"levels": 7}),
    "powersgd, rank 4": ("powersgd", {"rank": 4}),
}
"""name in the table: compressor and settings; thresholds are those of a density of about 0.01 here"""
DENSITIES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001)
GOALS = {
    "topk": ("faster than torch.topk", 6.0),
    "nsi": ("faster than torch.topk", 5.0),
    "gcc": ("clones", 12.0),
    "qsgd": ("clones", 12.0),
}


T = TypeVar("T")


def timed(call: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    began = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - began, result


def peak_growth(call: Callable[[], Any]) -> int:
    """Bytes by which this process's resident memory rises above what it was, at its highest during the call."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    result = call()
    grown = _status("VmHWM") - before
    del result
    return grown


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def index_bound(entries: int, kept: int) -> float:
    """log2 of the number of ways to choose, bits."""
    ways = math.lgamma(entries + 1) - math.lgamma(kept + 1) - math.lgamma(entries - kept + 1)
    return ways / math.log(2)


def largest(gradient: Tensor, count: int) -> Any:
    return torch.topk(gradient.abs().view(-1), count)


def method(name: str, values: dict[str, Any], gradient: Tensor, repetitions: int) -> dict[str, Any]:
    compressor: Compressor = create(name, **values)
    for _ in range(WARM):
        payload = compressor.encode([gradient])
    times: dict[str, list[float]] = {"encode": [], "decode": [], "clone": [], "topk": []}
    count = max(1, int(0.01 * gradient.numel()))
    for repetition in range(repetitions):
        times["clone"].append(timed(gradient.clone)[0])
        took, payload = timed(compressor.encode, [gradient])
        times["encode"].append(took)
        times["decode"].append(timed(compressor.decode, payload)[0])
        if repetition < 3 and name in ("topk", "nsi"):
            times["topk"].append(timed(largest, gradient, count)[0])
    grown = peak_growth(lambda: compressor.encode([gradient]))
    median = {what: statistics.median(values) for what, values in times.items() if values}
    # What the values take by themselves, and the cheapest way to say which of them they are.
    (one,) = codec.unpack(payload.octets, compressor.settings.wire_id)
    values_bits = 8 * one.octets.numel()
    bits = 8 * len(payload)
    bound = values_bits + (
        index_bound(gradient.numel(), one.values) if one.basis.kind == 1 else 8 * len(one.basis.write())
    )
    return {
        "encode_s": median["encode"],
        "decode_s": median["decode"],
        "clone_s": median["clone"],
        "topk_s": median.get("topk"),
        "encode_clones": median["encode"] / median["clone"],
        "decode_clones": median["decode"] / median["clone"],
        "bits_per_element": bits / gradient.numel(),
        "bits_over_bound": bits / bound,
        "kept": payload.kept / gradient.numel(),
        "payload_bytes": len(payload),
        "bytes_grown": grown,
        "reduction": compressor.reduction,
    }


def index_cost(density: float, entries: int, repetitions: int) -> dict[str, float]:
    generator = np.random.default_rng(1)
    kept = int(density * entries)
    units = np.sort(generator.choice(entries, kept, replace=False))
    encoding, decoding = [], []
    for _ in range(repetitions):
        took, (form, octets) = timed(indices.pack, units, entries)
        encoding.append(took)
        took, (back, _) = timed(indices.unpack, form, memoryview(octets), kept, entries)
        decoding.append(took)
        assert np.array_equal(back, units)
    return {
        "density": density,
        "bits": 8 * len(octets) / kept,
        "bound": index_bound(entries, kept) / kept,
        "over_bound": 8 * len(octets) / index_bound(entries, kept),
        "encode_per_s": kept / statistics.median(encoding),
        "decode_per_s": kept / statistics.median(decoding),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of the gradient")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=None, help="names of the table's rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(options.side, options.side, generator=generator)
    load = os.getloadavg()[0]
    names = options.only or list(VARIANTS)
    rows: dict[str, dict[str, Any]] = {}
    console = Console(width=120)
    for label in names:
        rows[label] = method(*VARIANTS[label], gradient, options.repetitions)
    costs = [index_cost(density, gradient.numel(), options.repetitions) for density in DENSITIES]
    console.print(_methods(rows, gradient.numel()))
    console.print(_indices(costs))
    overlapping = overlap.measured() if options.only is None else []
    if overlapping:
        console.print(overlap.rendered(overlapping))
    for line in _verdicts(rows):
        console.print(line, highlight=False)
    console.print(f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    if options.only is None:
        content = {
            "entries": gradient.numel(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "load_before": load,
            "methods": rows,
            "indices": costs,
            "overlap": overlapping,
        }
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"written: {RESULT.relative_to(RESULT.parents[2])}")


def _methods(rows: dict[str, dict[str, Any]], entries: int) -> Table:
    table = Table(title=f"one gradient of {entries:,} float32, one thread")
    for heading in ("", "travels", "kept", "bits/element", "of bound", "encode", "decode", "MB grown", "MB payload"):
        table.add_column(heading, justify="left" if heading in ("", "travels") else "right")
    for label, row in rows.items():
        table.add_row(
            label,
            row["reduction"],
            f"{row['kept']:.5f}",
            f"{row['bits_per_element']:.4f}",
            f"{row['bits_over_bound']:.4f}",
            f"{row['encode_clones']:.2f} clones",
            f"{row['decode_clones']:.2f} clones",
            f"{row['bytes_grown'] / 1e6:.1f}",
            f"{row['payload_bytes'] / 1e6:.2f}",
        )
    return table


def _indices(costs: list[dict[str, float]]) -> Table:
    table = Table(title="indices drawn uniformly at random")
    for heading in ("density", "bits", "log2 C(n, k) / k", "factor", "encoded M/s", "decoded M/s"):
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(
            f"{cost['density']:g}",
            f"{cost['bits']:.3f}",
            f"{cost['bound']:.3f}",
            f"{cost['over_bound']:.4f}",
            f"{cost['encode_per_s'] / 1e6:.0f}",
            f"{cost['decode_per_s'] / 1e6:.0f}",
        )
    return table


def _verdicts(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, (what, goal) in GOALS.items():
        if name in rows:
            row = rows[name]
            fast = what != "clones"
            found = row["topk_s"] / row["encode_s"] if fast else row["encode_clones"]
            met = found >= goal if fast else found <= goal
            sign = "at least" if fast else "at most"
            lines.append(f"{name}: {found:.1f} {what} ({sign} {goal:g} wanted{'' if met else ': MISSED'})")
    return lines


if __name__ == "__main__":
    main()
