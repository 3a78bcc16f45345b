"""Provisioning, in a folder instead of a board: without accounts, and without a network."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "jetson" / "provision.sh"

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, ("systemctl", "systemd-sysusers")), reason="no systemctl or no systemd-sysusers here"
)


def provision(
    *arguments: str | Path, expected: int = 0, stubs: Path | None = None, within: tuple[str, ...] = (), umask: int = -1
) -> subprocess.CompletedProcess[str]:
    """`stubs`: a folder of programs that are run instead of the system's; `within`: a command that runs the script."""
    path = os.pathsep.join([*([str(stubs)] if stubs else []), os.environ["PATH"]])
    done = subprocess.run(
        [*within, "/bin/sh", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "PIP_NO_INDEX": "1"},
        umask=umask,
    )
    assert done.returncode == expected, done.stderr
    return done


def tree(root: Path) -> dict[str, tuple[str, int, float]]:
    """What is where, with which mode, and when it was last changed."""
    found = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        readable = path.is_file() and os.access(path, os.R_OK)
        content = os.readlink(path) if path.is_symlink() else path.read_text() if readable else ""
        found[str(path.relative_to(root))] = (content, stat.S_IMODE(state.st_mode), state.st_mtime)
    return found


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    provision("--root", tmp_path)
    first = tree(tmp_path)
    provision("--root", tmp_path)
    assert tree(tmp_path) == first
    unit = "etc/systemd/system/edgesim-agent.service"
    wanted = "etc/systemd/system/multi-user.target.wants/edgesim-agent.service"
    assert {unit, wanted, "etc/edgesim/agent.yaml"} <= first.keys()
    assert first[wanted][0] == f"/{unit}"
    assert first["etc/edgesim/agent.yaml"][1] == 0o644
    accounts = {line.split(":")[0]: line.split(":")[5] for line in first["etc/passwd"][0].splitlines()}
    assert accounts["edgesim"] == "/var/lib/edgesim"
    members = {line.split(":")[0]: line.split(":")[3] for line in first["etc/group"][0].splitlines()}
    assert (members["video"], members["render"]) == ("edgesim", "edgesim")


def test_everybody_may_read_what_it_makes_whatever_the_umask(tmp_path: Path) -> None:
    provision("--root", tmp_path, umask=0o077)
    found = tree(tmp_path)
    for folder in ("etc", "etc/edgesim", "etc/sysusers.d", "etc/systemd", "etc/systemd/system"):
        assert found[folder][1] == 0o755


def test_the_boards_own_configuration_stays_and_an_old_unit_goes(tmp_path: Path) -> None:
    provision("--root", tmp_path)
    configuration = tmp_path / "etc/edgesim/agent.yaml"
    unit = tmp_path / "etc/systemd/system/edgesim-agent.service"
    configuration.write_text("data: /elsewhere\n")
    unit.write_text("[Unit]\n")
    provision("--root", tmp_path)
    assert configuration.read_text() == "data: /elsewhere\n"
    assert unit.read_text() == (SCRIPT.parent / "edgesim-agent.service").read_text()
    assert [path.name for path in configuration.parent.iterdir()] == ["agent.yaml"]


def stub(folder: Path, name: str, body: str) -> Path:
    path = folder / "stubs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def python_of(folder: Path, prefix: str, recent: bool = True) -> Path:
    """An interpreter that says that it lies below `prefix`."""
    told = 'case "$3" in *base_prefix*) echo {} ;; *version_info*) echo {} ;; *) echo Python 3.8.10 ;; esac'
    return stub(folder, "python", told.format(prefix, recent))


def systemd(folder: Path, agent: int = 0) -> Path:
    """A folder with a systemctl that says what it was told, and that the agent is this process."""
    stub(folder, "systemctl", f'case "$1" in show) echo MainPID={agent} ;; *) echo "systemctl: $*" ;; esac')
    return folder / "stubs"


def test_a_dry_run_tells_all_of_a_fresh_board(tmp_path: Path) -> None:
    python = python_of(tmp_path, "/usr")
    told = provision("--dry-run", "--python", python, "--wheel", wheel(tmp_path), stubs=systemd(tmp_path)).stdout
    parts = ("systemd-sysusers", "-m venv --system-site-packages", "pip install", "agent.yaml", "enable edgesim-agent")
    for part in (*parts, "systemctl start edgesim-agent.service"):
        assert part in told
    (root := tmp_path / "root").mkdir()
    assert "systemd-sysusers --root=" in provision("--dry-run", "--root", root).stdout
    assert tree(root) == {}


