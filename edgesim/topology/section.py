"""What the sections of a topology file have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def without_default(schema: dict[str, Any]) -> None:
    """For fields whose default follows from others."""
    schema.pop("default", None)


def given(section: Section | None, of: type[Section]) -> dict[str, Any]:
    """What the file itself says of the fields of `of`, not the defaults."""
    if section is None:
        return {}
    return {name: getattr(section, name) for name in section.model_fields_set & set(of.model_fields)}
