"""Programs ended from outside."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from running import command, edgesim

from edgesim.interruption import interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_an_interrupt_as_long_as_one_can_be_handled(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_links_are_no_longer_measured_after_an_interrupt(tmp_path: Path) -> None:
    file = tmp_path / "ring.yaml"
    file.write_text("nodes: [a, b, c]\n")
    arguments = command("links", file, "--samples", "8")
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert running.stderr.readline() == "measured a->b and b->a (2 of 6)\n"
    running.send_signal(signal.SIGTERM)
    printed, errors = running.communicate(timeout=120)
    assert (printed, errors) == ("", "edgesim: interrupted\n")
    assert running.returncode == 130


def test_one_node_has_no_link_to_measure(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("nodes: [a]\n")
    done = edgesim("links", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: one node, and no link to measure\n")
    assert edgesim("links", file, "--json").stdout == "[]\n"
