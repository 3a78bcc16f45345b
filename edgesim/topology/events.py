"""What happens during a run, apart from the static graph: links that fail, return or degrade, nodes that pause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from edgesim.topology.fields import LATEST, Delay, Duration, Instant, Jitter, Loss, Name, Rate
from edgesim.topology.links import LinkProperties, changed
from edgesim.topology.problems import Refusal, shown
from edgesim.topology.quantities import format_fraction, format_rate, format_time
from edgesim.topology.section import Section, given, without_default
from node_agent.job import Change, LinkSettings, LinkState, Window

QUANTITIES = ("rate", "delay", "jitter", "loss")

FORMS = {
    "down": (("link",), ("for", "oneway"), "at and link; for and oneway if wanted"),
    "up": (("link",), ("oneway",), "at and link; oneway if wanted"),
    "degrade": (
        ("link",),
        ("for", "oneway", *QUANTITIES),
        "at, link and at least one of rate, delay, jitter and loss; for and oneway if wanted",
    ),
    "pause": (("node", "for"), (), "at, node and for"),
}
"""what each event needs besides its moment, what it may have, and both in words"""


class Event(Section):
    """One thing that happens at a moment of the run's clock."""

    at: Instant = Field(description="when it happens, s of the run's clock")
    event: Literal["down", "up", "degrade", "pause"] = Field(
        description="down: a link closes; degrade: it changes; up: both end; pause: a node computes nothing"
    )
    link: tuple[Name, Name] | None = Field(
        default=None, json_schema_extra=without_default, description="the two nodes whose link it is about"
    )
    oneway: bool = Field(
        default=False, strict=True, description="only the direction from the first of the two nodes to the second"
    )
    node: Name = Field(default="", json_schema_extra=without_default, description="the node that pauses")
    lasting: Duration = Field(
        default=LATEST,
        alias="for",
        json_schema_extra=without_default,
        description="how long it lasts, s; not given: until the link's next up event",
    )
    rate: Rate = Field(default=None, json_schema_extra=without_default, description="rate of the degraded link, bit/s")
    delay: Delay = Field(default=0.0, json_schema_extra=without_default, description="its delay, s")
    jitter: Jitter = Field(default=0.0, json_schema_extra=without_default, description="its jitter, s")
    loss: Loss = Field(default=0.0, json_schema_extra=without_default, description="its loss")

    @field_validator("link", mode="before")
    @classmethod
    def _two_names(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return value
        raise Refusal(shown(value), "a list of 2 node names")

    @model_validator(mode="after")
    def _whole(self) -> Event:
        said = [field.alias or name for name, field in type(self).model_fields.items() if name in self.model_fields_set]
        needed, optional, form = FORMS[self.event]
        complete = set(needed) <= set(said) <= {"at", "event", *needed, *optional}
        if not complete or (self.event == "degrade" and not set(said) & set(QUANTITIES)):
            raise Refusal(f"{self.event} with {', '.join(said[:1] + said[2:])}", form)
        return self

    @property
    def end(self) -> float:
        return self.at + self.lasting

    def changes(self) -> str:
        """What a degraded link is from then on, in words."""
        formats = {"rate": format_rate, "delay": format_time, "jitter": format_time, "loss": format_fraction}
        said = given(self, Event)
        return ", ".join(f"{name} {text(said[name])}" for name, text in formats.items() if name in said)

    def concerns(self, source: str, target: str) -> bool:
        """Whether it is about this direction of a link."""
        return self.link == (source, target) or (not self.oneway and self.link == (target, source))


def pauses(events: Sequence[Event], node: str) -> tuple[Window, ...]:
    """When a node computes nothing; ascending, pauses that overlap in one."""
    spans = ((event.at, event.end) for event in events if event.node == node)
    return tuple(Window(start=start, end=end) for start, end in _merged(spans))


def imposed(link: LinkSettings, properties: LinkProperties, events: Sequence[Event]) -> LinkSettings:
    """A direction of a link with what happens to it: windows without the times when it is down, and the changes."""
    own = sorted((event for event in events if event.concerns(link.source, link.target)), key=lambda event: event.at)
    if not own:
        return link
    spans = [(event, event.at, _end(event, own)) for event in own if event.event in ("down", "degrade")]
    down = _merged((start, end) for event, start, end in spans if event.event == "down")
    windows = _without(link.schedule or (Window(start=0.0, end=LATEST),), down) if down else link.schedule
    degraded = [span for span in spans if span[0].event == "degrade"]
    moments = {change.at for change in link.changes} if degraded else set()
    moments |= {moment for _, start, end in degraded for moment in (start, end)}
    changes = []
    for moment in sorted(moments):
        state: LinkState = link.state_at(moment)
        for event, start, end in degraded:
            if start <= moment < end:
                state = changed(state, event, properties)
        changes.append(Change(at=moment, **state.model_dump(include=set(LinkState.model_fields))))
    return link.model_copy(update={"schedule": windows, "changes": tuple(changes) if degraded else link.changes})


def _end(event: Event, own: Sequence[Event]) -> float:
    ends = [other.at for other in own if other.event == "up" and other.at > event.at]
    return min([event.end, *ends])


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """In ascending order, those that overlap or touch as one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _without(windows: Sequence[Window], closed: Sequence[tuple[float, float]]) -> tuple[Window, ...]:
    """What is left of the windows."""
    left = list(windows)
    for start, end in closed:
        left = [
            Window(start=begins, end=ends)
            for window in left
            for begins, ends in ((window.start, min(window.end, start)), (max(window.start, end), window.end))
            if begins < ends
        ]
    return tuple(left)
