from __future__ import annotations

import functools

import pytest

from edgesim.network.namespaces import probe
from edgesim.network.plan import Kernel


@functools.cache
def kernel_here() -> Kernel:
    return probe()


@pytest.fixture
def kernel() -> Kernel:
    """What works here; skips where no network namespace can be had."""
    found = kernel_here()
    why_not = found.forbidden or found.buckets or found.congestion
    if why_not is not None:
        pytest.skip(f"no shaped namespaces: {why_not}")
    return found


@pytest.fixture
def relaying(kernel: Kernel) -> Kernel:
    """The same; skips where there are no TUN devices."""
    if kernel.tun is not None:
        pytest.skip(f"no TUN devices: {kernel.tun}")
    return kernel
