"""The device that a node trains on."""

from __future__ import annotations

import os
from typing import Literal

import torch

Wanted = Literal["auto", "cpu", "cuda"]


class AcceleratorError(ValueError):
    """A device that is not here. One line, for people."""


def accelerator(wanted: Wanted) -> torch.device:
    """auto: CUDA where torch finds a device. Raises AcceleratorError where CUDA is wanted and there is none."""
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        # Without it cuBLAS may take another algorithm in another run (PyTorch notes, Reproducibility).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return torch.device("cuda", torch.cuda.current_device())
    if wanted == "cuda":
        raise AcceleratorError(f"device: found cuda, allowed cpu: torch {torch.__version__} finds no CUDA device here")
    return torch.device("cpu")


def finish(device: torch.device) -> None:
    """Wait until the device has done all that this thread has asked of it: clocks of the host do not see before what
    it took. What other threads ask of it, on streams of their own, is not waited for."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
