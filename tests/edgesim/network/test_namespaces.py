"""Real namespaces: small, and gone after each test."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from textwrap import indent
from typing import Any

import psutil
import pytest

from edgesim.exec import Output, run_everywhere
from edgesim.network import helpers, records, shaping
from edgesim.network.keeper import MOST_BUFFERED
from edgesim.network.namespaces import Network, NetworkError, probe, run_id, warm_up
from edgesim.network.plan import Applied, Kernel, Means, Plan, Wire, data_address
from node_agent.job import Change, LinkSettings, Window

CONNECTED = """
import json, os, socket, time
rank, target = os.environ["RANK"], os.environ["EDGESIM_ADDRESSES"].split()[{to}]
if rank == "0":
    while True:
        try:
            connection = socket.create_connection((target, 7000))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
{send}
    connection.close()
elif rank == "{to}":
    with socket.create_server((target, 7000)) as server:
        connection, peer = server.accept()
{receive}
"""


@pytest.fixture(autouse=True)
def this_tests_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield
    list(records.clean())


def network(kernel: Kernel, nodes: int = 2, beyond: Means = "relay", **properties: Any) -> Network:
    """A ring of nodes 0, 1, … whose links are all the same, both ways."""
    pairs = [(0, 1)] if nodes == 2 else [(rank, (rank + 1) % nodes) for rank in range(nodes)]
    wires = []
    for here, there in pairs:
        forward, backward = (
            LinkSettings(source=f"n{source}", target=f"n{target}", **properties)
            for source, target in ((here, there), (there, here))
        )
        means: Means = beyond if shaping.beyond_rate(forward) else "kernel"
        wires.append(Wire((here, there), forward, backward, means))
    return Network(Plan(f"test-{os.getpid()}", tuple(f"n{rank}" for rank in range(nodes)), tuple(wires)))


def everywhere(made: Network, code: str) -> list[str]:
    """What one node's Python code prints on all nodes."""
    printed, errors = io.BytesIO(), io.BytesIO()
    command = [sys.executable, "-c", code]
    assert run_everywhere(made, command, Output(made.plan.nodes, printed, errors), 5.0) == 0, errors.getvalue()
    return [line.partition(" | ")[2] for line in printed.getvalue().decode().splitlines()]


def connected(made: Network, send: str, receive: str, to: int = 1) -> Any:
    """What the nodes print, one JSON value, when node 0 runs `send` and node `to` runs `receive`, both with the two
    ends of one `connection`."""
    (line,) = everywhere(made, CONNECTED.format(to=to, send=indent(send, 4 * " "), receive=indent(receive, 4 * " ")))
    return json.loads(line)


def applied(made: Network) -> dict[str, Applied]:
    return {one.link.name: one for one in made.applied()}


def test_what_is_asked_is_read_back_from_the_kernel(kernel: Kernel) -> None:
    with network(kernel, rate=20e6) as made:
        found = applied(made)
        assert set(found) == {"n0->n1", "n1->n0"}
        one = found["n0->n1"]
        assert one.means == "kernel"
        assert (one.link.rate, one.link.overhead, one.link.queue) == (20e6, 0, 250_000)
        assert one.burst == pytest.approx(4005, abs=5)
        assert one.offloads == ()
        assert one.counters.packets == 0, "nothing travels unasked"


def test_a_link_without_a_rate_is_left_as_it_is(kernel: Kernel) -> None:
    with network(kernel) as made:
        one = applied(made)["n0->n1"]
        assert (one.link.rate, one.burst) == (None, None)


@pytest.mark.alone
def test_payload_has_the_rate_that_headers_leave(kernel: Kernel) -> None:
    """1.448 MB of payload are 1000 full packets: 0.6 s at 20 Mbit/s."""
    receive = (
        "first = got = len(connection.recv(65536))\n"
        "began = time.monotonic()\n"
        "while part := connection.recv(65536):\n"
        "    got += len(part)\n"
        "print(8 * (got - first) / (time.monotonic() - began))"
    )
    with network(kernel, rate=20e6) as made:
        rate = connected(made, "connection.sendall(bytes(1_448_000))", receive)
        assert rate == pytest.approx(shaping.payload_rate(20e6), rel=0.04)
        counters = applied(made)["n0->n1"].counters
        assert counters.dropped == 0
        assert counters.bytes == pytest.approx(1000 * 1500, rel=0.01)
        assert counters.packets == pytest.approx(1000, abs=30), "each is sent by itself, as on a wire"


def test_framing_takes_its_share(kernel: Kernel) -> None:
    with network(kernel, rate=20e6, overhead=100) as made:
        connected(made, "connection.sendall(bytes(144_800))", "while connection.recv(65536): pass\nprint(0)")
        one = applied(made)["n0->n1"]
        assert one.link.overhead == 100
        assert one.counters.bytes == pytest.approx(100 * 1600, rel=0.05)


