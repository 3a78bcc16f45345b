"""The one job of a board, without the routes to it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import program, settings

from node_agent.daemon import store as storing
from node_agent.daemon.api import BenchTask, Claim, File
from node_agent.daemon.held import HeldJob
from node_agent.daemon.slot import Slot
from node_agent.daemon.store import Store

LEASE = 0.3
CONTENT = b"0123456789"
FILE = File(name="file", bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "data", 2**20, 2)
    yield found
    found.close()


def slot_on(store: Store, text: str = "") -> Slot:
    """Its jobs are a small program."""
    return Slot(settings(store.data), store, commanding=lambda task, listening: program(text))


async def claimed(slot: Slot, *files: File, lease_s: float = 60.0) -> HeldJob:
    return await slot.claim(Claim.model_construct(run="r", lease_s=lease_s, files=files), "me")


def receive(job: HeldJob) -> None:
    """All bytes of its file, and the daemon ends before it looks at them."""
    upload = job.uploads["file"]
    upload.add(upload.begin(0), CONTENT)


STOPPED = "import signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)"


@pytest.mark.parametrize("state", ["staging", "ready", "running", "stopped"])
def test_silence_ends_the_job(store: Store, state: str) -> None:
    async def scenario() -> None:
        slot = slot_on(store, STOPPED if state == "stopped" else "import time\ntime.sleep(60)")
        job = await claimed(slot, *([FILE] if state == "staging" else []), lease_s=LEASE)
        if state in ("running", "stopped"):
            await slot.start(job, BenchTask())
        await asyncio.wait_for(job.ended.wait(), 20)
        assert job.record.error == "the controller was silent for 0.3 s"

    asyncio.run(scenario())


def test_who_claims_the_board_while_its_job_ends_lets_that_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = storing.disk.replace

    def slow(path: Path, content: bytes) -> None:
        if b'"failed"' in content:
            time.sleep(0.3)
        replace(path, content)

    async def scenario() -> None:
        slot = slot_on(store)
        monkeypatch.setattr(storing.disk, "replace", slow)
        job = await claimed(slot, lease_s=0.01)
        while job.active:
            await asyncio.sleep(0.001)
        await claimed(slot)
        await asyncio.wait_for(job.ended.wait(), 10)

    asyncio.run(scenario())


def test_signs_of_life_keep_the_job(store: Store) -> None:
    async def scenario() -> None:
        slot = slot_on(store, f"import time\ntime.sleep({2 * LEASE})")
        job = await claimed(slot, lease_s=LEASE)
        await slot.start(job, BenchTask())
        while job.active:
            slot.owned(job.id, "me")
            await asyncio.sleep(0.02)
        assert job.record.state == "finished"

    asyncio.run(scenario())


def test_a_stall_of_the_daemon_is_not_the_controllers_silence(store: Store) -> None:
    async def scenario() -> None:
        job = await claimed(slot_on(store), lease_s=LEASE)
        await asyncio.sleep(0.05)
        time.sleep(2 * LEASE)
        for _ in range(5):  # turns of the loop in which the request that has waited is read
            await asyncio.sleep(0.01)
            assert job.active
        job.renew()
        await asyncio.wait_for(job.ended.wait(), 10)
        assert job.record.error == "the controller was silent for 0.3 s"

    asyncio.run(scenario())


def test_a_file_that_an_earlier_daemon_received_is_finished(store: Store) -> None:
    async def scenario() -> None:
        earlier = slot_on(store)
        receive(await claimed(earlier, FILE))
        await earlier.stop()
        slot = slot_on(store)
        await slot.take_up()
        deadline = time.monotonic() + 10
        while slot.state != "ready":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert (store.folder(slot.jobs()[0].id).work / "file").read_bytes() == CONTENT

    asyncio.run(scenario())


def test_a_job_whose_files_an_earlier_daemon_has_finished_is_ready(store: Store) -> None:
    async def scenario() -> None:
        earlier = slot_on(store)
        job = await claimed(earlier, FILE)
        receive(job)
        await job.uploads["file"].finish()
        await earlier.stop()
        slot = slot_on(store)
        await slot.take_up()
        assert slot.state == "ready"

    asyncio.run(scenario())


def test_the_loop_does_not_wait_for_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a job's record is written as often as it changes."""
    replace = storing.disk.replace
    states = []

    def seen(path: Path, content: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread()
        states.append(storing.Record.model_validate_json(content).state)
        time.sleep(0.01)
        replace(path, content)

    async def scenario() -> None:
        slot = slot_on(store)
        monkeypatch.setattr(storing.disk, "replace", seen)
        job = await claimed(slot, FILE)
        receive(job)
        finishing = asyncio.create_task(slot.finish(job, job.uploads["file"]))
        while slot.state != "ready":
            await asyncio.sleep(0)
        await slot.cancel(job, "me")
        await finishing
        assert states == ["staging", "ready", "failed"]
        await slot.forget(job)
        assert slot.jobs() == []

    asyncio.run(scenario())
