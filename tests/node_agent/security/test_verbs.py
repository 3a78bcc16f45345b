"""What a board's owner types on the board."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.security import verbs
from node_agent.security.identity import Identity
from node_agent.security.tokens import Token, Tokens

NOBODY = 65534


def test_the_token_stands_alone_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.token(tmp_path / "data") == 0
    output, errors = capsys.readouterr()
    token = Token.parse(output)
    assert output == f"{token}\n"
    assert token.secret not in errors
    assert "edgesim fleet enroll HOST --token TOKEN" in errors
    assert f"of the agent whose data are in {tmp_path / 'data'}, which was not there before: is it this one?" in errors
    assert verbs.token(tmp_path / "data") == 0
    output, errors = capsys.readouterr()
    token = Token.parse(output)
    assert f"of the agent whose data are in {tmp_path / 'data'}\n" in errors
    Tokens(tmp_path / "data" / verbs.FOLDER).check(token.secret)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / verbs.FOLDER).mkdir()
    (tmp_path / verbs.FOLDER).chmod(0o755)
    for verb in (verbs.token, verbs.forget):
        assert verb(tmp_path) == 1
        output, errors = capsys.readouterr()
        assert output == ""
        assert "found mode 0755, allowed 0700" in errors
        assert len(errors.splitlines()) == 1


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A data folder of another user, which that one can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(0o700)
    os.chown(data, NOBODY, NOBODY)
    yield data
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_acts_as_the_user_that_the_agent_runs_as(nobodys: Path) -> None:
    program = "import sys; from pathlib import Path; from node_agent.security import verbs; "
    # What the verb needs is imported before: that user may not be able to read this program.
    program += "sys.exit(verbs.token(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", program, nobodys], capture_output=True, text=True, check=True)
    Token.parse(done.stdout)
    made = list(nobodys.rglob("*"))
    assert len(made) == 4
    assert {path.stat().st_uid for path in made} == {NOBODY}
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_users_folder_is_refused_in_one_line(nobodys: Path) -> None:
    Identity(nobodys / verbs.FOLDER)
    os.chown(nobodys, 0, 0)
    nobodys.chmod(0o755)
    program = "import os, sys; from pathlib import Path; from node_agent.security import verbs; "
    program += f"os.setegid({NOBODY}); os.seteuid({NOBODY}); sys.exit(verbs.token(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", program, nobodys], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "belongs to another user" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_daemon_and_the_verbs_know_neither_torch_nor_numpy() -> None:
    program = "import sys, node_agent.cli, node_agent.daemon.serve; "
    program += "from node_agent.security import contexts, enrolment, verbs; "
    program += "sys.exit(bool({'torch', 'numpy', 'edgesim'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_verbs_go_by_the_daemons_configuration(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"data: {tmp_path / 'data'}\ninterface: lo\n")
    agent = [sys.executable, "-c", "from node_agent.cli import main; main()"]
    done = subprocess.run([*agent, "token", "--config", config], capture_output=True, text=True, check=True)
    Tokens(tmp_path / "data" / verbs.FOLDER).check(Token.parse(done.stdout).secret)
    subprocess.run([*agent, "forget", "--config", config], capture_output=True, text=True, check=True)
    config.write_text("date: x\n")
    for verb in ("token", "forget"):
        done = subprocess.run([*agent, verb, "--config", config], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
