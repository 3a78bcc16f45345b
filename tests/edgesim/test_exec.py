"""Commands on every node."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import command, edgesim

from edgesim import exec as module
from edgesim.exec import LONGEST_LINE, UPDATE_EVERY, Output, _Lines, run_everywhere
from edgesim.network import namespaces, records
from edgesim.network.namespaces import Network, NetworkError, probe
from edgesim.network.plan import Kernel, make_plan
from edgesim.network.supervise import NOT_EXECUTABLE
from edgesim.topology.events import pauses
from edgesim.topology.reader import read
from node_agent.job import Entrance

PATIENCE = 120.0


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    found = probe()
    if found.forbidden or found.buckets or found.congestion:
        pytest.skip("no shaped namespaces here")
    return found


@pytest.fixture
def file(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three nodes; skips where namespaces cannot be had. Records are the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "three.yaml"
    path.write_text("nodes: [sat-0, sat-1, b]\ndefaults: {link: {rate: 10 Mbit/s}}\n")
    return path


class Everywhere:
    """Commands on the nodes of a small topology, from this process."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self._kernel = kernel
        self._file = folder / "some.yaml"
        self._printed = folder / "printed"
        self.network: Network

    def __call__(self, topology: str, *shell: str, grace: float = 0.1, where: Path = Path()) -> int:
        self._file.write_text(topology)
        read_topology = read(self._file)
        plan = make_plan(read_topology, f"test-exec-{os.getpid()}", self._kernel)
        when = [pauses(read_topology.events, name) for name in plan.nodes]
        with Network(plan) as self.network, self._printed.open("wb") as stream:
            os.chdir(where)
            return run_everywhere(self.network, shell, Output(plan.nodes, stream, stream), grace, when)

    def printed(self) -> list[str]:
        return self._printed.read_text().splitlines()


@pytest.fixture
def everywhere(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Everywhere:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(module.__file__).parents[1]))
    return Everywhere(kernel, tmp_path)


TWO = "nodes: [a, b]\ndefaults: {link: {rate: 10 Mbit/s}}\n"


