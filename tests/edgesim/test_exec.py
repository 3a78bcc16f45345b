"""Commands on every node."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgesim.exec import Output
from edgesim.network import records
from edgesim.network.namespaces import probe

Write = Callable[..., Path]

PATIENCE = 120.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three nodes; skips where namespaces cannot be had. Records are the test's own."""
    kernel = probe()
    if kernel.forbidden or kernel.buckets or kernel.congestion:
        pytest.skip("no shaped namespaces here")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "three.yaml"
    path.write_text("nodes: [sat-0, sat-1, b]\ndefaults: {link: {rate: 10 Mbit/s}}\n")
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from edgesim.cli import main; main()", *map(str, arguments)]


def execute(file: Path, *shell: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    arguments = command("exec", *options, file, "--", *shell)
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)


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
    done = execute(file, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "b     | sat-1 2 3 0 198.19.0.1 29500 data0 True",
        "sat-0 | b 0 3 0 198.19.0.1 29500 data0 True",
        "sat-1 | sat-0 1 3 0 198.19.0.1 29500 data0 True",
    ]


def test_the_worst_exit_code_counts_and_signals_as_shells_count_them(file: Path) -> None:
    done = execute(file, "sh", "-c", 'test "$RANK" != 1 || kill -SEGV $$; exit $((RANK * 2))')
    assert done.returncode == 128 + signal.SIGSEGV


def test_what_cannot_be_started_is_said_by_each_node(file: Path) -> None:
    done = execute(file, "no-such-program")
    assert done.returncode == 127
    assert sorted(done.stderr.splitlines())[0] == "b     | edgesim: no-such-program: No such file or directory"
    assert len(done.stderr.splitlines()) == 3


def test_one_failure_ends_the_others_after_their_grace(file: Path) -> None:
    began = time.monotonic()
    shell = 'if test "$RANK" = 1; then exit 3; fi; trap "echo told; exit 9" TERM; sleep 600 & wait'
    done = execute(file, "sh", "-c", shell, options=("--grace", "0.5"))
    assert done.returncode == 3, "theirs is no failure of their own"
    assert sorted(done.stdout.splitlines()) == ["b     | told", "sat-0 | told"]
    assert time.monotonic() - began < PATIENCE / 2


def started(file: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """An `edgesim exec` whose nodes have said that they are there, and everything that it has started."""
    running = subprocess.Popen(command("exec", file, "--", *arguments), stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for _ in range(3):
        assert running.stdout.readline().endswith("| here\n")
    return running, psutil.Process(running.pid).children(recursive=True)


def test_an_interrupt_ends_every_node(file: Path) -> None:
    running, children = started(file, "sh", "-c", 'trap "echo ended; exit 0" INT; echo here; sleep 600 & wait')
    running.send_signal(signal.SIGINT)
    printed, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert re.findall(r"\| (.*)", printed) == ["ended"] * 3
    assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []


def test_nothing_remains_of_what_was_killed(file: Path, tmp_path: Path) -> None:
    """Also not of a node whose supervisor was killed first, nor of what had hidden in a session of its own."""
    running, children = started(file, "sh", "-c", "setsid sleep 600 & echo here; exec sleep 601")
    deadline = time.monotonic() + PATIENCE
    while len(sleeping := [child for child in children if child.is_running() and child.name() == "sleep"]) < 6:
        assert time.monotonic() < deadline
        children = psutil.Process(running.pid).children(recursive=True)
    namespaces = {os.stat(f"/proc/{child.pid}/ns/net").st_ino for child in sleeping}
    assert len(namespaces) == 3
    held = [os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY) for child in sleeping]  # none is given out again
    first = next(child for child in children if "edgesim.network.supervise" in child.cmdline())
    first.kill()
    running.kill()
    running.communicate()
    (record,) = records.folder().glob("*.json")
    while len(left := [child for child in children if child.is_running()]) > 2:
        assert time.monotonic() < deadline, left
    assert {child.name() for child in left} == {"sleep"}
    assert len(left) == 2, "those that nobody was there for any more"

    done = subprocess.run(command("clean"), capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == f"{record.stem}: removed; 2 process(es) ended\n"
    assert psutil.wait_procs(left, timeout=5)[1] == []
    assert not record.exists()
    found = {namespace for process in psutil.process_iter() if (namespace := _namespace(process.pid)) is not None}
    assert not namespaces & found
    for descriptor in held:
        os.close(descriptor)
    done = subprocess.run(command("clean"), capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "nothing to remove\n"


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
