"""Power modes, by an `nvpmodel` that is a shell script."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.device import power
from node_agent.device.power import PowerError, PowerMode, configured, current, power_mode, queried, resolve, restore

CONFIGURATION = """
# comments < POWER_MODEL ID=9 NAME=none >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=10W >
< POWER_MODEL ID=2 NAME=15W_6CORE >
< PM_CONFIG DEFAULT=2 >
"""

SCRIPT = """#!/bin/sh
cd "{folder}"
echo "$@" >> calls
case "$1" in
-q) echo "NVPM WARN: fan mode is not set!"; printf 'NV Power Mode: '; sed -n "$(($(cat mode) + 1))p" names; cat mode ;;
-m) {set} ;;
esac
"""


class Board:
    def __init__(self, folder: Path, set_: str = 'echo "$2" > mode') -> None:
        self.folder = folder
        (folder / "mode").write_text("2\n")
        (folder / "names").write_text("MAXN\n10W\n15W_6CORE\n")
        self.configuration = folder / "nvpmodel.conf"
        self.configuration.write_text(CONFIGURATION)
        script = folder / "nvpmodel"
        script.write_text(SCRIPT.format(folder=folder, set=set_))
        script.chmod(0o755)
        self.command = [str(script)]

    @property
    def mode(self) -> int:
        return int((self.folder / "mode").read_text())

    @property
    def settings(self) -> list[str]:
        return [call for call in (self.folder / "calls").read_text().splitlines() if call.startswith("-m")]


def test_the_grammar_of_a_query_and_of_a_configuration() -> None:
    assert queried("NV Power Mode: MODE_15W_6CORE\n2\n") == PowerMode("MODE_15W_6CORE", 2)
    assert queried("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0") == PowerMode("MAXN", 0)
    assert queried("NVPM ERROR: no permission") is None
    assert configured(CONFIGURATION) == [PowerMode("MAXN", 0), PowerMode("10W", 1), PowerMode("15W_6CORE", 2)]


@pytest.mark.parametrize("wanted", [1, "1", "10W", "10w"])
def test_a_mode_holds_inside_and_the_one_before_comes_back(wanted: int | str, tmp_path: Path) -> None:
    board = Board(tmp_path)
    with power_mode(wanted, board.command, board.configuration) as mode:
        assert mode == PowerMode("10W", 1)
        assert board.mode == 1
    assert board.mode == 2
    assert board.settings == ["-m 1", "-m 2"]


def test_it_comes_back_after_a_failure_too(tmp_path: Path) -> None:
    board = Board(tmp_path)
    with pytest.raises(KeyError), power_mode("MAXN", board.command, board.configuration):
        raise KeyError("inside")
    assert board.mode == 2


def test_nothing_is_set_where_the_board_is_in_it_or_none_is_wanted(tmp_path: Path) -> None:
    board = Board(tmp_path)
    with power_mode("15W_6CORE", board.command, board.configuration):
        pass
    assert board.settings == []
    with power_mode(None, ["/nonexistent/nvpmodel"]) as mode:
        assert mode is None


def test_a_mode_that_there_is_not_is_refused_before_anything_is_set(tmp_path: Path) -> None:
    board = Board(tmp_path)
    allowed = r"allowed MAXN \(0\), 10W \(1\), 15W_6CORE \(2\)"
    with (
        pytest.raises(PowerError, match=f"power_mode: found '25W', {allowed}"),
        power_mode("25W", board.command, board.configuration),
    ):
        pass
    assert board.settings == []
    with pytest.raises(PowerError, match="power_mode: found 'MAXN', allowed an id"):
        resolve("MAXN", [])
    assert resolve(7, []) == 7


REBOOT = (
    'echo "NVPM WARN: Reboot required for changing to this power mode: $2"; '
    'printf "DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"; read answer && echo "$2" > mode'
)


@pytest.mark.parametrize(
    ("set_", "message"),
    [
        (REBOOT, r"the board has to be restarted for mode 1; it is in 15W_6CORE \(2\)"),
        (
            'echo "NVPM ERROR: Permission denied" >&2; exit 1',
            r"asked for 1, found 15W_6CORE \(2\): NVPM ERROR: Permission",
        ),
        ("sleep 60", r"asked for 1, found 15W_6CORE \(2\): no answer within 1 s"),
    ],
)
def test_a_board_that_does_not_take_a_mode_is_told_and_left_as_it_was(
    set_: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "LIMIT", 1.0)
    board = Board(tmp_path, set_)
    with pytest.raises(PowerError, match=f"^power_mode: {message}"), power_mode(1, board.command, board.configuration):
        pytest.fail("it is not in that mode")
    assert board.mode == 2
    assert board.settings == ["-m 1"]


def test_no_nvpmodel_is_told_as_such() -> None:
    with pytest.raises(PowerError, match="nvpmodel: No such file or directory; only Jetson boards have nvpmodel"):
        current(["/nonexistent/nvpmodel"])


def test_the_mode_from_before_is_noted_until_the_board_is_in_it_again(tmp_path: Path) -> None:
    board, note = Board(tmp_path), tmp_path / "note"
    with power_mode(1, board.command, board.configuration, note):
        assert note.read_text() == "2\n"
    assert not note.exists()
    assert restore(note, board.command) is None


def test_after_a_kill_the_board_goes_back_to_the_mode_from_before(tmp_path: Path) -> None:
    board, note = Board(tmp_path), tmp_path / "note"
    for back in (lambda: restore(note, board.command), lambda: _next_job(board, note)):
        _enter_and_die(board, note)
        assert (board.mode, note.read_text()) == (1, "2\n")
        assert back() == PowerMode("15W_6CORE", 2)
        assert board.mode == 2
        assert not note.exists()


def _enter_and_die(board: Board, note: Path) -> None:
    if (child := os.fork()) == 0:
        inside = power_mode(1, board.command, board.configuration, note)
        inside.__enter__()
        os._exit(0)
    os.waitpid(child, 0)


def _next_job(board: Board, note: Path) -> PowerMode:
    """One that wants the mode in which the board was left."""
    with power_mode(1, board.command, board.configuration, note):
        assert board.mode == 1
    return current(board.command)


def test_a_board_that_does_not_go_back_is_told_and_the_mode_stays_noted(tmp_path: Path) -> None:
    board, note = Board(tmp_path, set_="exit 1"), tmp_path / "note"
    note.write_text("0\n")
    with pytest.raises(PowerError, match=r"^power_mode: asked for 0, found 15W_6CORE \(2\): exit code 1$"):
        restore(note, board.command)
    assert note.read_text() == "0\n"


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
OTHERS = st.lists(st.sampled_from(["NVPM WARN: fan mode is not set!", "NV Fan Mode:quiet", "1", ""]), max_size=3)


@given(NAMES, st.integers(0, 99), OTHERS, OTHERS)
@settings(max_examples=50)
def test_a_mode_is_found_between_other_lines(name: str, number: int, before: list[str], after: list[str]) -> None:
    said = "\n".join([*before, f"NV Power Mode: {name}", str(number), *after])
    assert queried(said) == PowerMode(name, number)
    assert queried("\n".join([*before, name, str(number), *after])) is None


@given(st.lists(st.tuples(NAMES.filter(lambda name: ">" not in name), st.integers(0, 99)), max_size=4))
@settings(max_examples=50)
def test_all_modes_of_a_configuration_are_found_in_order(modes: list[tuple[str, int]]) -> None:
    text = "".join(f"# a comment\n< POWER_MODEL ID={number} NAME={name} >\nX CORE_0 1\n" for name, number in modes)
    assert configured(text) == [PowerMode(name, number) for name, number in modes]
