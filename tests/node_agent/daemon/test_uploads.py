from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.daemon.api import File
from node_agent.daemon.refusal import Refusal
from node_agent.daemon.uploads import Upload


def upload(folder: Path, content: bytes, sha256: str | None = None) -> Upload:
    announced = File(name="a", bytes=len(content), sha256=sha256 or hashlib.sha256(content).hexdigest())
    return Upload(announced, folder / "part", folder / "whole")


@given(st.binary(max_size=200), st.lists(st.integers(1, 60), max_size=9), st.sets(st.integers(0, 9)))
@settings(max_examples=40)
def test_a_file_arrives_in_pieces_and_across_restarts(content: bytes, sizes: list[int], restarts: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arriving = upload(folder, content)
        for index, size in enumerate([*sizes, len(content)]):
            if index in restarts:
                arriving = upload(folder, content)
            at = arriving.received
            arriving.add(arriving.begin(at), content[at : at + size])
        assert arriving.due
        asyncio.run(arriving.finish())
        assert (folder / "whole").read_bytes() == content
        assert (arriving.complete, arriving.due) == (True, False)
        again = upload(folder, content)
        assert (again.complete, again.received) == (True, len(content))


def test_it_goes_on_where_it_stands(tmp_path: Path) -> None:
    arriving = upload(tmp_path, b"abcdef")
    first = arriving.begin(0)
    arriving.add(first, b"abc")
    with pytest.raises(Refusal, match="offset: found 2, allowed 3") as refused:
        arriving.begin(2)
    assert refused.value.code == 409
    second = arriving.begin(3)
    with pytest.raises(Refusal, match="another request goes on"):
        arriving.add(first, b"XYZ")
    arriving.add(second, b"def")
    asyncio.run(arriving.finish())
    assert (tmp_path / "whole").read_bytes() == b"abcdef"


def test_no_more_than_announced(tmp_path: Path) -> None:
    arriving = upload(tmp_path, b"abc")
    with pytest.raises(Refusal, match="more than the 3 bytes announced") as refused:
        arriving.add(arriving.begin(0), b"abcd")
    assert (refused.value.code, arriving.received) == (413, 3)
    assert (tmp_path / "part").read_bytes() == b"abc"


def test_another_content_is_discarded(tmp_path: Path) -> None:
    arriving = upload(tmp_path, b"abc", sha256="0" * 64)
    arriving.add(arriving.begin(0), b"abc")
    with pytest.raises(Refusal, match=r"sha256: found ba7816bf.*allowed 0000") as refused:
        asyncio.run(arriving.finish())
    assert (refused.value.code, arriving.received, arriving.complete) == (422, 0, False)
    assert not (tmp_path / "part").exists()
    assert not (tmp_path / "whole").exists()


def test_two_senders_who_see_the_last_byte_come(tmp_path: Path) -> None:
    """Only one of them has it checked; the other must not check what is in its place already."""
    arriving = upload(tmp_path, b"abc")
    arriving.add(arriving.begin(0), b"abc")

    async def both() -> None:
        await asyncio.gather(arriving.finish(), arriving.finish())

    asyncio.run(both())
    assert (arriving.complete, arriving.received) == (True, 3)
    assert (tmp_path / "whole").read_bytes() == b"abc"