def eventually(condition: Callable[[], bool], why: object = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


def sleeping(argument: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline() == ["sleep", argument]:
                found.append(process)
    return found


def test_a_node_whose_supervisor_was_killed_has_failed_and_leaves_nothing(everywhere: Everywhere) -> None:
    shell = "if test $RANK = 0; then kill -9 $PPID; exec sleep 60.0777; fi; sleep 60"
    assert everywhere(TWO, "sh", "-c", shell) == 128 + signal.SIGKILL
    assert everywhere.printed() == ["a | edgesim: the supervisor of this node was killed by SIGKILL"]
    assert sleeping("60.0777") == []


def test_a_supervisor_that_is_stopped_holds_nothing_up(everywhere: Everywhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KILLED_AFTER", 0.1)
    shell = "if test $RANK = 0; then kill -STOP $PPID; exec sleep 60.0778; fi; sleep 0.3; exit 4"
    assert everywhere(TWO, "sh", "-c", shell) == 4
    assert sleeping("60.0778") == []


@pytest.mark.parametrize(
    ("which", "asleep"), [("edgesim.network.keeper", "60.0779"), ("edgesim.network.forwarding", "60.0780")]
)
def test_nodes_do_not_outlive_their_network(everywhere: Everywhere, kernel: Kernel, which: str, asleep: str) -> None:
    """The second link has a delay that a kernel without netem leaves to a relay."""

    def kill_it() -> None:
        eventually(lambda: len(sleeping(asleep)) == 2)
        for process in map(psutil.Process, everywhere.network.processes):
            if which in process.cmdline():
                process.kill()
                return
        for process in sleeping(asleep):
            process.kill()

    if kernel.netem and which == "edgesim.network.forwarding":
        pytest.skip("this kernel needs no relay")
    topology = "nodes: [a, b]\ndefaults: {link: {rate: 10 Mbit/s, delay: 5 ms}}\n"
    killer = threading.Thread(target=kill_it)
    killer.start()
    with pytest.raises(NetworkError, match="has ended, and every node was ended with it"):
        everywhere(topology, "sleep", asleep)
    killer.join()
    assert sleeping(asleep) == []


def test_a_node_that_pauses_is_stopped_and_goes_on(everywhere: Everywhere) -> None:
    stopped, over = set(), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if process.status() == psutil.STATUS_STOPPED:
                        given = process.environ()
                        stopped.add((given.get(records.TOKEN), given.get("EDGESIM_NODE")))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        topology = TWO + "events: [{at: 200 ms, event: pause, node: a, for: 500 ms}]\n"
        assert everywhere(topology, "sh", "-c", "sleep 1; echo done") == 0
    finally:
        over.set()
        watching.join()
    assert sorted(everywhere.printed()) == ["a | done", "b | done"]
    assert [node for token, node in stopped if token == everywhere.network.token] == ["a"]


def test_a_process_that_cannot_be_started_is_told(everywhere: Everywhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "executable", "/no/such/python")
    monkeypatch.setattr(Network, "__enter__", lambda network: network)
    monkeypatch.setattr(Network, "entrances", [Entrance(network="/proc/self/ns/net")] * 2)
    monkeypatch.setattr(Network, "token", "0")
    with pytest.raises(NetworkError, match=r"^a: no process can be started: No such file or directory$"):
        everywhere(TWO, "true")


@pytest.fixture
def asked_before(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this kernel can do is not tried out anew."""
    monkeypatch.setattr(namespaces, "probe", lambda: kernel)


@pytest.mark.usefixtures("asked_before")
def test_a_command_finds_what_torchrun_sets_and_its_neighbour(file: Path) -> None:
    code = (
        "import os, socket\n"
        "rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "addresses = os.environ['EDGESIM_ADDRESSES'].split()\n"
        "server = socket.create_server((addresses[rank], 7000))\n"
        "def dial(address):\n"
        "    while True:\n"
        "        try: return socket.create_connection((address, 7000))\n"
        "        except ConnectionRefusedError: pass\n"
        "following = dial(addresses[(rank + 1) % size])\n"
        "following.sendall(os.environ['EDGESIM_NODE'].encode()); following.close()\n"
        "names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'GLOO_SOCKET_IFNAME')\n"
        "heard = server.accept()[0].recv(100).decode()\n"
        "interfaces = [name for _, name in socket.if_nameindex()]\n"
        "print(heard, *(os.environ[name] for name in names), os.environ['GLOO_SOCKET_IFNAME'] in interfaces)\n"
    )
    done = edgesim("exec", file, "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "b     | sat-1 2 3 0 198.19.0.1 29500 data0 True",
        "sat-0 | b 0 3 0 198.19.0.1 29500 data0 True",
        "sat-1 | sat-0 1 3 0 198.19.0.1 29500 data0 True",
    ]


@pytest.mark.usefixtures("asked_before")
def test_the_worst_exit_code_counts_and_signals_as_shells_count_them(file: Path) -> None:
    done = edgesim("exec", file, "--", "sh", "-c", 'test "$RANK" != 1 || kill -SEGV $$; exit $((RANK * 2))')
    assert done.returncode == 128 + signal.SIGSEGV


def test_what_cannot_be_started_is_said_by_each_node(file: Path) -> None:
    """Also where standard output is closed, and its descriptor free for what is opened next."""
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command("exec", file, "--", "no-such-program")]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 127
    assert sorted(done.stderr.splitlines())[0] == "b     | edgesim: no-such-program: No such file or directory"
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.usefixtures("asked_before")
def test_one_failure_ends_the_others_after_their_grace(file: Path) -> None:
    began = time.monotonic()
    shell = 'if test "$RANK" = 1; then exit 3; fi; trap "echo told; exit 9" TERM; sleep 600 & wait'
    done = edgesim("exec", "--grace", "0.5", file, "--", "sh", "-c", shell)
    assert done.returncode == 3, "theirs is no failure of their own"
    assert sorted(done.stdout.splitlines()) == ["b     | told", "sat-0 | told"]
    assert time.monotonic() - began < PATIENCE / 2


def started(file: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """An `edgesim exec` whose nodes have said that they are there, and everything that it has started."""
    running = subprocess.Popen(
        command("exec", file, "--", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    for _ in range(3):
        assert running.stdout.readline().endswith("| here\n")
    return running, psutil.Process(running.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_node(file: Path, number: signal.Signals) -> None:
    running, children = started(file, "sh", "-c", 'trap "echo ended; exit 0" INT; echo here; sleep 600 & wait')
    running.send_signal(number)
    printed, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert errors == "edgesim: interrupted\n"
    assert re.findall(r"\| (.*)", printed) == ["ended"] * 3
    assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


def test_nothing_remains_of_what_was_killed(file: Path, tmp_path: Path) -> None:
    """Also not of a node whose supervisor was killed first, nor of what had hidden in a session of its own."""
    running, children = started(file, "sh", "-c", "setsid sleep 600 & echo here; exec sleep 601")
    eventually(lambda: len(_asleep(psutil.Process(running.pid).children(recursive=True))) == 6)
    children = psutil.Process(running.pid).children(recursive=True)
    asleep = _asleep(children)
    namespaces = {os.stat(f"/proc/{child.pid}/ns/net").st_ino for child in asleep}
    assert len(namespaces) == 3
    held = [os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY) for child in asleep]  # none is given out again
    first = next(child for child in children if "edgesim.network.supervise" in child.cmdline())
    running.send_signal(signal.SIGSTOP)  # or it would end what the supervisor leaves
    first.kill()
    running.kill()
    running.communicate()
    (record,) = records.folder().glob("*.json")
    eventually(lambda: len(_there(children)) <= 2)
    left = _there(children)
    assert {child.name() for child in left} == {"sleep"}
    assert len(left) == 2, "those that nobody was there for any more"

    done = edgesim("clean")
    assert done.stdout == f"{record.stem}: removed; 2 process(es) ended\n"
    assert psutil.wait_procs(left, timeout=5)[1] == []
    assert not record.exists()
    found = {namespace for process in psutil.process_iter() if (namespace := _namespace(process.pid)) is not None}
    assert not namespaces & found
    for descriptor in held:
        os.close(descriptor)
    done = edgesim("clean")
    assert done.stdout == "nothing to remove\n"


def _there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; those that have may still wait for somebody to notice."""
    left = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def _asleep(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in _there(processes) if process.name() == "sleep"]


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def test_lines_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as stream:
        output = Output(["a", "long"], stream, stream)
        output.write(0, False, b"one\ntw")
        output.write(1, False, b"1\n2\n")
        output.write(0, True, b"error\n")
        output.write(0, False, b"o\nlast")
        output.end(0, False)
        output.end(1, False)
    assert path.read_text().splitlines() == [
        "a    | one",
        "long | 1",
        "long | 2",
        "a    | error",
        "a    | two",
        "a    | last",
    ]


def test_a_line_without_an_end_is_passed_on_in_pieces(tmp_path: Path) -> None:
    """64 MB in pieces of 64 kB; put together anew with every piece they would take minutes."""
    lines = _Lines()
    taken = [line for _ in range(1000) for line in lines.take(b"x" * LONGEST_LINE, 0.0)]
    assert taken == [b"x" * LONGEST_LINE] * 1000
    assert list(lines.end()) == []


def test_of_a_progress_bar_some_states_and_the_last_are_passed_on() -> None:
    lines, found = _Lines(), []
    for percent in range(101):
        found += lines.take(b"\r%3d%%" % percent, UPDATE_EVERY * percent / 39.5)
    found += lines.take(b"\n", 3.0)
    # the state of 0 % is over when that of 1 % comes
    assert found == [b"  0%", b" 40%", b" 80%", b"100%"]
    assert list(lines.take(b"left\r", 3.1)) == []
    assert list(lines.end()) == [b"left"]


@given(st.lists(st.text("ab\n", max_size=6)), st.sampled_from(["\n", "\r\n"]))
def test_lines_are_the_same_however_they_are_cut(pieces: list[str], end: str) -> None:
    text = "".join(pieces).replace("\n", end)
    expected = "".join(pieces).split("\n")
    lines = _Lines()
    found = [line for octet in text.encode() for line in lines.take(bytes([octet]), 0.0)]
    assert [*found, *lines.end()] == [line.encode() for line in expected[: None if expected[-1] else -1]]


def test_what_stands_in_the_users_folder_is_not_executed(everywhere: Everywhere, tmp_path: Path) -> None:
    """The command starts there, though."""
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "psutil.py").write_text("raise SystemExit('executed')")
    assert everywhere("nodes: [a]", "pwd", where=folder) == 0
    assert everywhere.printed() == [f"a | {folder}"]


def test_a_network_that_cannot_be_entered_is_not_the_commands_fault() -> None:
    arguments = [sys.executable, "-m", "edgesim.network.supervise", "0", "/no/namespace", "", "/", "true"]
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == NOT_EXECUTABLE
    assert done.stderr == "edgesim: the node's network cannot be entered: No such file or directory\n"


def test_what_does_not_end_is_named_and_not_waited_for() -> None:
    """A process of another user, say, which must not be killed."""
    code = (
        "import psutil, subprocess, edgesim.network.supervise as supervise\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "def refuse(process): raise psutil.AccessDenied(process.pid)\n"
        "psutil.Process.kill = refuse\n"
        "supervise.end_descendants(patience=0.3)\n"
        "print(child.pid); child.kill()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == f"edgesim: process {done.stdout.strip()} does not end\n"
