"""The configuration of a board's daemon: a YAML file, all of it optional."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from node_agent.daemon.api import PORT
from node_agent.daemon.network import default_interface, is_loopback

USUAL = Path("/etc/edgesim/agent.yaml")
"""read if it exists and no other file is named"""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


class SettingsError(ValueError):
    """A configuration that cannot be used; its text is one line."""


def _host() -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:63].lstrip("_.-")
    return name or "board"


def _data() -> Path:
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) if state else Path.home() / ".local" / "share" / "edgesim-agent"


class AgentSettings(BaseModel):
    """What the daemon of a board is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(default_factory=_host, pattern=NAME, description="of the board")
    listen: str = Field(default=f"0.0.0.0:{PORT}", description="address and port of the HTTPS API")
    data: Path = Field(default_factory=_data, description="folder of jobs and certificates")
    interface: str = Field(default_factory=default_interface, description="network interface of the data plane")
    memory_mib: int | None = Field(default=None, ge=1, description="of a job's processes together; None: no limit")
    disk_mib: int = Field(default=4096, ge=1, description="of all job folders together")
    cpus: tuple[int, ...] | None = Field(default=None, min_length=1, description="that a job may use; None: all")
    power_mode: int | str | None = Field(default=None, description="of nvpmodel, for the time of a job")
    nvpmodel: tuple[str, ...] = Field(default=("nvpmodel",), min_length=1, description="command that sets power modes")
    kept_jobs: int = Field(default=5, ge=0, le=1000, description="ended jobs that stay readable besides the last one")
    backend: Literal["auto", "gloo", "nccl"] = Field(default="auto", description="of torch.distributed")

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        split_address(listen)
        return listen

    @field_validator("data")
    @classmethod
    def _absolute(cls, data: Path) -> Path:
        return data.expanduser().absolute()

    @field_validator("cpus")
    @classmethod
    def _there(cls, cpus: tuple[int, ...] | None) -> tuple[int, ...] | None:
        allowed = os.sched_getaffinity(0)
        if cpus is not None and not set(cpus) <= allowed:
            raise ValueError(f"allowed some of {', '.join(map(str, sorted(allowed)))}")
        return cpus

    @field_validator("interface")
    @classmethod
    def _exists(cls, interface: str) -> str:
        allowed = psutil.net_if_addrs()
        if interface not in allowed:
            raise ValueError(f"allowed {', '.join(sorted(allowed))}")
        return interface

    @property
    def host(self) -> str:
        return split_address(self.listen)[0]

    @property
    def port(self) -> int:
        return split_address(self.listen)[1]

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_mib is None else self.memory_mib * 2**20

    @property
    def disk_bytes(self) -> int:
        return self.disk_mib * 2**20


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of `192.0.2.1:7443`, `[2001:db8::1]:7443` or `localhost:0`. Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError("allowed ADDRESS:PORT")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError("allowed ADDRESS:PORT with an address of this board in numbers") from None
    return host, int(port)


def read(path: Path | None) -> AgentSettings:
    """The settings in the file at `path`; None: in the usual one if it exists, else the defaults.

    Raises SettingsError.
    """
    if path is None:
        if not USUAL.exists():
            return _validated("the defaults", {})
        path = USUAL
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: found bytes that are no text, allowed YAML in UTF-8") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: {_place(error)}no YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise SettingsError(f"{path}: found YAML nested too deeply") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: found {type(content).__name__}, allowed a mapping of settings")
    return _validated(str(path), content)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: " if mark is not None else ""


def _validated(where: str, content: dict[Any, Any]) -> AgentSettings:
    unknown = [str(key) for key in content if key not in AgentSettings.model_fields]
    if unknown:
        allowed = ", ".join(AgentSettings.model_fields)
        raise SettingsError(f"{where}: found an unknown setting {unknown[0]!r}, allowed {allowed}")
    try:
        return AgentSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "allowed")
        raise SettingsError(f"{where}: {field}: found {first['input']!r}, {message}") from None
