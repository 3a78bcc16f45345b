"""What a topology file may say, parsed into SI units: nodes, links, the ring, how it is emulated, what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails

from edgesim.devices import HOST
from edgesim.topology.computing import compute, mismatches, resolved
from edgesim.topology.consistency import inconsistencies, neighbours
from edgesim.topology.constellation import Constellation, with_nodes
from edgesim.topology.events import Event, imposed
from edgesim.topology.fields import Address, Compressors, Density, Device, Fraction, Name, NameSchema, Size, Timeout
from edgesim.topology.links import Link, LinkDefaults, default_queue
from edgesim.topology.paths import Hop, ring_hops
from edgesim.topology.problems import Refusal, listed, shown
from edgesim.topology.section import Section, given, without_default
from edgesim.topology.visibility import Passage, governed, misfits
from node_agent.compression.settings import AutomaticDensity, CompressorSettings, NoneSettings
from node_agent.job import LinkSettings

DEFAULT_SCENE = "indian-pines"
DEFAULT_TARGET = "stone-steel-towers"
MOST_NODES = 64


class NodeProperties(Section):
    device: Device = Field(
        default=HOST, description="what the node runs on: host, this machine; a device's name; or a profile (.yaml)"
    )
    mode: Name | None = Field(
        default=None,
        json_schema_extra=without_default,
        description="power mode of the device; not given: the profile's default",
    )
    compute_factor: float = Field(
        default=1.0,
        gt=0,
        le=10**6,
        strict=True,
        description="measured computing under the virtual clock: seconds on the node for one CPU second here",
    )


class Node(NodeProperties):
    name: Name = Field(description="the node's name")
    address: Address | None = Field(
        default=None,
        json_schema_extra=without_default,
        description="HOST[:PORT] of the agent of the board that is this node; not given: a process of this machine",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, (dict, cls)):
            return value
        if isinstance(value, str):
            return {"name": value}
        hint = str(value) if type(value) is int and value >= 0 else None
        raise Refusal(shown(value), "a name, or a mapping with a name", hint)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [NameSchema().__get_pydantic_json_schema__(schema, handler), handler(schema)]}


class Defaults(Section):
    node: NodeProperties = Field(default_factory=NodeProperties, description="of nodes that say nothing else")
    link: LinkDefaults = Field(default_factory=LinkDefaults, description="of links that say nothing else")


class Emulation(Section):
    links: Literal["userspace", "netns"] = Field(
        default="userspace",
        description="how links are imposed: userspace, by the sending node itself; netns, by the kernel between "
        "network namespaces, one a node",
    )
    clock: Literal["wall", "virtual"] = Field(
        default="wall", description="wall: nodes wait as long as links take; virtual: the time is computed"
    )
    compute: Literal["measured", "modelled"] | None = Field(
        default=None,
        json_schema_extra=without_default,
        description="what computing takes under the virtual clock: CPU time measured here, or the time computed from "
        "the nodes' device profiles; not given: modelled where every node has one",
    )
    timeout: Timeout = Field(
        default=60.0,
        json_schema_extra={"default": "60 s"},
        description="longest silence of a neighbour, beyond its link's own time, s",
    )
    tolerance: Fraction = Field(
        default=0.05,
        gt=0,
        json_schema_extra={"default": "5 %"},
        description="share by which a link may miss what was asked of it, measured before training (wall clock)",
    )
    allow_deviation: bool = Field(
        default=False, strict=True, description="whether a run whose links miss more is made all the same, and says so"
    )
    allow_versions: bool = Field(
        default=False,
        strict=True,
        description="whether boards with different versions of edgesim or torch make a run all the same, and say so",
    )

    @field_validator("clock")
    @classmethod
    def _real_links_take_real_time(cls, clock: str, info: ValidationInfo) -> str:
        if clock == "virtual" and info.data.get("links") == "netns":
            raise Refusal("virtual with links: netns", "wall, as a kernel's links take real time; or links: userspace")
        return clock


class Training(Section):
    workload: Literal["background"] = Field(
        default="background", description="what is trained: background learning for target detection"
    )
    scene: str = Field(
        default=DEFAULT_SCENE, min_length=1, strict=True, description="a built-in name, or a file: .mat, .npz, ENVI"
    )
    target: str | int | None = Field(
        default=None,
        json_schema_extra=without_default,
        description="class name or number where the mask holds several; "
        f"{DEFAULT_TARGET} in {DEFAULT_SCENE} if not given",
    )
    cube: str | None = Field(
        default=None, strict=True, description="variable that holds the cube; not given: found by shape"
    )
    mask: str | None = Field(default=None, strict=True, description="variable (or file, for ENVI) that holds the mask")
    prior: Literal["blob", "pixels", "oracle"] = Field(
        default="blob",
        description="whence the target spectrum: blob, the mean of the largest target blob, scored on the rest "
        "(ten pixels drawn by the seed where the mask is a single blob); pixels, ten pixels drawn by the seed, "
        "scored on the rest; oracle, the mean of all target pixels",
    )
    accelerator: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="what all nodes train on; cuda: gradients are compressed and exchanged on the host",
    )
    compressor: Compressors = Field(
        default=(NoneSettings(),),
        min_length=1,
        description="a name, a mapping of name and settings, or a list of these to compare on the same links",
    )
    density: Density = Field(
        default=None,
        json_schema_extra=without_default,
        description="auto, or bounds, lowest and highest: the compressors' density follows the link, so that an "
        "exchange takes as long as computing; not given: the compressor's own",
    )
    steps: int = Field(default=400, ge=1, le=10**6, strict=True, description="optimiser steps")
    batch: int = Field(default=256, ge=1, le=10**6, strict=True, description="background pixels a step and node")
    learning_rate: float = Field(default=1e-4, gt=0, le=10, strict=True, description="of Adam")
    network: tuple[Annotated[int, Field(ge=1, le=65536, strict=True)], ...] = Field(
        default=(400, 400, 50),
        min_length=1,
        max_length=32,
        description="widths of the encoder; the decoder mirrors it",
    )
    evaluate_every: int = Field(
        default=50, ge=0, le=10**6, strict=True, description="steps between evaluations; 0: first and last only"
    )
    goal: float | None = Field(
        default=None, gt=0, le=1, strict=True, description="AUC whose first reaching is time_to_target_s"
    )
    bucket: Size | None = Field(
        default=None,
        description="gradients gathered before an exchange starts, bytes; not given: by rate and delay of the links",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_target(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "target" in value:
            return value
        return {**value, "target": DEFAULT_TARGET} if value.get("scene", DEFAULT_SCENE) == DEFAULT_SCENE else value

    @field_validator("target", mode="before")
    @classmethod
    def _class(cls, value: Any) -> Any:
        if value is None or type(value) is int or (isinstance(value, str) and value):
            return value
        raise Refusal(shown(value), "the name or number of a class, or null")

    @field_validator("compressor")
    @classmethod
    def _distinct(cls, value: tuple[CompressorSettings, ...]) -> tuple[CompressorSettings, ...]:
        for i, settings in enumerate(value):
            if settings in value[:i]:
                raise Refusal(f"{settings.model_dump()['name']} twice with the same settings", "different ones")
        return value

    @field_validator("density")
    @classmethod
    def _of_a_compressor(cls, value: AutomaticDensity | None, info: ValidationInfo) -> AutomaticDensity | None:
        compressors = info.data.get("compressor", ())
        if value is not None and compressors and not any(settings.has_density for settings in compressors):
            named = listed(settings.name for settings in compressors)
            raise Refusal(f"a density for {named}", "to leave it out, or a compressor that has one")
        return value


class Topology(Section):
    """One experiment. All quantities are in SI units: bit/s, s, bytes, fractions of 1.

    Links and nodes are resolved: each holds all of its properties, the file's defaults included. What a constellation
    makes of a link, its delays and contacts, only `link`, `directed_links` and `ring_links` tell.
    """

    name: Name = Field(default="topology", description="name of the experiment; not given: that of the file")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, strict=True, description="of everything that is drawn at random")
    defaults: Defaults = Field(
        default_factory=Defaults, description="properties of the nodes and links that say nothing else"
    )
    constellation: Constellation | None = Field(
        default=None,
        description="satellites and ground stations, whose links follow from their orbits; nodes may then be left out: "
        "those of the ring, or else all satellites",
    )
    nodes: tuple[Node, ...] = Field(
        min_length=1,
        max_length=MOST_NODES,
        description="the nodes: names, or mappings with a name",
    )
    ring: tuple[Name, ...] = Field(
        default=(),
        json_schema_extra=without_default,
        validate_default=True,
        description="every node once, in the order in which gradients travel; not given: the order of nodes. "
        "With links: netns, neighbours without a link reach each other over other nodes",
    )
    links: tuple[Link, ...] = Field(
        default=(),
        json_schema_extra=without_default,
        validate_default=True,
        description="links between pairs of nodes; not given: one between any two neighbours of the ring",
    )
    events: tuple[Event, ...] = Field(
        default=(), description="what happens during the run: links that go down, degrade and come up, nodes that pause"
    )
    emulation: Emulation = Field(default_factory=Emulation, description="how links and time are imposed")
    training: Training = Field(default_factory=Training, description="what the nodes train, and how")
    _passages: dict[frozenset[str], Passage] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _with_cross_checks(
        cls, data: Any, handler: ModelWrapValidatorHandler[Topology], info: ValidationInfo
    ) -> Topology:
        """Cross-checks work on the data as given, so that they are reported together with the fields' problems."""
        if not isinstance(data, dict):
            return handler(data)
        written = data
        data, refusals = with_nodes(written, info.context, MOST_NODES)
        problems = _details([(("nodes",), refusal) for refusal in refusals])
        problems += _details((*inconsistencies(data), *mismatches(data)))
        try:
            topology = handler(data)
        except ValidationError as error:
            fields = [
                InitErrorDetails(
                    type=detail["type"], loc=detail["loc"], input=detail["input"], ctx=detail.get("ctx", {})
                )
                for detail in error.errors()
                # Where the constellation itself is at fault, it could not tell the nodes.
                if not (detail["type"] == "missing" and detail["loc"] == ("nodes",) and written.get("constellation"))
            ]
            raise ValidationError.from_exception_data(cls.__name__, fields + problems) from None
        unseen: list[tuple[tuple[Any, ...], Refusal]] = []
        if topology.constellation is not None and not problems:
            links = [(link.settings(*link.between), link.settings(*link.between[::-1])) for link in topology.links]
            topology._passages, unseen = misfits(written, topology.constellation, links)
        problems += _details(unseen or topology._impossible())
        problems = problems or _details(topology._never_open())
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return topology

    def _impossible(self) -> Iterator[tuple[tuple[str | int, ...], Refusal]]:
        """What each field allows, and no run can do."""
        for link in self.directed_links():
            if link.reorder and self.emulation.links == "userspace":
                yield (
                    ("emulation", "links"),
                    Refusal(
                        f"userspace, and a link that reorders ({link.name})",
                        "links without reorder: what the nodes send one another is a stream",
                    ),
                )
            if link.schedule == ():
                found = f"a link that is down whenever it would have contact ({link.name})"
                yield ("events",), Refusal(found, "events that leave every link some contact")

    def _never_open(self) -> Iterator[tuple[tuple[str | int, ...], Refusal]]:
        for hop, link in zip(self.ring_hops(), self.ring_links(), strict=True):
            if hop.over and link.schedule == ():
                found = f"{link.name} over {' and '.join(hop.over)}, links that are never open at the same time"
                yield ("ring",), Refusal(found, "neighbours whose links have some contact at the same time")

    @field_validator("nodes")
    @classmethod
    def _resolve_nodes(cls, nodes: tuple[Node, ...], info: ValidationInfo) -> tuple[Node, ...]:
        if "defaults" not in info.data:
            return nodes
        defaults = given(info.data["defaults"].node, NodeProperties)
        return tuple(node.model_copy(update=resolved(given(node, NodeProperties), defaults)) for node in nodes)

    @field_validator("ring", mode="before")
    @classmethod
    def _order_of_nodes(cls, ring: Any, info: ValidationInfo) -> Any:
        return [node.name for node in info.data.get("nodes", ())] if ring in (None, ()) else ring

    @field_validator("links", mode="before")
    @classmethod
    def _between_neighbours(cls, links: Any, info: ValidationInfo) -> Any:
        if links not in (None, ()):
            return links
        return [{"between": pair} for pair in neighbours(info.data.get("ring", ()))]

    @field_validator("links")
    @classmethod
    def _resolve_links(cls, links: tuple[Link, ...], info: ValidationInfo) -> tuple[Link, ...]:
        defaults = info.data.get("defaults", Defaults()).link
        return tuple(link.resolved(defaults) for link in links)

    @property
    def world_size(self) -> int:
        return len(self.nodes)

    @property
    def compute(self) -> str:
        """What computing takes: measured or modelled."""
        return compute(self.emulation.clock, self.emulation.compute, [node.device for node in self.nodes])

    def node(self, name: str) -> Node:
        """Raises ValueError where there is no such node."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ValueError(f"no node {name!r} in {self.name}")

    def link(self, source: str, target: str) -> LinkSettings:
        """The direction from `source` to `target`. Raises ValueError where no link joins the two."""
        for link in self.links:
            if {source, target} == set(link.between):
                return self._imposed(link, source, target)
        raise ValueError(f"no link joins {source!r} and {target!r} in {self.name}")

    def directed_links(self) -> list[LinkSettings]:
        """Both directions of every link, in the order of the file."""
        return [
            self._imposed(link, source, target)
            for link in self.links
            for source, target in (link.between, link.between[::-1])
        ]

    def _imposed(self, link: Link, source: str, target: str) -> LinkSettings:
        settings, direction = link.settings(source, target), link.direction(source, target)
        passage = self._passages.get(frozenset((source, target)))
        settings = imposed(settings if passage is None else passage.impose(settings), direction, self.events)
        if settings.queue is not None:
            return settings
        return settings.model_copy(update={"queue": default_queue([settings, *settings.changes])})

    def orbital_links(self) -> list[tuple[str, str]]:
        """The ends of the links whose delays and contacts follow from the constellation."""
        section = self.constellation
        return [] if section is None else [link.between for link in self.links if governed(section, link.between)]

    def ring_links(self, alone: bool = False) -> list[LinkSettings]:
        """What the ring sends over: entry i from ring[i] to the node after it, over several links as one where none
        joins the two. Empty if there is but one node. `alone`: as each hop would find it without the others."""
        links = {(link.source, link.target): link for link in self.directed_links()}
        return [hop.settings(links, alone) for hop in self.ring_hops()]

    def ring_hops(self) -> list[Hop]:
        """The links that each entry of `ring_links` is made of."""
        return list(ring_hops(self.ring, [link.between for link in self.links]).values())


def _details(problems: Iterable[tuple[tuple[Any, ...], Refusal]]) -> list[InitErrorDetails]:
    return [
        InitErrorDetails(type="value_error", loc=path, input=None, ctx={"error": refusal}) for path, refusal in problems
    ]


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of topology files, for editors.

    Save it as topology.schema.json and begin a file with

        # yaml-language-server: $schema=topology.schema.json

    for completion, descriptions and checks in every editor that runs yaml-language-server. What concerns several
    fields at once (names of nodes, the ring) only the reader checks.
    """
    schema = Topology.model_json_schema()
    del schema["required"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "anyOf": [{"required": ["nodes"]}, {"required": ["constellation"]}],
        "title": "edgesim topology",
    }
