"""What a controller and a board's daemon say to each other: the bodies of the HTTPS API. Free of torch and numpy.

A job's way: a claim reserves the board (`staging`); its files are uploaded (`ready` once all are whole); a task starts
it (`running`); its events are read as they come; it ends `finished` or `failed`, and stays readable until it is
forgotten or the next claim replaces it. A controller that says nothing for longer than its lease loses the board at any
point; what it only reads says nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

from node_agent.job import FILE_NAME, Job, Several

VERSION = 1
"""of the API; the first part of every path"""

PORT = 7443
"""that an agent listens on unless it is told otherwise"""

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,127}$"
SHA256 = r"^[0-9a-f]{64}$"

MOST_FILES = 16
SHORTEST_LEASE, LONGEST_LEASE = 1.0, 3600.0

State = Literal["idle", "staging", "ready", "running", "finished", "failed"]


class Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(Body):
    """A file that a job needs, announced before it is sent."""

    name: str = Field(pattern=FILE_NAME)
    bytes: int = Field(ge=0, strict=True)
    sha256: str = Field(pattern=SHA256)


class Claim(Body):
    """Reserves the board for a run."""

    run: str = Field(pattern=RUN_NAME, description="name of the run, for people")
    lease_s: float = Field(
        ge=SHORTEST_LEASE,
        le=LONGEST_LEASE,
        strict=True,
        description="silence of the controller after which the job is ended",
    )
    files: Several[File] = Field(default=(), max_length=MOST_FILES)


class RunTask(Body):
    """Do a node's part of a run."""

    kind: Literal["run"] = "run"
    job: Job


class BenchTask(Body):
    """Calibrate a device profile; it is the job's result."""

    kind: Literal["bench"] = "bench"
    quick: bool = Field(default=False, strict=True, description="fewer repetitions")


Task = Annotated[Union[RunTask, BenchTask], Field(discriminator="kind")]  # noqa: UP007


class Meeting(Body):
    """Where the nodes of a run meet, if this board is the first of them: a port that is open already."""

    host: str
    port: int


class Received(Body):
    name: str
    bytes: int
    received: int = Field(description="bytes that have arrived: where an upload goes on")


class JobStatus(Body):
    id: str
    run: str
    owner: str = Field(description="name in the certificate of the controller that claimed the board")
    state: State
    lease_s: float
    lease_left_s: float | None = Field(description="None: the job has ended")
    files: tuple[Received, ...] = ()
    meeting: Meeting | None = None
    events: int = Field(default=0, description="sequence number of the last event")
    error: str | None = Field(default=None, description="one line; why the job failed")
    exit: int | None = Field(default=None, description="of the job's process: its code, or minus the signal's number")


class Health(Body):
    name: str = Field(description="of the board")
    state: State
    version: str = Field(description="of edgesim")
    uptime_s: float
    time_s: float = Field(description="this board's real-time clock, s since 1970")
    monotonic_s: float = Field(description="this board's monotonic clock")
    job: JobStatus | None = None
    load: float | None = Field(default=None, description="processes that run or wait for a core, mean of a minute")
    certificate_ends_s: float | None = Field(default=None, description="s since 1970; None: without TLS")


class Board(Body):
    """What a controller has to know of a board before it uses it."""

    name: str
    versions: dict[str, str | None] = Field(description="of edgesim, python, torch, numpy; None: not installed")
    machine: str = Field(description="processor architecture, such as aarch64")
    model: str = Field(description="of the board, as its firmware names it, or the host's operating system")
    boot: str = Field(description="differs between hosts, and between two starts of one")
    interface: str = Field(description="network interface of the data plane")
    address: str = Field(description="address of that interface")
    cores: int
    memory_bytes: int
    memory_limit_bytes: int | None
    disk_free_bytes: int
    disk_limit_bytes: int
    power_mode: str | None = None


class Refused(Body):
    """Every answer that is not a success."""

    error: str = Field(description="one line: what, where, found, allowed")
    status: JobStatus | None = Field(default=None, description="of the job in the way, where there is one")
