from __future__ import annotations

from pathlib import Path

import pytest
from boards import enrolled

from edgesim.fleet.authority import Authority
from node_agent.security.identity import Identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    """Of another fleet."""
    return Authority.create(tmp_path / "other")


@pytest.fixture
def board(authority: Authority, tmp_path: Path) -> Identity:
    return enrolled(authority, tmp_path / "board")
