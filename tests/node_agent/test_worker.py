from __future__ import annotations

import hashlib

import torch
from torch import nn

from node_agent.worker import digest, fingerprint


def test_digests_cover_every_bit_of_every_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    seen = {(fingerprint(model), digest(model))}
    for parameter in model.parameters():
        for place in (0, -1):
            bits = parameter.detach().view(-1).view(torch.int32)
            bits[place] ^= 1
            seen.add((fingerprint(model), digest(model)))
    assert len(seen) == 9
    assert len({one for one, _ in seen}) == len({other for _, other in seen}) == 9


def test_the_digest_is_sha256_of_the_parameters_in_order() -> None:
    model = nn.Linear(3, 2)
    content = b"".join(p.detach().numpy().tobytes() for p in (model.weight, model.bias))
    assert digest(model) == hashlib.sha256(content).hexdigest()
