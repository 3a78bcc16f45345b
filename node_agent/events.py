"""What a node tells of its run, as it happens. Plain data in SI units; free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Union

from numpy.typing import NDArray

from node_agent.job import LinkSettings


@dataclass(frozen=True)
class Sent:
    """What a node put on its outgoing link during one step (or one phase)."""

    messages: int = 0
    payload_bytes: int = 0
    header_bytes: int = 0
    retransmitted_bytes: int = 0
    busy_s: float = 0.0
    """time in which the link was occupied"""
    queue_s: float = 0.0
    """time that messages waited for the link to become free, summed over messages"""
    closed_s: float = 0.0
    """time that messages waited for a contact window, summed over messages"""
    framing_bytes: int = 0
    """what the packets took besides what they carry, where the link's overhead is modelled"""

    @property
    def message_bytes(self) -> int:
        """Payloads and headers, each counted once however often it had to be sent."""
        return self.payload_bytes + self.header_bytes

    def __add__(self, other: Sent) -> Sent:
        return Sent(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __sub__(self, other: Sent) -> Sent:
        return Sent(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Carried:
    """What left by the network device of a node's outgoing link during one step, by the kernel's count: all of it,
    headers of packets, acknowledgements and what the node passed on for others included."""

    bytes: int
    packets: int
    retransmitted: int
    """TCP segments that the node sent again, by whichever device"""

    def __sub__(self, other: Carried) -> Carried:
        return Carried(self.bytes - other.bytes, self.packets - other.packets, self.retransmitted - other.retransmitted)


@dataclass(frozen=True)
class Received:
    """What a node measured on its incoming link during one step; see `node_agent.meter`."""

    delay_s: float | None = None
    """mean one-way delay from the end of a message's transmission to its arrival; None: no sample"""
    delay_max_s: float | None = None
    delay_samples: int = 0
    rate_bits: float = 0.0
    """bits that arrived in back-to-back messages, and"""
    rate_s: float = 0.0
    """the time in which they arrived: rate_bits / rate_s is the measured rate, 0/0 where there was no burst"""
    delay_sd_s: float | None = None
    """standard deviation of the delays"""


@dataclass(frozen=True)
class StepParts:
    """Where one step's time went, s; they add up to the step's duration."""

    compute: float
    encode: float
    wait: float
    transfer: float
    decode: float


@dataclass(frozen=True)
class Measured:
    """What a probe found of a link."""

    rate_bit_s: float | None
    """of messages back to back; None: none was seen for long enough"""
    burst_s: float
    """the time that these messages took"""
    message_bytes: int
    """what each of them carried, its header included"""
    delay_s: float | None
    """median one-way delay of single messages; None: no sample"""
    jitter_s: float | None
    """standard deviation of the same"""
    samples: int


@dataclass(frozen=True)
class Probed:
    """The links of a node, measured before training."""

    rank: int
    node: str
    link: str
    """the incoming one"""
    found: Measured
    sent: Sent
    """on the outgoing one, and"""
    applied: LinkSettings
    """what this node imposes on that, read back from the model that does it"""
    deviations: tuple[str, ...] = ()
    """in words; beyond the tolerance"""


@dataclass(frozen=True)
class Started:
    rank: int
    node: str
    pid: int
    facts: dict[str, Any]
    """what the workload found when it prepared itself: sizes, scaling, dropped bands, …"""
    sent: Sent
    """on the link during preparation"""
    time_s: float = 0.0
    """the run's clock when preparation was over and training could begin"""
    dense_step_bytes: int = 0
    """what this node would put on its link per step to average all gradients uncompressed, headers included"""
    link: LinkSettings | None = None
    """what the node imposes on its outgoing link, read back from the model that does it"""


@dataclass(frozen=True)
class ClockSet:
    """The run's clock shows 0 when this host's monotonic clock shows `origin_s`: for what imposes links from outside,
    and has to open and close them by the run's clock."""

    rank: int
    node: str
    origin_s: float


@dataclass(frozen=True)
class ClockOffset:
    """How the monotonic clock of the next node's host differs from this one's, to be told apart in their traces."""

    rank: int
    node: str
    neighbour: str
    time_s: float
    """the run's clock when they were compared"""
    offset_s: float
    """the neighbour's minus this node's; 0 where they share a host"""
    round_trip_s: float
    """of the message that told: twice as much as the offset may be wrong by"""


@dataclass(frozen=True)
class Waiting:
    """A message met a closed link and waits for contact; told once a closure."""

    rank: int
    node: str
    link: str
    time_s: float
    """the run's clock when the message was ready"""
    until_s: float
    """when the contact begins, by the same clock"""


@dataclass(frozen=True)
class Paused:
    """The node computes nothing from now on: whoever started its process stops it, and lets it go on afterwards."""

    rank: int
    node: str
    seconds: float


@dataclass(frozen=True)
class Step:
    rank: int
    node: str
    step: int
    time_s: float
    """the run's clock at the end of the step; 0 when training began"""
    duration_s: float
    loss: float
    parts: StepParts
    sent: Sent
    received: Received
    values_sent: int
    """gradient values that the payloads carried"""
    fingerprint: int
    """of all parameters after the step; equal on all nodes or the run fails"""
    formula_bytes: int
    """what the collectives that were called put on the outgoing link by their formula, headers included"""
    density: float | None = None
    """that the compressor was asked for; None: it has none"""
    carried: Carried | None = None
    """None: the node imposes the link itself, and no device is the link's own"""


@dataclass(frozen=True)
class Telemetry:
    """A sample of a node and of what it runs on. None: not told here, or not to this user, or not now."""

    rank: int
    node: str
    host_s: float
    """time on the host since training began"""
    cpu_percent: float | None = None
    """that the node's process took since the last sample; 100: one processor"""
    rss_bytes: int | None = None
    threads: int | None = None
    host_cpu_percent: float | None = None
    """of the whole host since the last sample; 100: all its processors"""
    cpus_on: int | None = None
    cpu_hz: float | None = None
    """mean clock of those"""
    memory_used_bytes: int | None = None
    """of the whole host, as the next"""
    memory_available_bytes: int | None = None
    interface_sent_bytes: int | None = None
    """by the interface of the data plane, as the next; both, and those of the disks, since training began"""
    interface_received_bytes: int | None = None
    disk_read_bytes: int | None = None
    """by all disks of the host, as the next"""
    disk_written_bytes: int | None = None
    disk_free_bytes: int | None = None
    """where the node's process works"""
    gpu_percent: float | None = None
    gpu_hz: float | None = None
    emc_percent: float | None = None
    """bandwidth of the memory controller in use, of what its clock allows"""
    emc_hz: float | None = None
    temperature_c: float | None = None
    """the highest of those that follow, °C"""
    temperatures_c: dict[str, float] | None = None
    """by thermal zone"""
    mode: str | None = None
    """power mode"""
    rails_w: dict[str, float] | None = None
    """power by rail, W; a little below 0 at rest"""
    total_w: float | None = None
    """of the board, as `power_source` defines it"""
    power_source: str | None = None
    """rails that are the total and what reads them, as "VDD_IN by ina3221 hwmon" """
    energy_j: float | None = None
    """of the board since training began"""
    energy_unmeasured_s: float | None = None
    """time since then that is not in it, as the power was not known"""


@dataclass(frozen=True)
class Sensors:
    """What a node found to be measured on its machine."""

    rank: int
    node: str
    machine: str | None
    """the same on all nodes that share one, for as long as it runs; None: not told"""
    found: dict[str, str]
    """by subject, in words"""


@dataclass(frozen=True)
class SensorLost:
    """A source of telemetry, or a part of one, has failed several times in a row, or at the last sample. It is asked
    again: samples have what it tells if it comes back."""

    rank: int
    node: str
    host_s: float
    sensor: str
    error: str


@dataclass(frozen=True)
class Observation:
    """What the node's model makes of its own shard after `step` steps (0: untrained). Not part of the run's time."""

    rank: int
    node: str
    step: int
    time_s: float
    arrays: dict[str, NDArray[Any]] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Fault:
    rank: int
    node: str
    error: str
    """one line, for people"""
    traceback: str
    """empty where the line says it all"""
    neighbour_lost: bool = False
    """whether this is the consequence of another node's or the link's failure"""


@dataclass(frozen=True)
class Finished:
    rank: int
    node: str
    time_s: float
    """training time by the run's clock"""
    steps: int
    params_sha256: str
    parameters: int
    """number of trained values"""
    energy_j: float | None = None
    """of the board during training, evaluations included; None: not measured"""
    power_source: str | None = None
    """what that is the integral of, as in `Telemetry`"""
    energy_unmeasured_s: float = 0.0
    """time of it that is not in `energy_j`, as the power was not known"""


Event = Union[  # noqa: UP007
    Probed,
    Started,
    ClockSet,
    ClockOffset,
    Waiting,
    Paused,
    Step,
    Telemetry,
    Sensors,
    SensorLost,
    Observation,
    Fault,
    Finished,
]
Emit = Callable[[Event], None]
