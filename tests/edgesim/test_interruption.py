"""Programs ended from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import edgesim

from edgesim.cli import main
from edgesim.interruption import interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_an_interrupt_as_long_as_one_can_be_handled(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_an_interrupt_of_any_verb_is_told_and_what_was_begun_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ring.yaml"
    file.write_text("nodes: [a, b, c]\n")
    ended = []

    def measuring(*_: object) -> Iterator[tuple[()]]:
        try:
            yield ()
            signal.raise_signal(signal.SIGTERM)
            yield ()
        finally:
            ended.append(True)

    monkeypatch.setattr("edgesim.proof.prove", measuring)
    monkeypatch.setattr("sys.argv", ["edgesim", "links", str(file), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "edgesim: interrupted\n")
    assert ended == [True]


def test_one_node_has_no_link_to_measure(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("nodes: [a]\n")
    done = edgesim("links", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: one node, and no link to measure\n")
    assert edgesim("links", file, "--json").stdout == "[]\n"
