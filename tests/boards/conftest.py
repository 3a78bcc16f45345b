from __future__ import annotations

from collections.abc import Iterator

import pytest
from laboratory import NODES, Lab
from shelf import missing, shelf


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    why = missing()
    if why is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("laboratory")
    topology = folder / "boards.yaml"
    topology.write_text(
        "name: boards\nseed: 3\ndefaults: {link: {rate: 20 Mbit/s, delay: 2 ms}}\n"
        f"nodes: [{', '.join(NODES)}]\nemulation: {{timeout: 60 s, allow_deviation: true}}\n"
        "training: {scene: indian-pines, network: [100, 80, 20], batch: 64, evaluate_every: 20, compressor: gcc}\n"
    )
    with shelf(folder, NODES) as boards:
        for board in boards.boards:
            board.serve()
        boards.enroll()
        for board in boards.boards:
            board.wait_for_port()
        yield Lab(boards, topology)
