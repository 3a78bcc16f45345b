"""Gradients in bfloat16 (Kalamkar et al., arXiv 1905.12322), summed in bfloat16."""

from __future__ import annotations

import torch

from node_agent.compression.fp16 import FP16


class BF16(FP16):
    """ghat = sum_k bfloat16(g_k / N)"""

    dtype = torch.bfloat16