def test_nodes_that_share_no_link_are_reached_over_others(kernel: Kernel) -> None:
    """In a ring of four, packets between 0 and 2 go through 1, both ways."""
    with network(kernel, 4, rate=50e6) as made:
        receive = "while connection.recv(65536): pass\nprint(json.dumps(peer[0]))"
        assert connected(made, "connection.sendall(bytes(100_000))", receive, to=2) == data_address(0)
        carried = {name: one.counters.packets for name, one in applied(made).items()}
        assert carried["n0->n1"] == carried["n1->n2"] > 70
        assert carried["n2->n1"] == carried["n1->n0"] > 3
        assert sum(carried.values()) == 2 * (carried["n0->n1"] + carried["n2->n1"])


def test_the_management_path_passes_the_links_by(kernel: Kernel) -> None:
    code = (
        "import os, socket, time\n"
        "address = (os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']))\n"
        "if os.environ['RANK'] == '0':\n"
        "    server = socket.create_server(address); server.accept()[0].sendall(bytes(500_000))\n"
        "else:\n"
        "    while True:\n"
        "        try: connection = socket.create_connection(address); break\n"
        "        except ConnectionRefusedError: time.sleep(0.05)\n"
        "    got = 0\n"
        "    while part := connection.recv(65536): got += len(part)\n"
        "    print(got)\n"
    )
    with network(kernel, rate=1000.0) as made:
        assert everywhere(made, code) == ["500000"], "over a link it would take more than an hour"
        assert all(one.counters.packets == 0 for one in made.applied())


def test_a_change_is_made_in_place(kernel: Kernel) -> None:
    """A connection outlives it: 10 Mbit/s for a second, then 40."""
    change = Change(at=1.0, rate=40e6)
    with network(kernel, rate=10e6, changes=(change,)) as made:
        assert made.plan.changing
        receive = "got = 0\nwhile part := connection.recv(65536): got += len(part)\nprint(got)"
        assert connected(made, "connection.sendall(bytes(4_000_000))", receive) == 4_000_000
        one = applied(made)["n0->n1"]
        assert one.link.rate == 40e6
        assert one.counters.dropped == 0
        made.begin(time.monotonic() + 5)
        assert applied(made)["n0->n1"].link.rate == 10e6, "the run's clock was set back, and the link with it"


ECHOED = """
times = []
for _ in range(21):
    began = time.monotonic(); connection.sendall(b'x'); connection.recv(1)
    times.append(time.monotonic() - began)
print(sorted(times)[10])
"""
ECHO = "while octet := connection.recv(1): connection.sendall(octet)"


@pytest.mark.alone
def test_delay_through_the_relay(relaying: Kernel) -> None:
    with network(relaying, rate=10e6, delay=0.02) as made:
        assert connected(made, ECHOED, ECHO) == pytest.approx(0.04, abs=0.003)
        one = applied(made)["n0->n1"]
        assert (one.means, one.link.delay, one.link.rate) == ("relay", 0.02, 10e6)
        assert one.relayed is not None
        assert one.relayed.packets_out == one.relayed.packets_in > 20


@pytest.mark.alone
def test_delay_by_netem(kernel: Kernel) -> None:
    if not kernel.netem:
        pytest.skip("this kernel has no netem")
    with network(kernel, beyond="netem", rate=10e6, delay=0.02) as made:
        assert connected(made, ECHOED, ECHO) == pytest.approx(0.04, abs=0.003)
        one = applied(made)["n0->n1"]
        assert one.link.delay == pytest.approx(0.02, rel=1e-4)
        assert one.link.rate == 10e6


def test_a_closed_window_holds_a_connection_up(relaying: Kernel) -> None:
    """Nothing gets through for two seconds of the run's clock, which starts when the commands have been started."""
    with network(relaying, rate=10e6, schedule=(Window(start=2.0, end=3600.0),)) as made:
        began = time.monotonic()
        connected(made, "connection.sendall(b'x')", "print(len(connection.recv(1)))")
        assert time.monotonic() - began > 2.0
        relayed = applied(made)["n0->n1"].relayed
        assert relayed is not None
        assert relayed.held > 0


def test_nothing_remains(kernel: Kernel) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with network(kernel, rate=1e6) as made:
        assert [path.name for path in records.folder().iterdir()] == [f"{made.plan.run}.json"]
        namespaces = {os.stat(entrance.network).st_ino for entrance in made.entrances}
        assert len(namespaces) == 2
        assert os.stat("/proc/self/ns/net").st_ino not in namespaces
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    assert not list(records.folder().iterdir())


def test_a_run_that_is_going_on_is_not_taken_over(kernel: Kernel) -> None:
    with network(kernel) as made, pytest.raises(NetworkError, match="is going on already"):
        Network(made.plan).__enter__()


def test_a_keeper_that_is_gone_is_told_of(kernel: Kernel) -> None:
    with network(kernel) as made:
        (keeper,) = (one for one in psutil.Process().children() if made.plan.run in one.cmdline())
        keeper.kill()
        with pytest.raises(NetworkError, match="the process that holds the network ended"):
            made.applied()


