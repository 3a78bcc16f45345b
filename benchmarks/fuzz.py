"""Payloads of every compressor, changed by chance or by malice, decoded: a PayloadError or gradients, nothing else.

Most have a checksum that fits again, so that what is behind it is reached. Decoded by who knows the layers, and by who
learns them from the payload; half of what the latter is given are messages about a layer of any shape in any basis.
Exits 1 at the first that ends otherwise, and prints it.
"""

from __future__ import annotations

import argparse
import collections
import re
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from node_agent.compression import create
from node_agent.compression.octets import PayloadError
from node_agent.compression.settings import CATALOGUE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from mutations import drawn, mutated

SHAPES: list[tuple[int, ...]] = [(40, 30), (7,), (16, 8, 3, 3), (0, 7), (), (3, 0, 2), (33, 35), (1,), (0,)]
ALLOWED = 64 * 4 * sum(int(np.prod(shape)) for shape in SHAPES)
"""bytes that decoding may take where the layers are known: indices and values of every entry, several times over"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payloads", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    ends: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    each = -(-options.payloads // len(CATALOGUE))
    largest = 0
    for name in CATALOGUE:
        compressor, stranger = create(name), create(name)
        gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]
        payload = bytes(compressor.encode(gradients))
        for number in range(each):
            unknown = number % 4 == 0
            decoder = stranger if unknown else compressor
            method = compressor.settings.wire_id
            octets = drawn(method, generator) if unknown and number % 8 else mutated(payload, generator)
            watched = number % 50 == 1
            if watched:
                tracemalloc.start()
            try:
                decoder.decode(octets)
            except PayloadError as error:
                ends[re.sub(r"[-+]?\d[\d.e+]*", "#", str(error))[:70]] += 1
            except BaseException as error:
                print(f"{name}, payload {number}: {type(error).__name__}: {error}\n{octets.hex()}")
                sys.exit(1)
            else:
                ends["(decoded)"] += 1
            if watched:
                largest = max(largest, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    table = Table(title=f"{each * len(CATALOGUE):,} payloads of {len(CATALOGUE)} compressors")
    table.add_column("ended in")
    table.add_column("how often", justify="right")
    for end, count in ends.most_common(25):
        table.add_row(end, f"{count:,}")
    table.add_row(
        f"{max(0, len(ends) - 25)} other messages", f"{sum(ends.values()) - sum(c for _, c in ends.most_common(25)):,}"
    )
    Console(width=110).print(table)
    print(f"{time.monotonic() - began:.0f} s; Python's memory at most {largest / 1e6:.2f} MB while decoding")
    if largest > ALLOWED:
        sys.exit(f"more than {ALLOWED / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
