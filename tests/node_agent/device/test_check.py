"""What a board says of itself: of made boards, and of this machine."""

from __future__ import annotations

import gzip
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgesim.fleet.authority import Authority
from node_agent.device import check, facts
from node_agent.device.backend import Probed
from node_agent.device.check import Examined, Finding, as_json, as_text, examine, missing
from node_agent.security.identity import Identity

AGENT = [sys.executable, "-c", "from node_agent.cli import main; main()"]

RELEASE = (
    "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64, DATE: Mon Jun 16 16:07:13 UTC 2025"
)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """The files of a Jetson Orin Nano, as far as they are looked at."""
    kernel = platform.release()
    write(tmp_path / "etc/nv_tegra_release", RELEASE)
    write(tmp_path / "proc/device-tree/model", b"NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path / "proc/device-tree/cpus/cpu@0/compatible", b"arm,cortex-a78\0")
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nCPU part\t: 0xd42\n")
    options = "CONFIG_CFS_BANDWIDTH=y\n# CONFIG_NET_SCH_NETEM is not set\nCONFIG_WIREGUARD=m\nCONFIG_TUN=y\n"
    write(tmp_path / "proc/config.gz", gzip.compress(options.encode()))
    write(tmp_path / f"lib/modules/{kernel}/modules.dep", "kernel/drivers/net/wireguard/wireguard.ko: kernel/x.ko\n")
    write(tmp_path / "sys/fs/cgroup/system.slice/cpu.max", "max 100000\n")
    write(tmp_path / "run/systemd/timesync/synchronized", "")
    return tmp_path


def torch_that(tmp_path: Path, body: str) -> tuple[str, ...]:
    program = tmp_path / "torch_facts.py"
    program.write_text(f"import os, signal, sys\n{body}\n")
    return (sys.executable, str(program))


def told(tmp_path: Path, **values: object) -> tuple[str, ...]:
    found = {"version": "2.9.1", "distributed": True, "backends": ["gloo", "nccl"], "gloo": "", "cuda": "12.6"}
    device = {"name": "Orin", "compute_capability": "8.7", "multiprocessors": 8, "memory_bytes": 8 * 2**30}
    line = json.dumps({**found, "device": device, **values})
    return torch_that(tmp_path, f"print('a warning'); print({line!r}); print('another one', file=sys.stderr)")


def probed(backend: str, device: str) -> Probed:
    return Probed(False, "no answer within 120 s")


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_a_jetson_says_what_it_is_and_can(orin: Path, tmp_path: Path) -> None:
    found = by_subject(examine(Examined(orin, told(tmp_path), ("/nonexistent/nvpmodel",), probed)))
    assert found["board"].detail == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["release"].detail == "L4T 36.4.4 (JetPack 6)"
    assert found["torch"].detail == "2.9.1"
    assert found["CUDA"].detail == "Orin, compute capability 8.7, 8 multiprocessors, 8.0 GiB, CUDA 12.6"
    assert found["nccl"] == Finding("nccl", "absent", "no answer within 120 s")
    options = "NET_SCH_NETEM n, NET_SCH_TBF n, NET_SCH_HTB n, IFB n, TUN y, WIREGUARD m, CFS_BANDWIDTH y"
    assert found["kernel options"].detail == options
    assert found["kernel modules"].detail == "wireguard"
    assert found["CPU limits"].detail == "cpu.max (cgroup v2)"
    assert found["time"].detail == "synchronised"
    assert "127.0.0.1" in found["interface lo"].detail
    assert not {"telemetry board", "telemetry power mode"} & found.keys()  # said already
    assert not missing(list(found.values()))
    assert facts.processor(orin) == "arm,cortex-a78"


@pytest.mark.parametrize(
    ("values", "subject", "reason"),
    [
        (
            {"distributed": False, "gloo": "torch.distributed is not part of it"},
            "torch.distributed",
            "is not part of it",
        ),
        ({"gloo": "RuntimeError: no interface"}, "gloo", "RuntimeError: no interface"),
    ],
)
def test_a_board_that_cannot_run_says_why(
    values: dict[str, object], subject: str, reason: str, orin: Path, tmp_path: Path
) -> None:
    findings = examine(Examined(orin, told(tmp_path, **values), ("/nonexistent/nvpmodel",), probed))
    (why,) = missing(findings)
    assert why.subject == subject
    assert reason in why.detail
    content = json.loads(as_json(findings))
    assert content["can_run"] is False
    assert content["reason"] == f"{subject}: {why.detail}"
    assert as_text(findings).splitlines()[-1] == f"no job can run here: {subject}: {why.detail}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("import torch_that_is_not_there", "ModuleNotFoundError: No module named 'torch_that_is_not_there'"),
        ("print('nothing')", "found no answer, but 'nothing'"),
    ],
)
def test_a_torch_that_cannot_be_imported_is_told(body: str, reason: str, tmp_path: Path) -> None:
    (why,) = missing(examine(Examined(torch_program=torch_that(tmp_path, body), probe=probed)))
    assert (why.subject, why.detail) == ("torch", reason)


def test_the_configuration_of_a_kernel_that_tells_none_is_not_guessed(tmp_path: Path) -> None:
    assert facts.kernel_options(check.OPTIONS, tmp_path) is None
    assert facts.modules(check.MODULES, tmp_path) is None
    assert facts.release(tmp_path) is None
    assert facts.model(tmp_path) is None
    assert facts.cpu_limits(tmp_path) is None


def test_this_machine_can_run_a_job() -> None:
    done = subprocess.run([*AGENT, "check", "--json"], capture_output=True, text=True, check=False)
    content = json.loads(done.stdout)
    assert (done.returncode, content["can_run"], content["reason"]) == (0, True, None)
    found = {finding["subject"]: finding for finding in content["findings"]}
    assert found["gloo"]["detail"] == "a tensor was reduced on cpu"


def test_looking_imports_no_torch() -> None:
    modules = ("check", "power", "backend", "facts", "verbs")
    imports = "; ".join(f"import node_agent.device.{module}" for module in modules)
    told = f"import sys; {imports}; print(sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_enrolled_board_says_until_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create(tmp_path / "fleet")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "data"))
    (tmp_path / "data").mkdir(mode=0o700)
    identity = Identity(tmp_path / "data" / "identity")

    def told() -> Finding:
        (found,) = check._identity(Examined())
        return found

    assert told() == Finding("identity", "absent", "not enrolled: node-agent token, then edgesim fleet enroll")
    identity.make_key()
    issued = authority.issue(identity.request("orin-1"), "orin-1", ["127.0.0.1"], 30)
    identity.accept(issued, authority.ca_pem, authority.crl())
    assert told().status == "ok"
    assert told().detail == f"orin-1, enrolled until {identity.ends_at:%Y-%m-%d %H:%M} UTC"
