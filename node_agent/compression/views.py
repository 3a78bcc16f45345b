"""Parameter tensors as matrices, and many as one vector.

A weight is (outputs, inputs) or, for a convolution, (outputs, inputs, *kernel).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """All entries of all tensors in one new vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse: views of `flat`, shaped like these tensors."""
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def rows(tensor: Tensor) -> Tensor:
    """One row an output neuron or filter: (outputs, inputs * kernel)."""
    return tensor.reshape(tensor.shape[0], -1)


def kernel_matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of `kernel_matrix`. Raises ValueError for fewer than two dimensions."""
    outputs, inputs, height, width = _blocks(shape)
    return outputs * height, inputs * width


def kernel_of(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of the blocks of `kernel_matrix`."""
    _, _, height, width = _blocks(shape)
    return height, width


def kernel_matrix(tensor: Tensor) -> Tensor:
    """A matrix in which every kernel is a contiguous block: (outputs * height, inputs * width).

    A kernel of three dimensions counts its first two as height; one of a single dimension has height 1.
    """
    outputs, inputs, height, width = _blocks(tensor.shape)
    if height == width == 1:
        return tensor.reshape(outputs, inputs)
    blocks = tensor.reshape(outputs, inputs, height, width).transpose(1, 2)
    return blocks.reshape(outputs * height, inputs * width)


def _blocks(shape: Sequence[int]) -> tuple[int, int, int, int]:
    if len(shape) < 2:
        raise ValueError(f"a tensor of shape {tuple(shape)} has no matrix view: two dimensions are needed")
    outputs, inputs, *kernel = shape
    return outputs, inputs, prod(kernel[:-1]), prod(kernel[-1:])
