"""What a node is told to do: plain, validated, serialisable data in SI units. Free of torch."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Literal, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator

from node_agent.compression.settings import AnyCompressorSettings, AutomaticDensity

FRAME = 1024 * 1024
"""bytes of payload in the largest message; longer ones are cut, so that a relaying node can pass on their beginning
while their end is still on the way"""

FILE_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""of files that a job brings with it"""


Item = TypeVar("Item")

Several = Annotated[tuple[Item, ...], Field(fail_fast=True)]
"""any number; the first that is wrong is told, as a job may hold very many"""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Window(Settings):
    """A contact: the link is open from `start` (s) until `end` (s) on the run's clock."""

    start: float
    end: float


class Bursts(Settings):
    """Losses that come in bursts: the Gilbert-Elliott model, a chain of two states that takes a step per packet."""

    enter: float = Field(gt=0, le=1, description="probability that the good state is followed by the bad one (p)")
    leave: float = Field(gt=0, le=1, description="probability that the bad state is followed by the good one (r)")
    lost_inside: float = Field(default=1.0, gt=0, le=1, description="probability of loss in the bad state (1 - h)")
    lost_outside: float = Field(default=0.0, ge=0, le=1, description="probability of loss in the good state (1 - k)")

    @property
    def mean(self) -> float:
        """The probability that a packet is lost, over a long time."""
        inside = self.enter / (self.enter + self.leave)
        return inside * self.lost_inside + (1 - inside) * self.lost_outside


class LinkState(Settings):
    """What of a link may change while a run goes on."""

    rate: float | None = Field(default=None, description="bit/s; None: not limited")
    delay: float = Field(default=0.0, description="one-way propagation delay, s")
    jitter: float = Field(default=0.0, description="standard deviation of the delay, s")
    loss: float = Field(default=0.0, description="probability that a packet is lost, 0..1; with bursts, their mean")
    bursts: Bursts | None = Field(default=None, description="how losses cluster; None: each packet on its own")


class Change(LinkState):
    """From `at` (s, by the run's clock) on the link is as this says, in all of it."""

    at: float


class LinkSettings(LinkState):
    """One direction of a link."""

    source: str
    target: str
    jitter_kind: Literal["normal", "uniform", "pareto"] = Field(default="normal", description="distribution of jitter")
    reorder: bool = Field(default=False, description="whether jitter may let a message overtake another")
    queue: int | None = Field(
        default=None, description="bytes that may wait for the link before their sender has to; None: any number"
    )
    overhead: int = Field(default=0, description="bytes of framing that each packet of 1,500 bytes takes besides")
    schedule: Several[Window] | None = Field(default=None, description="contact windows, ascending; None: always open")
    changes: Several[Change] = Field(default=(), description="ascending; before the first, the link's own values")
    deadline: float | None = Field(
        default=None, description="longest that a message may wait for contact, s; None: until the last window"
    )

    @property
    def name(self) -> str:
        return f"{self.source}->{self.target}"

    @property
    def bare(self) -> bool:
        """Whether the link is left as the transport gives it."""
        unshaped = self.rate is None and not any((self.delay, self.jitter, self.loss))
        return unshaped and self.schedule is None and not self.changes

    def state_at(self, moment: float) -> LinkState:
        """What holds at `moment`, s by the run's clock."""
        past = bisect_right(self.changes, moment, key=lambda change: change.at)
        return self.changes[past - 1] if past else self


class ProbeSettings(Settings):
    """How links are measured before a run depends on them."""

    samples: int = Field(default=20, ge=1, description="single messages, as far as the budget goes")
    budget: float = Field(default=2.0, description="longest time for them, s")
    burst_time: float = Field(default=0.4, description="length of the burst for the rate, s")
    warm_up: float = Field(
        default=0.0, description="length of what precedes the burst without a gap, s: until TCP has filled the link"
    )
    tolerance: float = Field(default=0.05, description="share by which a link may miss what was asked of it")
    binding: bool = Field(default=True, description="whether a link that misses more ends the run, or is recorded only")
    shared: bool = Field(
        default=False,
        description="whether other hops of the ring send over a part of the incoming link at the same time: how much "
        "they leave of its rate is theirs to decide, and not judged",
    )


class Roofline(Settings):
    """What a node's board is assumed to reach; see `node_agent.work`."""

    flop_s: float = Field(gt=0, description="floating-point operations a second")
    byte_s: float = Field(gt=0, description="bytes a second to and from memory")
    launch_s: float = Field(default=0.0, ge=0, description="s that each kernel takes besides")


class SceneSettings(Settings):
    """Where a hyperspectral scene and its target mask are found."""

    path: str = Field(description="a built-in name or a file (.mat, .npz, ENVI .hdr)")
    target: str | int | None = Field(
        default=None, description="class name or number where the mask holds several classes"
    )
    cube: str | None = Field(default=None, description="variable that holds the cube; None: found by shape")
    mask: str | None = Field(default=None, description="variable (or file, for ENVI) that holds the mask")


