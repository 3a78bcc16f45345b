"""Links between the bodies of a constellation: their delays and contacts, and why they have none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesim.topology.constellation import Constellation
from edgesim.topology.problems import Refusal
from edgesim.topology.quantities import format_angle, format_length, format_time
from node_agent.job import Change, LinkSettings, LinkState, Window

# As in `constellation`, edgesim.orbit is imported where it is used.
if TYPE_CHECKING:
    pass

Path = tuple[Any, ...]
Pair = tuple[str, str]

MOST_LISTED = 3
"""windows that a message tells"""


@dataclass(frozen=True)
class Passage:
    """What geometry makes of a link, alike in both directions."""

    windows: tuple[Window, ...]
    """contacts, at least one"""
    delays: tuple[tuple[float, float], ...]
    """(time, delay), s, ascending; the first holds from the start"""

    def impose(self, link: LinkSettings) -> LinkSettings:
        """The link with the delays of the passage instead of its own, open while both it and the passage are. What else
        changes of the link still does."""
        windows = self.windows if link.schedule is None else overlap(self.windows, link.schedule)
        moments = sorted({*(change.at for change in link.changes), *(time for time, _ in self.delays[1:])})
        delays = list(self.delays)
        changes = []
        for moment in moments:
            while len(delays) > 1 and delays[1][0] <= moment:
                delays.pop(0)
            state = link.state_at(moment)
            values = {name: getattr(state, name) for name in LinkState.model_fields}
            changes.append(Change(at=moment, **{**values, "delay": delays[0][1]}))
        return link.model_copy(
            update={"delay": self.delays[0][1], "schedule": tuple(windows), "changes": tuple(changes)}
        )


def overlap(first: Iterable[Window], second: Iterable[Window]) -> tuple[Window, ...]:
    """When both of two ascending schedules are open."""
    ones, others = list(first), list(second)
    both = []
    while ones and others:
        start, end = max(ones[0].start, others[0].start), min(ones[0].end, others[0].end)
        if start < end:
            both.append(Window(start=start, end=end))
        (ones if ones[0].end <= others[0].end else others).pop(0)
    return tuple(both)


def governed(constellation: Constellation, pair: Sequence[str]) -> bool:
    """Whether geometry makes the link: both ends are bodies, and one at least is a satellite."""
    return constellation.bodies.issuperset(pair) and not set(constellation.satellites).isdisjoint(pair)


def passages(constellation: Constellation, pairs: Sequence[Pair]) -> tuple[dict[Pair, Passage], dict[Pair, Refusal]]:
    """What geometry makes of links, and those of which it makes nothing. Raises ElementsError."""
    import numpy as np

    from edgesim.orbit.conditions import InSight, OverHorizon
    from edgesim.orbit.delay import delays
    from edgesim.orbit.search import search

    if not pairs:
        return {}, {}
    sky = constellation.sky.only(name for pair in pairs for name in pair)
    count = sky.satellites
    # The satellite first, where the other is a station.
    ends = [sorted((sky.number(a), sky.number(b))) for a, b in pairs]
    across = [i for i, (_, b) in enumerate(ends) if b < count]
    down = [i for i, (_, b) in enumerate(ends) if b >= count]
    array = np.array(ends, dtype=np.intp).reshape(-1, 2)
    conditions: tuple[InSight | OverHorizon, ...] = (
        InSight(sky, array[across, 0], array[across, 1], constellation.clearance),
        OverHorizon(sky, array[down, 0], array[down, 1] - count),
    )
    made: dict[Pair, Passage] = {}
    refused: dict[Pair, Refusal] = {}
    found = search(sky, conditions, constellation.duration, constellation.step)
    for rows, condition, result in zip((across, down), conditions, found, strict=True):
        for row, place in enumerate(rows):
            pair = pairs[place]
            start, end = result.windows.of(row)
            steps = delays(row, start, end, condition.range_at, constellation.step, constellation.tolerance)
            if steps:
                windows = (Window(start=a, end=b) for a, b in zip(start.tolist(), end.tolist(), strict=True))
                made[pair] = Passage(tuple(windows), tuple(steps))
            elif isinstance(condition, InSight):
                refused[pair] = _hidden(constellation, pair, float(result.best[row]) + constellation.clearance)
            else:
                mask = constellation.stations[int(array[place, 1]) - count].elevation
                refused[pair] = _low(constellation, pair, float(result.best[row]), mask)
    return made, refused


def eclipses(constellation: Constellation) -> dict[str, tuple[Window, ...]]:
    """When each satellite is in the Earth's shadow, by its name: s after the epoch, ascending; until the duration ends.

    Raises ElementsError.
    """
    from edgesim.orbit import search

    dark = search.eclipses(constellation.sky, constellation.duration)
    return {
        name: tuple(Window(start=start, end=end) for start, end in zip(*map(list, dark.of(number)), strict=True))
        for number, name in enumerate(constellation.satellites)
    }


def _hidden(constellation: Constellation, pair: Pair, height: float) -> Refusal:
    from edgesim.orbit.walker import fewest_satellites, widest_angle

    where = f"{format_length(round(abs(height), -3))} {'below' if height < 0 else 'above'} the ground"
    least = f"a line at least {format_length(constellation.clearance)} above it"
    places = [constellation.plane_of(name) for name in pair]
    if places[0] is None or places[1] is None or places[0][:2] != places[1][:2]:
        time = format_time(constellation.duration)
        return Refusal(f"no line of sight between {' and '.join(pair)} within {time}: at best it passes {where}", least)
    geometry = constellation.shells[places[0][0]].geometry
    angle = widest_angle(geometry.radius, constellation.clearance)
    fewest = fewest_satellites(geometry.radius, constellation.clearance)
    allowed = (
        f"{least}: at an altitude of {format_length(geometry.altitude)} the two at most {format_angle(angle)} apart, "
        f"{fewest} satellites or more in an evenly filled plane"
        if angle is not None
        else f"{least}, which the orbit itself is not"
    )
    return Refusal(f"no line of sight between {' and '.join(pair)}: it passes {where}", allowed)


def _low(constellation: Constellation, pair: Pair, best: float, mask: float) -> Refusal:
    highest = math.degrees(math.asin(min(1.0, best + math.sin(mask))))
    return Refusal(
        f"no contact of {' and '.join(pair)} within {format_time(constellation.duration)}: the satellite rises to "
        f"{highest:.3g} deg at best",
        f"at least {format_angle(mask)} at some time",
    )


def misfits(
    data: Mapping[str, Any], constellation: Constellation, links: Sequence[tuple[LinkSettings, LinkSettings]]
) -> tuple[dict[frozenset[str], Passage], list[tuple[Path, Refusal]]]:
    """The passages of a topology's links (both directions of each, in the order of the file), by their ends; and what
    is wrong with them, with its path in the file's data."""
    from edgesim.orbit.tle import ElementsError

    ours = [i for i, (link, _) in enumerate(links) if governed(constellation, (link.source, link.target))]
    pairs = [(links[i][0].source, links[i][0].target) for i in ours]
    try:
        made, refused = passages(constellation, pairs)
    except ElementsError as error:
        return {}, [(("constellation", "tles"), Refusal(str(error), "an orbit for all of the duration"))]
    problems: list[tuple[Path, Refusal]] = []
    for i, pair in zip(ours, pairs, strict=True):
        problems += _delays_given(data, i, pair)
        if pair in refused:
            problems.append((_place(data, constellation, i, pair), refused[pair]))
            continue
        for link in links[i]:
            if link.schedule is not None and not overlap(made[pair].windows, link.schedule):
                problems.append((_schedule(data, i, link.source != pair[0]), _shut(pair, made[pair].windows)))
    return {frozenset(pair): passage for pair, passage in made.items()}, list(_once(problems))


