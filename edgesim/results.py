"""The run folder: what a run leaves on disk, written as it goes and read back.

    topology.yaml    the topology as read
    config.json      the run as resolved: nodes in ring order, links, clock, versions
    steps.csv        one row per step and node
    links.csv        one row per step and directed link of the ring, both ends' counts joined
    telemetry.csv    what each node sampled of itself and of its machine
    events.jsonl     everything else that nodes told, arrays left out
    summary.json     the answer (see `edgesim.summary`)
    maps.npz         arrays of the whole scene
    figures/  logs/

Every row reaches the operating system before `RunFolder.record` returns, so a killed run is complete up to its
last row; `load` leaves out a last line that was cut short. All numbers are in SI units.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesim.network.plan import Applied
from edgesim.topology.paths import Hop, ring_hops
from node_agent import atomic
from node_agent.events import Event, Received, Sent, Step, StepParts, Telemetry
from node_agent.job import LinkSettings
from node_agent.plain import described, plain

Columns = dict[str, NDArray[Any]]

PARTS = tuple(part.name for part in fields(StepParts))
_SENT = tuple(count.name for count in fields(Sent))
_RECEIVED = tuple(measure.name for measure in fields(Received))

STEP_COLUMNS = (
    *("step", "rank", "node", "time_s", "duration_s", "loss"),
    *(f"{part}_s" for part in PARTS),
    *("bytes_sent", "values_sent", "density", "fingerprint", "formula_bytes"),
    *("interface_bytes", "interface_packets", "retransmitted_packets"),
)
TELEMETRY_COLUMNS = tuple(sample.name for sample in fields(Telemetry))
_LATER = (
    *("density", "formula_bytes", "interface_bytes", "interface_packets", "retransmitted_packets"),
    *TELEMETRY_COLUMNS[TELEMETRY_COLUMNS.index("host_cpu_percent") :],
)
"""columns of steps.csv and telemetry.csv that folders written before there were any have not"""
LINK_COLUMNS = ("step", "time_s", "source", "target", *_SENT, *_RECEIVED)

_TEXT = ("node", "source", "target", "mode", "power_source", "rails_w", "temperatures_c")
_FRACTIONAL = ("loss", "density", "rate_bits")
_UNITS = ("_s", "_percent", "_hz", "_c", "_w", "_j")
"""endings of the columns that hold a quantity, as the fractional ones do; the others count something"""

_HEADERS = {"steps.csv": STEP_COLUMNS, "links.csv": LINK_COLUMNS, "telemetry.csv": TELEMETRY_COLUMNS}
_STREAMS = (*_HEADERS, "events.jsonl")
_FILES = ("topology.yaml", "config.json", *_STREAMS, "summary.json", "maps.npz")
_FOLDERS = ("figures", "logs")


class RunFolderError(OSError):
    """A run folder that cannot be created, written or read: one line with path and reason."""


def ring_links(nodes: Sequence[str]) -> list[tuple[str, str]]:
    """The directed links (source, target) of a ring; none for a single node."""
    if len(nodes) < 2:
        return []
    return [(node, nodes[(rank + 1) % len(nodes)]) for rank, node in enumerate(nodes)]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it exists either whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.replace(path, content, 0o666)  # less what the user's mask takes, as of any file
    except OSError as error:
        raise _cannot("write", path, error) from error


class RunFolder:
    """Writes one run. Create it with `create`; call `write_config` before the first step is recorded."""

    def __init__(self, path: Path, streams: dict[str, _Stream]) -> None:
        self.path = path
        self._streams = streams
        self._steps = csv.writer(streams["steps.csv"], lineterminator="\n")
        self._links = csv.writer(streams["links.csv"], lineterminator="\n")
        self._telemetry = csv.writer(streams["telemetry.csv"], lineterminator="\n")
        self._ring: list[tuple[str, str]] | None = None
        self._pending: dict[tuple[int, str, str], _LinkStep] = {}
        self._broken = False

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make the folder `path`, or use it where it exists and holds no run.

        Raises:
            RunFolderError: `path` holds a run already, or cannot be written.
        """
        path = Path(path)
        cls.reserve(path)
        streams: dict[str, _Stream] = {}
        try:
            for name in _STREAMS:
                streams[name] = _Stream(path / name)
            for name, columns in _HEADERS.items():
                streams[name].write(",".join(columns) + "\n")
        except OSError as error:
            for stream in streams.values():
                stream.close()
                stream.path.unlink()
            raise _cannot("create the run folder", path, error) from error
        return cls(path, streams)

    @staticmethod
    def reserve(path: Path) -> None:
        """Make the folder, or find that it exists and holds no run. Raises RunFolderError as `create`."""
        try:
            found = [name for name in (*_FILES, *_FOLDERS) if (path / name).exists()]
            if not found:
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot("create the run folder", path, error) from error
        if found:
            raise RunFolderError(f"{path}: already holds a run (found {found[0]}); choose another folder")

    @staticmethod
    def default_path(root: str | Path, name: str, now: datetime) -> Path:
        """`root/name-YYYYmmdd-HHMMSS`, with `-2`, `-3`, … where that is taken."""
        stem = f"{_file_name(name)}-{now:%Y%m%d-%H%M%S}"
        path = Path(root) / stem
        number = 2
        while path.exists():
            path = Path(root) / f"{stem}-{number}"
            number += 1
        return path

    def figure_path(self, name: str) -> Path:
        return self.path / "figures" / f"{_file_name(name)}.png"

    def log_path(self, node: str) -> Path:
        """Where a node's output goes; its folder exists afterwards.

        Raises:
            RunFolderError: the folder cannot be made.
        """
        path = self.path / "logs" / f"{_file_name(node)}.log"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise _cannot("write", path, error) from error
        return path

    def write_topology(self, text: str) -> None:
        write_atomically(self.path / "topology.yaml", text.encode())

    def write_config(self, config: Mapping[str, Any]) -> None:
        """`config["nodes"]` holds the names in ring order: they tell which link a node's counts belong to."""
        self._ring = ring_links(config["nodes"])
        write_atomically(self.path / "config.json", _json(config, indent=2))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.path / "summary.json", _json(summary, indent=2))

    def write_maps(self, maps: Mapping[str, NDArray[Any]]) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **dict(maps))  # type: ignore[arg-type]
        write_atomically(self.path / "maps.npz", content.getvalue())

    def record(self, event: Event) -> None:
        """Write what a node told.

        Raises:
            RunFolderError: a file cannot be written; what was written before stays readable.
        """
        try:
            if isinstance(event, Step):
                self._record_step(event)
            elif isinstance(event, Telemetry):
                self._telemetry.writerow(_cells(asdict(event).values()))
            else:
                self._write_event(described(event))
        except RunFolderError:
            self._broken = True
            raise

    def record_evaluation(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Write what the nodes' observations after `step` steps came to. Raises RunFolderError as `record`."""
        event = {"event": "evaluation", "step": step, "time_s": time_s, "metrics": metrics}
        self._write_event(event)

    def record_network(self, moment: str, links: Sequence[Applied]) -> None:
        """Write what imposes the links, as read back when the run "began" or "ended". Raises RunFolderError."""
        self._write_event({"event": "network", "moment": moment, "links": [asdict(link) for link in links]})

    def _write_event(self, event: Mapping[str, Any]) -> None:
        self._streams["events.jsonl"].write((_json(event) + b"\n").decode())

    def close(self) -> None:
        """Write link rows of which only one end reported, the other's cells left empty, and close the files.

        Raises:
            RunFolderError: a row cannot be written. Not raised again where `record` raised it already.
        """
        try:
            if not self._broken:
                for key in sorted(self._pending):
                    self._write_link(key, self._pending[key])
        finally:
            self._pending.clear()
            for stream in self._streams.values():
                stream.close()

    def _record_step(self, step: Step) -> None:
        if self._ring is None:
            raise ValueError("the configuration must be written before the first step is recorded")
        parts = (getattr(step.parts, part) for part in PARTS)
        when = (step.step, step.rank, step.node, step.time_s, step.duration_s, step.loss)
        counts = (step.sent.message_bytes, step.values_sent, step.density, step.fingerprint, step.formula_bytes)
        device = astuple(step.carried) if step.carried is not None else ("", "", "")
        self._steps.writerow(_cells((*when, *parts, *counts, *device)))
        if self._ring:
            source, target = self._ring[step.rank]
            self._join((step.step, source, target), _LinkStep(time_s=step.time_s, sent=step.sent))
            source, target = self._ring[step.rank - 1]
            self._join((step.step, source, target), _LinkStep(received=step.received))

    def _join(self, key: tuple[int, str, str], end: _LinkStep) -> None:
        other = self._pending.pop(key, None)
        if other is None:
            self._pending[key] = end
            return
        sender, receiver = (end, other) if end.sent is not None else (other, end)
        self._write_link(key, _LinkStep(sender.time_s, sender.sent, receiver.received))

    def _write_link(self, key: tuple[int, str, str], link: _LinkStep) -> None:
        step, source, target = key
        sent = (getattr(link.sent, name, None) for name in _SENT)
        received = (getattr(link.received, name, None) for name in _RECEIVED)
        self._links.writerow(_cells((step, link.time_s, source, target, *sent, *received)))


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder as read. Columns of one table have equal lengths; empty cells are NaN."""

    path: Path
    config: dict[str, Any]
    topology: str
    """the text of topology.yaml"""
    steps: Columns
    links: Columns
    telemetry: Columns
    events: list[dict[str, Any]]
    """as in events.jsonl: each with `event`, its type in lower case; `evaluation` is the controller's own"""
    summary: dict[str, Any]
    """empty where the run was killed before it could write one"""
    maps: Columns = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.config.get("name") or self.path.name)

    @property
    def nodes(self) -> list[str]:
        """In ring order."""
        if "nodes" in self.config:
            return list(self.config["nodes"])
        return list(dict.fromkeys(self.steps["node"][np.argsort(self.steps["rank"], kind="stable")].tolist()))

    @property
    def ring(self) -> list[tuple[str, str]]:
        return ring_links(self.nodes)

    @property
    def link_settings(self) -> dict[tuple[str, str], LinkSettings]:
        """What was asked of every directed link of the topology, by source and target."""
        links = (LinkSettings.model_validate(link) for link in self.config.get("links", []))
        return {(link.source, link.target): link for link in links}

    @property
    def hops(self) -> dict[tuple[str, str], Hop]:
        """By source and target the hops of the ring whose links are known."""
        return ring_hops(self.nodes, self.link_settings)

    @property
    def hop_settings(self) -> dict[tuple[str, str], LinkSettings]:
        """What was asked of each of them, as one link."""
        links = self.link_settings
        return {ends: hop.settings(links) for ends, hop in self.hops.items() if links.keys() >= set(hop.links)}

    def of_node(self, node: str) -> Columns:
        """The rows of steps.csv that one node wrote, by step."""
        return _rows(self.steps, self.steps["node"] == node)

    def of_link(self, source: str, target: str) -> Columns:
        """The rows of links.csv of one directed link, by step, where the sender's end reported."""
        links = self.links
        return _rows(links, (links["source"] == source) & (links["target"] == target) & np.isfinite(links["time_s"]))

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def load(path: str | Path) -> Run:
    """Read a run folder, also one of a failed, killed or still running run.

    Raises:
        RunFolderError: `path` holds no run, or a file of it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunFolderError(f"{path}: no such folder" if not path.exists() else f"{path}: not a folder")
    if not _holds_run(path):
        raise RunFolderError(f"{path}: holds no run (neither config.json nor steps.csv nor summary.json)")
    try:
        return Run(
            path=path,
            config=_read_json(path / "config.json"),
            topology=_read(path / "topology.yaml").decode(),
            steps=_read_csv(path / "steps.csv", STEP_COLUMNS),
            links=_read_csv(path / "links.csv", LINK_COLUMNS),
            telemetry=_read_csv(path / "telemetry.csv", TELEMETRY_COLUMNS),
            events=_read_events(path / "events.jsonl"),
            summary=_read_json(path / "summary.json"),
            maps=_read_maps(path / "maps.npz"),
        )
    except OSError as error:
        raise _cannot("read", Path(error.filename or path), error) from error


def runs_in(path: str | Path) -> list[Path]:
    """The folder itself where it holds a run or nothing known, else the run folders in it, by name."""
    path = Path(path)
    if _holds_run(path) or not path.is_dir():
        return [path]
    return sorted(inner for inner in path.iterdir() if _holds_run(inner)) or [path]


def _holds_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("config.json", "steps.csv", "summary.json"))


@dataclass(frozen=True)
class _LinkStep:
    """What the ends of a link reported of one step."""

    time_s: float | None = None
    sent: Sent | None = None
    received: Received | None = None


class _Stream:
    """A file that grows by whole writes, unbuffered: what is written survives the end of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb", buffering=0)

    def write(self, text: str) -> None:
        rest = memoryview(text.encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _cannot("write", self.path, error) from error

    def close(self) -> None:
        self._file.close()


def _cannot(what: str, path: Path, error: OSError) -> RunFolderError:
    if isinstance(error, RunFolderError):
        return error
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"disk full ({reason}); what was written before stays readable"
    return RunFolderError(f"{path}: cannot {what}: {reason}")


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)