def test_a_change_in_some_weeks_is_waited_for(kernel: Kernel) -> None:
    """40 days are more milliseconds than poll(2) counts."""
    with network(kernel, rate=10e6, changes=(Change(at=40 * 86400.0, rate=20e6),)) as made:
        made.begin(time.monotonic())
        time.sleep(0.1)
        assert applied(made)["n0->n1"].link.rate == 10e6


def test_a_change_that_fails_is_told_of(kernel: Kernel) -> None:
    """A rate that no plan lets pass: its bucket's size is no number of 32 bits."""
    with network(kernel, rate=10e6, changes=(Change(at=0.2, rate=8.0),)) as made:
        made.begin(time.monotonic())
        (keeper,) = (one for one in psutil.Process().children() if made.plan.run in one.cmdline())
        keeper.wait(30)
        for _ in range(2):
            with pytest.raises(NetworkError, match=r"^network: follow: error: .* format requires"):
                made.applied()


def test_a_keeper_whose_controller_is_gone_ends_without_a_word() -> None:
    """Also one that is at work for it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "edgesim.network.keeper", str(theirs.fileno()), "test"],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        connection = Connection(ours.detach())
        connection.send(("probe",))
        connection.close()
    assert keeper.communicate(timeout=60)[1] == ""
    assert keeper.returncode == 0


def test_windows_may_be_as_wide_as_long_links_take(kernel: Kernel) -> None:
    code = "print([int(open(f'/proc/sys/net/ipv4/tcp_{way}mem').read().split()[2]) for way in 'rw'])"
    with network(kernel) as made:
        assert everywhere(made, code) == [f"[{MOST_BUFFERED}, {MOST_BUFFERED}]"] * 2


def test_a_transfer_warms_up_for_as_long_as_tcp_needs() -> None:
    """300 ms each way are round trips of 600 ms, of which there are four; of a short one a second."""
    there, back = (LinkSettings(source="a", target="b", delay=delay) for delay in (0.1, 0.3))
    assert warm_up((there, back)) == pytest.approx(2.4)
    assert warm_up((there,)) == 1.0
    assert warm_up(()) == 1.0


def test_a_runs_name_is_a_file_name_however_long_its_folders_is() -> None:
    name = run_id(Path("/results") / (60 * "\N{ROCKET}"))
    assert len(name.encode()) < 100
    assert name.startswith(16 * "\N{ROCKET}" + "-")
    assert name != run_id(Path("/results") / (61 * "\N{ROCKET}"))


def test_modules_in_the_users_folder_are_not_taken(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a folder that PYTHONPATH names relative to the user's are."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.path.relpath(Path(records.__file__).parents[2])}:")
    assert probe() == kernel
    assert helpers.environment(A="b")["PYTHONPATH"] == str(Path(records.__file__).parents[2])
    assert helpers.environment(A="b")["A"] == "b"


AS_NOBODY = """
import ctypes, os
from edgesim.network.keeper import Keeper
from edgesim.network.plan import Kernel, make_plan
from edgesim.network.syscalls import enter
from edgesim.topology.schema import Topology
from pathlib import Path
topology = Topology.model_validate({"nodes": ["a", "b"], "defaults": {"link": {"rate": "3 Mbit/s"}}})
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: its own files in /proc are its own again, as after an exec
reading, writing = os.pipe()
if (child := os.fork()) == 0:
    enter(*os.read(reading, 4096).decode().split())
    os._exit("to-1:" not in Path("/proc/net/dev").read_text())
keeper = Keeper()
entrances = keeper.build(make_plan(topology, "nobody", Kernel())).entrances
assert all(entrance.user is not None for entrance in entrances)
os.write(writing, f"{entrances[0].network} {entrances[0].user}".encode())
assert os.waitpid(child, 0)[1] == 0
print([one.link.rate for one in keeper.applied()])
"""


def test_links_are_imposed_without_privileges(kernel: Kernel) -> None:
    """By a user who is nobody, in a user namespace of his own."""
    if os.geteuid() != 0:
        pytest.skip("this user has no privileges: every other test here shows it")
    done = _python(AS_NOBODY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[3000000.0, 3000000.0]"


FORBIDDEN = """
import os
from pathlib import Path
from edgesim.network.syscalls import CLONE_NEWUSER, unshare
user = os.geteuid()
unshare(CLONE_NEWUSER)  # a user namespace, whose limits its owner may lower
Path("/proc/self/uid_map").write_text(f"0 {user} 1")
Path("/proc/sys/user/max_net_namespaces").write_text("0")
from edgesim.cli import main
main()
"""


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_forbidden_namespaces_are_refused(verb: str, kernel: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("nodes: [a, b]\nemulation: {links: netns}\n")
    rest = ["--", "true"] if verb == "exec" else ["--out", str(tmp_path / "run")]
    done = _python(FORBIDDEN, verb, str(file), *rest)
    assert done.returncode == 2, done.stderr
    assert f"{file}:2: emulation.links: found no network namespace here" in done.stderr
    assert "max_net_namespaces" in done.stderr
    assert not (tmp_path / "run").exists()


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
