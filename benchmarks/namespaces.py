"""Networks of namespaces: what it takes to make one, what its links carry, and what Gloo's own all-reduce takes there.

python benchmarks/namespaces.py [setup] [goodput] [all-reduce]
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from edgesim.exec import Output, run_everywhere
from edgesim.network.namespaces import Network, probe
from edgesim.network.plan import make_plan
from edgesim.network.shaping import payload_rate
from edgesim.topology.schema import Topology

KERNEL = probe()

TRANSFER = """
import json, os, socket, time
rank, (here, there) = int(os.environ["RANK"]), os.environ["EDGESIM_ADDRESSES"].split()
seconds, lead = {seconds}, {lead}
if rank == 0:
    while True:
        try:
            connection = socket.create_connection((there, 7000))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    octets = bytes(1 << 16)
    try:
        while True:
            connection.sendall(octets)
    except OSError:
        pass
else:
    with socket.create_server((there, 7000)) as server:
        connection, _ = server.accept()
    began, received, counted = time.monotonic(), 0, None
    while True:
        received += len(connection.recv(1 << 18))
        now = time.monotonic()
        if counted is None and now - began > lead:
            counted = now, received
        if counted is not None and now - counted[0] > seconds:
            break
    print(json.dumps(8 * (received - counted[1]) / (now - counted[0])))
"""

ALL_REDUCE = """
import json, os, time
import torch
import torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
tensor = torch.ones({octets} // 4)
dist.all_reduce(tensor[:1024].clone())
taken = []
for _ in range({repeats}):
    dist.barrier()
    began = time.monotonic()
    dist.all_reduce(tensor)
    taken.append(time.monotonic() - began)
if dist.get_rank() == 0:
    print(json.dumps(taken))
dist.barrier()
os._exit(0)
"""


def network(nodes: int, **link: Any) -> Network:
    names = [f"n{rank}" for rank in range(nodes)]
    topology = Topology.model_validate({"nodes": names, "defaults": {"link": link}})
    return Network(replace(make_plan(topology, f"bench-{os.getpid()}", KERNEL), seed=1))


def run(made: Network, code: str) -> Any:
    """What the nodes' Python code printed, one JSON value."""
    printed, errors = io.BytesIO(), io.BytesIO()
    code_of_worst = run_everywhere(made, [sys.executable, "-c", code], Output(made.plan.nodes, printed, errors), 5.0)
    if code_of_worst:
        raise RuntimeError(errors.getvalue().decode())
    return json.loads(printed.getvalue().decode().partition("| ")[2])


def measure_setup(console: Console) -> None:
    table = Table("nodes in a ring", "set-up", "tear-down", "of it", title="Set-up, median of 3")
    for relayed in (False, True):
        for nodes in (4, 8, 16, 32):
            up, down = [], []
            for _ in range(3):
                made = network(nodes, rate="10 Mbit/s", **({"delay": "5 ms"} if relayed else {}))
                began = time.monotonic()
                made.__enter__()
                up.append(time.monotonic() - began)
                began = time.monotonic()
                made.close()
                down.append(time.monotonic() - began)
            what = "kernel and relay" if relayed else "kernel alone"
            table.add_row(str(nodes), f"{statistics.median(up):.2f} s", f"{statistics.median(down):.2f} s", what)
    console.print(table)


def measure_goodput(console: Console) -> None:
    title = "TCP payload, kernel alone, MTU 1500, against rate x 1448/1500"
    table = Table("rate", "expected", "measured", "ratio", title=title)
    for rate in (0.1e6, 1e6, 10e6, 100e6, 200e6, 500e6):
        lead, seconds = (5.0, 20.0) if rate < 1e6 else (1.0, 4.0)
        with network(2, rate=f"{rate / 1e6} Mbit/s") as made:
            measured = run(made, TRANSFER.format(lead=lead, seconds=seconds))
        expected = payload_rate(rate)
        columns = (f"{rate / 1e6:g} Mbit/s", f"{expected / 1e6:.4g} Mbit/s", f"{measured / 1e6:.4g} Mbit/s")
        table.add_row(*columns, f"{measured / expected:.4f}")
    console.print(table)


def measure_all_reduce(console: Console) -> None:
    nodes, octets = 4, 4 * 2**20
    table = Table("rate", "2 (N-1)/N S/B", "Gloo", "ratio", title=f"All-reduce of 4 MiB over {nodes} nodes in a ring")
    for rate, repeats in ((10e6, 2), (100e6, 3)):
        with network(nodes, rate=f"{rate / 1e6} Mbit/s") as made:
            taken = statistics.median(run(made, ALL_REDUCE.format(octets=octets, repeats=repeats)))
        bound = 2 * (nodes - 1) / nodes * 8 * octets / rate
        table.add_row(f"{rate / 1e6:g} Mbit/s", f"{bound:.3f} s", f"{taken:.3f} s", f"{taken / bound:.3f}")
    console.print(table)


PARTS = {"setup": measure_setup, "goodput": measure_goodput, "all-reduce": measure_all_reduce}


def main(asked: Sequence[str]) -> None:
    console = Console(width=110)
    for name in asked or PARTS:
        PARTS[name](console)
    console.print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
