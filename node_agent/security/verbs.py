"""`node-agent token` and `node-agent forget`: what a board's owner does on the board itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from node_agent.exits import FAILED, refuse
from node_agent.security.errors import IdentityError
from node_agent.security.identity import Identity
from node_agent.security.tokens import Tokens

FOLDER = "identity"
"""of the daemon's data folder"""


def token(data: Path) -> int:
    """Make a one-time token and print it, alone, to standard output; the exit code."""
    try:
        new = not data.exists()
        identity = _identity(data)
        if identity.enrolled:
            return refuse(
                f"{data}: this board is enrolled already, as {identity.name}; "
                f"to enrol it again: node-agent forget, and restart its agent"
            )
        made = Tokens(identity.folder).make()
    except IdentityError as error:
        return refuse(str(error), FAILED)
    print(made, flush=True)
    print(
        f"of the agent whose data are in {data}{', which was not there before: is it this one?' if new else ''}\n"
        f"valid for one hour, and for one enrolment; on the workstation: edgesim fleet enroll HOST --token TOKEN",
        file=sys.stderr,
    )
    return 0


def forget(data: Path) -> int:
    """Leave the fleet: remove key and certificates, and any token; the exit code."""
    try:
        identity = _identity(data)
        name = identity.name if identity.enrolled else None
        Tokens(identity.folder).use_up()
        identity.forget()
    except IdentityError as error:
        return refuse(str(error), FAILED)
    if name is None:
        print(f"this board was not enrolled (data in {data})")
    else:
        print(
            f"forgotten; what is left to do: restart the agent, which still uses its key, "
            f"and on the workstation: edgesim fleet revoke {name}"
        )
    return 0


def _identity(data: Path) -> Identity:
    """Of the board, as the daemon's own user: what root leaves in its folder the daemon could not read."""
    try:
        owner = data.stat() if data.exists() else None
        if owner is not None and os.geteuid() == 0 and owner.st_uid != 0:
            os.setegid(owner.st_gid)
            os.seteuid(owner.st_uid)
    except OSError as error:
        raise IdentityError(f"{data}: cannot be used: {error.strerror}") from error
    return Identity(data / FOLDER)