class ShardSettings(Settings):
    """A node's own strip of a scene, in a file of its working directory; see `node_agent.workloads.shard`."""

    kind: Literal["shard"] = "shard"
    file: str = Field(pattern=FILE_NAME, description="its name, without any folder")
    name: str = Field(max_length=256, description="of the scene")
    describe: str = Field(max_length=1024, description="the scene in words")
    shape: tuple[int, int, int] = Field(description="lines, samples, bands of the whole scene")


class BackgroundSettings(Settings):
    """Background learning on one node's strip of a scene."""

    name: Literal["background"] = "background"
    scene: SceneSettings | ShardSettings
    lines: tuple[int, int] = Field(description="this node's strip: first line, line after the last")
    target_spectrum: Several[float] = Field(description="the target prior d, raw units, one value a band")
    network: Several[int] = Field(default=(400, 400, 50), description="widths of the encoder; the decoder mirrors it")
    batch: int = Field(default=256, description="background pixels a step and node")
    learning_rate: float = Field(default=1e-4, description="of Adam")
    suppression: float = Field(default=0.1, description="weight of the target-suppression term of the loss")
    coarse_threshold: float = Field(default=0.15, description="pixels of a coarse CEM score up to this are background")


WorkloadSettings = Annotated[Union[BackgroundSettings], Field()]  # noqa: UP007


class Entrance(Settings):
    """Where the namespaces of an emulated node are entered: paths below /proc."""

    network: str
    user: str | None = Field(default=None, description="None: the network belongs to the host's own user namespace")


class Job(Settings):
    """Everything that one node of a run needs to know."""

    run: str
    rank: int = Field(ge=0)
    nodes: Several[str] = Field(min_length=1, description="names in ring order; a node's rank is its place here")
    seed: int
    steps: int = Field(ge=1)
    clock: Literal["wall", "virtual"] = "wall"
    compute_factor: float = Field(default=1.0, description="virtual clock: seconds per CPU second measured here")
    roofline: Roofline | None = Field(
        default=None,
        description="virtual clock: what the node's board reaches; None: CPU time measured here counts",
    )
    pauses: Several[Window] = Field(default=(), description="when the node computes nothing, ascending")
    outgoing: LinkSettings | None = Field(
        description="the link to the next node of the ring, as the node imposes it or has to expect it; None if alone"
    )
    incoming: LinkSettings | None = Field(description="the link from the previous node; None if alone")
    frame: int = Field(
        default=FRAME, ge=64, le=FRAME, multiple_of=64, description="payload of the largest message, bytes"
    )
    bare: bool = Field(
        default=False, description="no link of the whole ring imposes anything, and the clock is the wall's"
    )
    rendezvous: str = Field(description="init_method of torch.distributed: file:///path or tcp://host:port")
    interface: str = Field(default="lo", description="network interface of the data plane")
    aside: str | None = Field(
        default=None, description="network interface past the links; None: the data plane's own, where nothing is held"
    )
    imposed: Literal["node", "kernel"] = Field(default="node", description="who imposes the outgoing link")
    egress: str | None = Field(
        default=None,
        description="network device by which packets to the next node leave; None: none is the link's own",
    )
    entrance: Entrance | None = Field(default=None, description="namespaces to enter first; None: the host's own")
    probe: ProbeSettings | None = Field(default=None, description="links are measured first; None: they are not")
    timeout: float = Field(default=60.0, description="longest silence from a neighbour, beyond its link's own time, s")
    compressor: AnyCompressorSettings
    density: AutomaticDensity | None = Field(
        default=None, description="within these bounds the compressor's density follows the link; None: it does not"
    )
    bucket_bytes: int | None = Field(
        default=None, description="gradients gathered before an exchange starts; None: such as make a payload"
    )
    payload_bytes: int = Field(default=25 * 2**20, description="payload for which an exchange is worth its latency")
    workload: WorkloadSettings | None = Field(
        default=None, description="None: links are measured, and nothing is trained"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="cpu", description="what the node trains on; auto: CUDA where there is a device"
    )
    backend: Literal["auto", "gloo", "nccl"] = Field(
        default="auto",
        description="of torch.distributed; auto: for CUDA tensors NCCL where it works on all nodes, else Gloo",
    )
    evaluate_every: int = Field(default=0, description="steps between observations; 0: only first and last")
    telemetry_interval: float = Field(default=1.0, ge=0.01, description="s between samples of telemetry")

    @model_validator(mode="after")
    def _consistent(self) -> Job:
        if self.rank >= len(self.nodes):
            raise ValueError(f"rank: found {self.rank}, allowed 0 to {len(self.nodes) - 1}")
        if self.workload is None and self.probe is None:
            raise ValueError("workload, probe: at least one of them is needed")
        if self.device != "cpu" and self.clock == "virtual" and self.roofline is None:
            raise ValueError(f"device: found {self.device}, allowed cpu where a virtual clock counts CPU time")
        if self.device == "cpu" and self.backend == "nccl":
            raise ValueError("backend: found nccl, allowed auto or gloo where device is cpu")
        if any((link is None) != (len(self.nodes) == 1) for link in (self.outgoing, self.incoming)):
            raise ValueError("outgoing, incoming: both are needed by two nodes or more, and allowed only there")
        return self

    @property
    def node(self) -> str:
        return self.nodes[self.rank]

    @property
    def world_size(self) -> int:
        return len(self.nodes)
