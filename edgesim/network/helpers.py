"""How processes of our own are started that a run consists of: not in the folder that the user happens to be in, whose
modules `python -m` would take for those of Python's library."""

from __future__ import annotations

import os

FOLDER = "/"
"""their working directory"""


def environment(**more: str) -> dict[str, str]:
    """This process's environment and `more`, where entries of PYTHONPATH mean what they mean here. Empty ones, which
    stand for the working directory, are left out."""
    inherited = dict(os.environ)
    if "PYTHONPATH" in inherited:
        entries = filter(None, inherited["PYTHONPATH"].split(os.pathsep))
        inherited["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, entries))
    return {**inherited, **more}