def _once(problems: Sequence[tuple[Path, Refusal]]) -> Iterator[tuple[Path, Refusal]]:
    """One problem of each place: all neighbours of a shell are too far apart for the same reason."""
    seen: dict[Path, list[Refusal]] = {}
    for path, refusal in problems:
        seen.setdefault(path, []).append(refusal)
    for path, (first, *others) in seen.items():
        count = len({refusal.found for refusal in others} - {first.found})
        more = f" (and so for {count} other pair{'s' * (count > 1)})" if count else ""
        yield path, Refusal(first.found + more, first.allowed)


def _given(data: Mapping[str, Any], i: int) -> Mapping[str, Any]:
    links = data.get("links")
    link = links[i] if isinstance(links, list) and links else {}
    return link if isinstance(link, dict) else {}


def _delays_given(data: Mapping[str, Any], i: int, pair: Pair) -> Iterator[tuple[Path, Refusal]]:
    link = _given(data, i)
    refusal = Refusal("a delay", f"none: it follows from the range of {' and '.join(pair)}")
    for path, said in ((("links", i), link), (("links", i, "reverse"), link.get("reverse"))):
        if not isinstance(said, dict):
            continue
        if "delay" in said:
            yield (*path, "delay"), refusal
        for place, entry in enumerate(said.get("schedule") or ()):
            if "delay" in entry:
                yield (*path, "schedule", place, "delay"), refusal


def _place(data: Mapping[str, Any], constellation: Constellation, i: int, pair: Pair) -> Path:
    """What of the file joins the two: the link, their place in the ring or among the nodes, or their shell."""
    if _given(data, i):
        return "links", i, "between"
    for key in ("ring", "nodes"):
        names = data.get(key)
        if isinstance(names, list) and names:
            plain = [name.get("name") if isinstance(name, dict) else name for name in names]
            return key, plain.index(pair[0])
    places = [constellation.plane_of(name) for name in pair]
    if places[0] is not None and places[1] is not None and places[0][0] == places[1][0]:
        return "constellation", "shells", places[0][0], "satellites"
    return ("constellation",)


def _schedule(data: Mapping[str, Any], i: int, backward: bool) -> Path:
    link = _given(data, i)
    reverse = link.get("reverse")
    if backward and isinstance(reverse, dict) and "schedule" in reverse:
        return "links", i, "reverse", "schedule"
    return ("links", i, "schedule") if "schedule" in link else ("defaults", "link", "schedule")


def _shut(pair: Pair, windows: Sequence[Window]) -> Refusal:
    told = ", ".join(f"{format_time(one.start)} to {format_time(one.end)}" for one in windows[:MOST_LISTED])
    more = f" and {len(windows) - MOST_LISTED} more" if len(windows) > MOST_LISTED else ""
    return Refusal(
        f"windows in which {' and '.join(pair)} never see each other", f"some that meet their contacts: {told}{more}"
    )