@contextlib.contextmanager
def running(command: str) -> Iterator[int]:
    with subprocess.Popen(["/bin/sh", "-c", f"echo; {command}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.terminate()


def test_an_agent_is_restarted_unless_a_job_runs(tmp_path: Path) -> None:
    options = ("--dry-run", "--python", python_of(tmp_path, "/usr"), "--wheel", wheel(tmp_path))
    with running("exec sleep 60") as idle:
        told = provision(*options, stubs=systemd(tmp_path, idle)).stdout
    assert told.endswith("+ systemctl restart edgesim-agent.service\n")
    with running("trap 'kill $!' TERM; sleep 60 & wait") as busy:
        told = provision(*options, stubs=systemd(tmp_path, busy)).stdout
    assert told.endswith("a job runs: until systemctl restart edgesim-agent, the agent takes no other one\n")


def wheel(folder: Path, said: str = "here") -> Path:
    """A wheel that holds nothing but a command that says `said`, in a folder with a space and a star in its name."""
    path = folder / "some * wheels" / "edgesim-1.0-py3-none-any.whl"
    path.parent.mkdir(exist_ok=True)
    files = {
        "dummy.py": f"def main():\n    print({said!r})\n",
        "edgesim-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: edgesim\nVersion: 1.0\n",
        "edgesim-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "edgesim-1.0.dist-info/entry_points.txt": "[console_scripts]\nnode-agent = dummy:main\n",
    }
    rows = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
    files["edgesim-1.0.dist-info/RECORD"] = "\n".join([*rows, "edgesim-1.0.dist-info/RECORD,,", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


INSIDE = """
mount --bind {0}/etc /etc && mount --bind {0}/opt /opt || exit 9
exec "$@"
"""
"""a root's /etc and /opt that are the test's own"""


def system_python() -> str:
    """An interpreter of this system that makes virtual environments with pip."""
    path = "/usr/bin/python3"
    able = [path, "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))"]
    if not Path(path).exists() or subprocess.run(able, capture_output=True, check=False).returncode:
        pytest.skip("no Python 3.10 with ensurepip in /usr/bin")
    return path


def test_a_run_after_one_that_failed_installs_all_and_another_one_a_newer_build(tmp_path: Path) -> None:
    python = system_python()
    (tmp_path / "opt/edgesim/bin").mkdir(parents=True)
    # As venv leaves it where it cannot install pip:
    (tmp_path / "opt/edgesim/bin/python").symlink_to(python)
    (tmp_path / "opt/edgesim/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "ld.so.cache"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), tmp_path / "etc")
    within = ("unshare", "--mount", "--map-root-user", "/bin/sh", "-c", INSIDE.format(tmp_path), "sh")
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces for this user")
    for said in ("here", "newer"):
        options = ("--python", python, "--wheel", wheel(tmp_path, said))
        provision(*options, within=within, stubs=systemd(tmp_path), umask=0o077)
        command = [*within, "/opt/edgesim/bin/node-agent"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{said}\n"
    assert stat.S_IMODE((tmp_path / "opt/edgesim/bin/node-agent").stat().st_mode) == 0o755
    assert [path.name for path in (tmp_path / "opt").iterdir()] == ["edgesim"]


@pytest.mark.parametrize(
    ("prefix", "recent", "message"),
    [
        ("/usr", False, "found Python 3.8.10, allowed an interpreter of Python 3.10 or later"),
        ("/root/python/3.11", True, "found /root/python/3.11, which is hidden from the service, "),
        ("/home/lab/.local/share/uv/python", True, "found /home/lab/.local/share/uv/python, which is hidden from the "),
    ],
)
def test_an_interpreter_that_the_service_cannot_use_is_refused_before_all_else(
    prefix: str, recent: bool, message: str, tmp_path: Path
) -> None:
    python = python_of(tmp_path, prefix, recent)
    done = provision("--dry-run", "--python", python, "--wheel", wheel(tmp_path), stubs=systemd(tmp_path), expected=2)
    assert done.stderr.startswith(f"provision.sh: --python: {message}")
    assert done.stdout == ""


def test_wheels_are_not_installed_from_outside_of_an_image(tmp_path: Path) -> None:
    done = provision("--root", tmp_path, "--wheel", wheel(tmp_path.parent), expected=2)
    assert done.stderr == "provision.sh: --wheel: found with --root, allowed inside of that system, by chroot\n"
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--wheel"], "--wheel: found nothing, allowed a value"),
        (["--wheel", "/nonexistent.whl"], "--wheel: found /nonexistent.whl, allowed a file"),
        (["--root", "/nonexistent"], "--root: found /nonexistent, allowed a folder"),
        (["--dry-run"], "found no wheel, allowed --wheel FILE or --no-install"),
        (["--force"], "found --force, allowed the options above"),
    ],
)
def test_what_is_not_allowed_is_refused(arguments: list[str], message: str) -> None:
    assert provision(*arguments, expected=2).stderr.splitlines()[-1] == f"provision.sh: {message}"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", str(SCRIPT)], check=True)
