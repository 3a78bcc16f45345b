from __future__ import annotations

import pytest
import torch

from node_agent.compression.views import (
    flatten,
    kernel_matrix,
    kernel_matrix_shape,
    rows,
    unflatten,
)

SHAPES = [(5, 7), (4, 3, 3, 3), (4, 3, 1, 1), (6, 2, 5), (2, 3, 2, 3, 4), (3, 4, 1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_matrix_has_the_shape_foretold(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    matrix = kernel_matrix(tensor)
    assert tuple(matrix.shape) == kernel_matrix_shape(shape)
    assert torch.equal(matrix.flatten().sort().values, tensor.flatten().sort().values)


def test_kernels_are_contiguous_blocks() -> None:
    tensor = torch.randn(4, 5, 3, 2)
    matrix = kernel_matrix(tensor)
    for output in range(4):
        for channel in range(5):
            block = matrix[3 * output : 3 * output + 3, 2 * channel : 2 * channel + 2]
            assert torch.equal(block, tensor[output, channel])


def test_kernel_matrix_of_a_non_contiguous_tensor() -> None:
    tensor = torch.randn(3, 3, 4, 5).permute(2, 3, 0, 1)
    assert torch.equal(kernel_matrix(tensor), kernel_matrix(tensor.contiguous()))


def test_rows_are_filters() -> None:
    tensor = torch.randn(4, 5, 3, 2)
    assert torch.equal(rows(tensor)[2], tensor[2].flatten())


def test_vectors_have_no_kernel_matrix() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        kernel_matrix_shape((7,))


def test_unflatten_inverts_flatten() -> None:
    tensors = [torch.randn(3, 4), torch.randn(()), torch.randn(0, 2), torch.randn(5, 2).T]
    for found, expected in zip(unflatten(flatten(tensors), tensors), tensors, strict=True):
        assert torch.equal(found, expected)
