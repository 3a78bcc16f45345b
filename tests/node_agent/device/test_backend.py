"""Backends by probe: the children are real processes."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import in_fork

from node_agent import worker
from node_agent.device import backend
from node_agent.device.backend import BOTH, GLOO, KEPT, Backend, BackendError, Probed, agreed, choose, kept_probe, probe
from node_agent.device.commands import python
from node_agent.device.probes import try_reduction
from node_agent.job import Job


def program(path: Path, body: str) -> list[str]:
    path.write_text(f"import os, signal, sys, time\n{body}\n")
    return [sys.executable, str(path)]


def tried(*arguments: str) -> None:
    sys.argv = ["probe", *arguments]
    try_reduction()


def test_gloo_reduces_a_tensor_on_the_cpu_and_what_is_absent_is_told_as_such() -> None:
    in_fork(tried, "gloo", "cpu", "60")
    with pytest.raises(AssertionError, match=r"SystemExit: mpi is not part of this build of torch \("):
        in_fork(tried, "mpi", "cpu", "60")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("print('loading'); sys.exit('ncclUnhandledCudaError: no NVML')", "ncclUnhandledCudaError: no NVML"),
        ("sys.exit(3)", "exit code 3"),
        ("signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]) / 4); time.sleep(60)", "ended by SIGALRM"),
    ],
)
def test_whatever_happens_to_the_child_is_an_answer(body: str, reason: str, tmp_path: Path) -> None:
    assert probe("nccl", "cuda", 4.0, program(tmp_path / "child.py", body)) == Probed(False, reason)


def test_a_child_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    assert probe("nccl", "cuda", 0.5, program(tmp_path / "child.py", body)) == Probed(False, "no answer within 0.5 s")


def test_a_program_that_is_not_there_is_told_as_such() -> None:
    assert probe("gloo", "cpu", 5.0, ["/nonexistent/python"]) == Probed(
        False, "/nonexistent/python: No such file or directory"
    )


def test_no_module_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json.py", "node_agent.py", "trying.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from the working directory')\n")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trying.py").write_text("import json, node_agent\ndef main(): raise SystemExit('main')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *(folder for folder in sys.path if folder)])
    assert probe("gloo", "cpu", 20.0, python("trying", "main")).reason == "main"


def works(backend: str, device: str) -> Probed:
    assert (backend, device) == ("nccl", "cuda")
    return Probed(True, "it works")


def fails(backend: str, device: str) -> Probed:
    return Probed(False, "no NVML")


def never(backend: str, device: str) -> Probed:
    raise AssertionError("nothing is to be probed")


def test_nccl_is_chosen_only_for_cuda_and_where_it_works() -> None:
    assert choose("auto", True, works) == choose("nccl", True, works) == Backend("nccl", BOTH, "it works")
    assert choose("auto", True, fails) == Backend("gloo", "gloo", "NCCL does not work here: no NVML")
    assert choose("gloo", True, never).init_string == "gloo"
    assert choose("auto", False, never) == choose("nccl", False, never) == GLOO


def test_nccl_that_does_not_work_is_refused_with_the_reason() -> None:
    with pytest.raises(BackendError, match=r"backend: found nccl, which does not work here: no NVML; allowed auto or"):
        choose("nccl", True, fails)


def test_all_nodes_have_the_same_backend() -> None:
    nccl, gloo = choose("auto", True, works), choose("auto", True, fails)
    store = dist.HashStore()  # type: ignore[attr-defined]
    store.set("backend/1", "gloo")
    store.set("backend/2", "nccl")
    assert agreed(nccl, 0, 3, store, 1.0) == Backend("gloo", "gloo", "NCCL does not work on rank 1")
    assert agreed(gloo, 1, 3, store, 1.0) == gloo
    assert agreed(nccl, 1, 3, store, 1.0) == nccl


def test_nodes_that_begin_apart_have_all_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LIMIT", 0.1)
    monkeypatch.setattr(backend, "GRACE", 0.1)
    store = dist.HashStore()  # type: ignore[attr-defined]
    began = time.monotonic()
    with pytest.raises(BackendError, match=r"backend: not all nodes have told theirs within 0\.4 s"):
        agreed(choose("auto", True, works), 0, 2, store, 0.2)
    assert time.monotonic() - began >= 0.4


def test_a_node_is_there_for_others_before_it_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_GLOO_LAZY_INIT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    order: list[str] = []
    monkeypatch.setattr(worker, "meeting", lambda job, listener: order.append("meets"))

    def choosing() -> Backend:
        order.append("chooses")
        raise BackendError("it does not work")

    with pytest.raises(BackendError):
        worker.join(Job.model_construct(timeout=1.0, aside=None, interface="lo"), None, choosing)
    assert order == ["meets", "chooses"]


def test_a_probe_is_made_once_for_a_boot_and_a_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(backend: str, device: str) -> Probed:
        made.append(device)
        return Probed(False, "no answer within 120 s")

    def times(expected: int) -> None:
        assert kept_probe("nccl", "cuda", counted) == Probed(False, "no answer within 120 s")
        assert len(made) == expected

    times(1)
    times(2)  # nothing says where to keep it
    monkeypatch.setenv(KEPT, str(tmp_path / "probes"))
    times(3)
    times(3)
    assert [path.name for path in tmp_path.iterdir()] == ["probes"]
    monkeypatch.setattr(backend, "version", lambda name: "3.0")
    times(4)
    times(4)
    monkeypatch.setattr(backend, "boot_id", lambda: "another")
    times(5)
    (tmp_path / "probes").write_text("[]")
    times(6)
    monkeypatch.setenv(KEPT, str(tmp_path / "absent" / "probes"))
    times(7)


def without_distributed() -> tuple[list[str], dict[str, object]]:
    """What a build of torch without it does, as a worker and as a probe find it."""
    del torch._C._c10d_init  # type: ignore[attr-defined]
    for name in [one for one in sys.modules if one.startswith(("torch.distributed", "node_agent"))]:
        del sys.modules[name]
    without = importlib.import_module("torch.distributed")
    assert not without.is_available()
    assert not hasattr(without, "isend")
    from node_agent import worker
    from node_agent.compression.settings import NoneSettings
    from node_agent.device.probes import facts
    from node_agent.job import Job, ProbeSettings

    job = Job(
        run="r",
        rank=0,
        nodes=("a",),
        seed=0,
        steps=1,
        outgoing=None,
        incoming=None,
        probe=ProbeSettings(),
        rendezvous="file:///nonexistent",
        compressor=NoneSettings(),
    )
    told: list[str] = []
    worker.run(job, lambda event: told.extend([event.error, event.traceback]))  # type: ignore[union-attr]
    return told, facts()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_torch_without_distributed_ends_in_a_fault_that_says_so() -> None:
    (error, trace), told = in_fork(without_distributed)
    assert error.startswith("torch.distributed is not part of this build of torch (")
    assert trace == ""
    assert (told["distributed"], told["backends"], told["gloo"]) == (False, [], error)
