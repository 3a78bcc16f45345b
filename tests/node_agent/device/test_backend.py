"""Backends by probe: the children are real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from node_agent.device import backend
from node_agent.device.backend import BOTH, GLOO, Backend, BackendError, Probed, agreed, choose, probe


def program(path: Path, body: str) -> list[str]:
    path.write_text(f"import os, signal, sys, time\n{body}\n")
    return [sys.executable, str(path)]


def test_gloo_reduces_a_tensor_on_the_cpu() -> None:
    assert probe("gloo", "cpu") == Probed(True, "a tensor was reduced on cpu")


@pytest.mark.skipif(dist.is_nccl_available(), reason="this build of torch has NCCL")
def test_an_absent_backend_is_told_as_such() -> None:
    found = probe("nccl", "cuda")
    assert not found.works
    assert found.reason.startswith("nccl is not part of this build of torch (")


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
    assert probe("nccl", "cuda", 5.0, program(tmp_path / "child.py", body)) == Probed(False, reason)


def test_a_child_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    told = tmp_path / "grandchild"
    body = (
        "import subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen(['sleep', '60']); open({str(told)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    began = time.monotonic()
    assert probe("nccl", "cuda", 1.5, program(tmp_path / "child.py", body)) == Probed(False, "no answer within 1.5 s")
    assert time.monotonic() - began < 10
    assert not _runs(int(told.read_text()))


def _runs(process: int) -> bool:
    for _ in range(100):  # until it is reaped by whoever inherits it
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.02)
    return True


def test_a_program_that_is_not_there_is_told_as_such() -> None:
    assert probe("gloo", "cpu", 5.0, ["/nonexistent/python"]) == Probed(
        False, "/nonexistent/python: No such file or directory"
    )


def test_no_module_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.py", "json.py", "node_agent.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert probe("absent", "cpu").reason.startswith("absent is not part of this build of torch (")


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
    assert agreed(nccl, 0, 3, store) == Backend("gloo", "gloo", "NCCL does not work on rank 1")
    assert agreed(gloo, 1, 3, store) == gloo
    assert agreed(nccl, 1, 3, store) == nccl


def test_a_node_that_never_tells_its_backend_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LIMIT", 0.2)
    store = dist.HashStore()  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"backend: not all nodes have told theirs within 0\.2 s"):
        agreed(choose("auto", True, works), 0, 2, store)


NO_DISTRIBUTED = """
import sys, torch
del torch._C._c10d_init  # what a build without it has not
del sys.modules["torch.distributed"]
import torch.distributed
assert not torch.distributed.is_available() and not hasattr(torch.distributed, "isend")
"""


def without_distributed(body: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NO_DISTRIBUTED + body]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))


def test_a_torch_without_distributed_ends_in_a_fault_that_says_so() -> None:
    done = without_distributed("""
from node_agent import worker
from node_agent.compression.settings import NoneSettings
from node_agent.device.torch_facts import facts
from node_agent.job import Job, ProbeSettings
job = Job(run="r", rank=0, nodes=("a",), seed=0, steps=1, outgoing=None, incoming=None, probe=ProbeSettings(),
          rendezvous="file:///nonexistent", compressor=NoneSettings())
worker.run(job, lambda event: print(event.error, repr(event.traceback)))
print(facts())
""")
    fault, told = done.stdout.splitlines()
    assert fault.startswith("torch.distributed is not part of this build of torch (")
    assert fault.endswith(") ''")
    assert "'distributed': False, 'backends': []" in told