def _cells(values: Iterable[Any]) -> list[Any]:
    return [_cell(value) for value in values]


def _cell(value: Any) -> Any:
    """Nine significant digits hold a float32 exactly and a run of a day to a tenth of a millisecond."""
    if isinstance(value, Mapping):
        value = " ".join(f"{name}={_cell(item)}" for name, item in value.items())
    if isinstance(value, str):  # a board's own words; a row is a line
        return " ".join(value.split())
    return f"{value:.9g}" if isinstance(value, float) else value


def _json(value: Any, indent: int | None = None) -> bytes:
    text = json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode() + (b"\n" if indent else b"")


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that may have been cut short while its last line was written."""
    content = _read(path)
    content = content[: content.rfind(b"\n") + 1]
    try:
        return content.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunFolderError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path}: found a {type(value).__name__}, expected an object")
    return value


def _read_events(path: Path) -> list[dict[str, Any]]:
    events = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise RunFolderError(f"{path}:{number}: not valid JSON: {error}") from error
    return events


def _read_csv(path: Path, expected: Sequence[str]) -> Columns:
    rows = list(csv.reader(_whole_lines(path)))
    header = rows[0] if rows else list(expected)
    missing = [name for name in expected if name not in (*header, *_LATER)]
    if missing:
        raise RunFolderError(f"{path}:1: column {missing[0]} is missing; found {', '.join(header)}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise RunFolderError(f"{path}:{number}: found {len(row)} cells, expected {len(header)}")
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else ([] for _ in header)
    try:
        found = {name: _column(name, cells) for name, cells in zip(header, columns, strict=True)}
    except ValueError as error:
        raise RunFolderError(f"{path}: {error}") from error
    empty = [""] * (len(rows) - 1)
    return found | {name: _column(name, empty) for name in expected if name not in found}


def _column(name: str, cells: Sequence[str]) -> NDArray[Any]:
    if name in _TEXT:
        return np.array(cells, dtype=np.str_)
    counts = not (name.endswith(_UNITS) or name in _FRACTIONAL)
    if counts and all(cells):
        numbers = [int(cell) for cell in cells]
        # A fingerprint may use all 64 bits.
        return np.array(numbers, dtype=np.uint64 if max(numbers, default=0) >= 2**63 else np.int64)
    return np.array([float(cell) if cell else math.nan for cell in cells], dtype=np.float64)


def _read_maps(path: Path) -> Columns:
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path}: not a readable .npz archive: {error}") from error


def _rows(columns: Columns, chosen: NDArray[np.bool_]) -> Columns:
    index = np.flatnonzero(chosen)
    index = index[np.argsort(columns["step"][index], kind="stable")]
    return {name: column[index] for name, column in columns.items()}
