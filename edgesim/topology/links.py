"""Links as a file describes them: properties, presets, contacts and changes over time, each direction on its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from edgesim.topology import presets
from edgesim.topology.fields import (
    MOST_LOSS,
    Deadline,
    Delay,
    Fraction,
    Framing,
    Instant,
    Jitter,
    Loss,
    Name,
    Queue,
    Rate,
)
from edgesim.topology.problems import Refusal, closest, listed, shown
from edgesim.topology.quantities import format_fraction, format_time
from edgesim.topology.section import Section, given, without_default
from node_agent.job import Bursts, Change, LinkSettings, LinkState, Window

QUEUE_TIME = 0.1
"""s; the least that a queue holds if nothing else is said, in transmission time: the usual latency of a token bucket"""

SMALLEST_QUEUE = 64 * 1024
"""bytes; so that a slow link has the next message at hand when one has left"""


class BurstModel(Section):
    """The Gilbert-Elliott model of loss: two states, a step per packet."""

    enter: Fraction = Field(gt=0, description="probability that the good state is followed by the bad one (p)")
    leave: Fraction = Field(ge=0.001, description="probability that the bad state is followed by the good one (r)")
    lost_inside: Fraction = Field(
        default=1.0, gt=0, json_schema_extra={"default": "100 %"}, description="loss in the bad state (1 - h)"
    )
    lost_outside: Fraction = Field(
        default=0.0, json_schema_extra={"default": "0 %"}, description="loss in the good state (1 - k)"
    )

    @model_validator(mode="after")
    def _half_at_most(self) -> BurstModel:
        mean = self.model().mean
        if mean > MOST_LOSS:
            raise Refusal(f"a mean loss of {format_fraction(mean)}", f"at most {format_fraction(MOST_LOSS)}")
        return self

    def model(self) -> Bursts:
        return Bursts(**self.model_dump())


class Entry(Section):
    """A contact window (`from`, `to`), or a change (`at`, and what is different from then on)."""

    start: Instant = Field(
        default=0.0,
        alias="from",
        json_schema_extra=without_default,
        description="when the link opens, s of the run's clock",
    )
    end: Instant = Field(default=0.0, alias="to", json_schema_extra=without_default, description="when it closes")
    at: Instant = Field(
        default=0.0,
        json_schema_extra=without_default,
        description="from when on the link is different, s of the run's clock",
    )
    rate: Rate = Field(default=None, json_schema_extra=without_default, description="rate from then on, bit/s")
    delay: Delay = Field(default=0.0, json_schema_extra=without_default, description="delay from then on, s")
    jitter: Jitter = Field(default=0.0, json_schema_extra=without_default, description="jitter from then on, s")
    loss: Loss = Field(default=0.0, json_schema_extra=without_default, description="loss from then on")

    @model_validator(mode="after")
    def _one_of_two(self) -> Entry:
        said = [field.alias or name for name, field in type(self).model_fields.items() if name in self.model_fields_set]
        if said != ["from", "to"] and not (said[:1] == ["at"] and len(said) > 1):
            found = f"a mapping of {', '.join(said)}" if said else "an empty mapping"
            raise Refusal(found, "from and to; or at, with at least one of rate, delay, jitter and loss")
        if self.window and self.start >= self.end:
            raise Refusal(self.text, "a window that opens before it closes")
        return self

    @property
    def window(self) -> bool:
        return "start" in self.model_fields_set

    @property
    def text(self) -> str:
        return f"{format_time(self.start)} to {format_time(self.end)}"


class LinkProperties(Section):
    """Properties of one direction."""

    rate: Rate = Field(
        default=None, json_schema_extra={"default": "unlimited"}, description="what the link carries, bit/s"
    )
    delay: Delay = Field(default=0.0, json_schema_extra={"default": "0 s"}, description="one-way propagation delay, s")
    jitter: Jitter = Field(
        default=0.0, json_schema_extra={"default": "0 s"}, description="standard deviation of the delay, s"
    )
    jitter_kind: Literal["normal", "uniform", "pareto"] = Field(
        default="normal",
        description="distribution of the delay; pareto: most below the mean, few far above",
    )
    reorder: bool = Field(
        default=False, strict=True, description="whether jitter may let a packet overtake another (links: netns)"
    )
    loss: Loss = Field(default=0.0, description="probability that a packet is lost")
    burst_length: float | None = Field(
        default=None,
        ge=1,
        le=1000,
        strict=True,
        description="mean number of packets lost in a row; not given: each packet is lost on its own",
    )
    bursts: BurstModel | None = Field(
        default=None, description="losses by the Gilbert-Elliott model, instead of loss and burst_length"
    )
    queue: Queue | None = Field(
        default=None,
        json_schema_extra=without_default,
        description="bytes that wait for the link before their sender has to; not given: its bandwidth-delay product "
        "(of the round trip), at least 100 ms of its rate and 64 KiB",
    )
    overhead: Framing = Field(
        default=0,
        json_schema_extra={"default": "0 B"},
        description="framing that each packet of 1,500 bytes takes besides; 68 B are TCP/IP over Ethernet",
    )
    schedule: tuple[Entry, ...] | None = Field(
        default=None,
        min_length=1,
        description="contact windows {from, to} in ascending order, none given: always open; and changes {at, rate, "
        "delay, jitter, loss}",
    )
    deadline: Deadline | None = Field(
        default=None,
        json_schema_extra=without_default,
        description="longest that a message may wait for contact, s; not given: until the next window",
    )

    @field_validator("schedule")
    @classmethod
    def _ascending(cls, schedule: tuple[Entry, ...] | None) -> tuple[Entry, ...] | None:
        for before, after in pairwise(entry for entry in schedule or () if entry.window):
            if before.end > after.start:
                raise Refusal(f"{before.text} followed by {after.text}", "ascending windows that do not overlap")
        for first, second in pairwise(entry.at for entry in schedule or () if not entry.window):
            if first >= second:
                raise Refusal(
                    f"a change at {format_time(first)} followed by one at {format_time(second)}", "ascending changes"
                )
        return schedule

    @model_validator(mode="after")
    def _one_kind_of_loss(self) -> LinkProperties:
        other = self.model_fields_set & {"loss", "burst_length"}
        if self.bursts is not None and other:
            raise Refusal(f"bursts together with {' and '.join(sorted(other))}", "either of them")
        return self


class LinkDefaults(LinkProperties):
    """Properties of both directions, which may begin with a preset's."""

    preset: str | None = Field(
        default=None, description="name of a kind of link that the rest of its properties follow (see edgesim presets)"
    )

    @field_validator("preset", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        known = presets.load()
        if value is None or (isinstance(value, str) and value in known):
            return value
        raise Refusal(shown(value), listed(known), closest(value, known))


class Link(LinkDefaults):
    """Both directions of a link: from the first to the second of `between`, and `reverse`."""

    between: tuple[Name, Name] = Field(description="the two nodes that the link joins")
    reverse: LinkProperties | None = Field(default=None, description="what differs from the second node to the first")

    @field_validator("between", mode="before")
    @classmethod
    def _two_names(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return value
        raise Refusal(shown(value), "a list of 2 node names")

    def resolved(self, defaults: LinkDefaults) -> Link:
        """With every property of both directions spelled out: the link's own before its preset's before the defaults',
        and a preset of the defaults after them."""
        own = "preset" in self.model_fields_set
        name = self.preset if own else defaults.preset
        usual = given(defaults, LinkProperties)
        forward, backward = (
            _over(_over(usual, preset) if own else _over(preset, usual), given(self, LinkProperties))
            for preset in _of_preset(name)
        )
        backward = _over(backward, given(self.reverse, LinkProperties))
        return self.model_copy(
            update={**forward, "preset": name, "reverse": LinkProperties.model_construct(**backward)}
        )

    def settings(self, source: str, target: str) -> LinkSettings:
        """One direction of a resolved link."""
        return settings(self.direction(source, target), source, target)

    def direction(self, source: str, target: str) -> LinkProperties:
        return self if (source, target) == self.between or self.reverse is None else self.reverse


def _of_preset(name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a preset says of the two directions."""
    if name is None:
        return {}, {}
    preset = presets.load()[name]
    forward = given(LinkProperties.model_validate(preset.forward), LinkProperties)
    return forward, _over(forward, given(LinkProperties.model_validate(preset.reverse), LinkProperties))


def _over(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` values before others; a loss of one kind replaces one of the other."""
    replaced: set[str] = set()
    if own.get("bursts") is not None:
        replaced = {"loss", "burst_length"}
    elif "loss" in own or "burst_length" in own:
        replaced = {"bursts"}
    return {**{name: value for name, value in values.items() if name not in replaced}, **own}


def settings(properties: LinkProperties, source: str, target: str) -> LinkSettings:
    """One direction in full: loss as a model, schedule as windows and changes, the queue's length."""
    entries = properties.schedule or ()
    windows = tuple(Window(start=entry.start, end=entry.end) for entry in entries if entry.window)
    first = LinkState(
        rate=properties.rate,
        delay=properties.delay,
        jitter=properties.jitter,
        **losses(properties, None if properties.bursts else properties.loss),
    )
    state, changes = first, []
    for entry in entries:
        if not entry.window:
            state = changed(state, entry, properties)
            changes.append(Change(at=entry.at, **state.model_dump(include=set(LinkState.model_fields))))
    return LinkSettings(
        source=source,
        target=target,
        **first.model_dump(),
        jitter_kind=properties.jitter_kind,
        reorder=properties.reorder,
        queue=properties.queue,
        overhead=properties.overhead,
        schedule=windows or None,
        changes=tuple(changes),
        deadline=properties.deadline,
    )


def changed(state: LinkState, values: Section, properties: LinkProperties) -> LinkState:
    """A link's state with whatever of rate, delay, jitter and loss is given; losses cluster as before."""
    said = given(values, type(values))
    said = {name: said[name] for name in ("rate", "delay", "jitter", "loss") if name in said}
    if "loss" in said:
        said |= losses(properties, said["loss"])
    return LinkState.model_validate({**state.model_dump(include=set(LinkState.model_fields)), **said})


def losses(properties: LinkProperties, loss: float | None) -> dict[str, Any]:
    """`loss` and `bursts` of a link's state, for a mean loss; None: that of its Gilbert-Elliott model.

    With losses in bursts of mean length b, the bad state loses every packet and is left with probability 1 / b. The
    model stays as it is but for how often the bad state is entered: a share s of all packets is in it if that is with
    probability leave · s / (1 - s), and the mean loss is then s · lost_inside + (1 - s) · lost_outside.
    """
    model = properties.bursts.model() if properties.bursts is not None else None
    if model is None and properties.burst_length is not None:
        model = Bursts(enter=1.0, leave=1 / properties.burst_length)
    if model is not None and loss is None:
        return {"loss": model.mean, "bursts": model}
    if model is None or loss is None or not model.lost_outside < loss < model.lost_inside:
        return {"loss": loss, "bursts": None}
    share = (loss - model.lost_outside) / (model.lost_inside - model.lost_outside)
    enter = min(1.0, model.leave * share / (1 - share))
    return {"loss": loss, "bursts": model.model_copy(update={"enter": enter})}


def default_queue(states: list[LinkState]) -> int | None:
    """The bandwidth-delay product of the round trip, at least `QUEUE_TIME` and `SMALLEST_QUEUE`; over all states the
    largest. None where the rate is not limited."""
    rates = [state.rate for state in states]
    if any(rate is None for rate in rates):
        return None
    return max(SMALLEST_QUEUE, *(round((s.rate or 0.0) / 8 * max(2 * s.delay, QUEUE_TIME)) for s in states))
