from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from node_agent.job import BackgroundSettings, SceneSettings
from node_agent.workloads.background import Autoencoder, BackgroundError, BackgroundLearning
from node_agent.workloads.detection import spectral_angle
from node_agent.workloads.scenes import open_scene, target_prior

LINES, SAMPLES, BANDS = 24, 20, 16


class Alone:
    rank, size = 0, 1

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> None:
        assert tensor.is_contiguous()


REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda stack: stack.sum(0),
    "min": lambda stack: stack.amin(0),
    "max": lambda stack: stack.amax(0),
}


class Group:
    """Collectives of several workloads in one process: each on its own thread, meeting at a barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slots: list[Tensor] = [torch.empty(0)] * size
        self.barrier = threading.Barrier(size, timeout=240)

    def member(self, rank: int) -> Any:
        group = self

        class Member:
            size = group.size

            def __init__(self) -> None:
                self.rank = rank

            def all_reduce(self, tensor: Tensor, op: str = "sum") -> None:
                assert tensor.is_contiguous()
                group.slots[rank] = tensor.clone()
                group.barrier.wait()
                result = REDUCE[op](torch.stack(group.slots))
                group.barrier.wait()
                tensor.copy_(result)

        return Member()


@pytest.fixture
def scene_path(tmp_path: Path) -> Path:
    """Two smooth materials mixed at random, noise, twelve target pixels in two blobs, a dead band and some damage."""
    generator = np.random.default_rng(2)
    position = np.linspace(0, 1, BANDS)
    materials = np.stack([300 + 400 * position, 700 - 300 * position**2])
    share = generator.random((LINES, SAMPLES, 1))
    cube = share * materials[0] + (1 - share) * materials[1] + generator.normal(0, 4, (LINES, SAMPLES, BANDS))
    mask = np.zeros((LINES, SAMPLES), np.uint8)
    mask[3:5, 4:8] = mask[18:20, 12:14] = 1
    cube[mask > 0] = 500 + 350 * np.sin(9 * position) + generator.normal(0, 4, (12, BANDS))
    cube[..., 5] = 100
    cube[10, 3, 2] = np.nan
    cube[21, 7] = np.nan
    cube[0, 0, 1] = -3
    path = tmp_path / "scene.npz"
    np.savez(path, data=cube.astype(np.float32), map=mask)
    return path


def settings_of(path: Path | str, lines: tuple[int, int], **changes: Any) -> BackgroundSettings:
    scene = SceneSettings(path=str(path), target="stone-steel-towers" if path == "indian-pines" else None)
    prior = target_prior(open_scene(scene), "blob", np.random.default_rng(0))
    values = {"target_spectrum": tuple(prior.spectrum), "network": (24, 12, 4), "batch": 64} | changes
    return BackgroundSettings(scene=scene, lines=lines, **values)


def alone(path: Path, seed: int = 7, rank: int = 0, **changes: Any) -> BackgroundLearning:
    workload = BackgroundLearning(settings_of(path, (0, LINES), **changes), seed, rank)
    workload.prepare(Alone())
    return workload


def together(path: Path, strips: list[tuple[int, int]]) -> list[tuple[BackgroundLearning, dict[str, Any]]]:
    group = Group(len(strips))

    def node(rank: int) -> tuple[BackgroundLearning, dict[str, Any]]:
        workload = BackgroundLearning(settings_of(path, strips[rank]), 7, rank)
        return workload, workload.prepare(group.member(rank))

    with ThreadPoolExecutor(len(strips)) as pool:
        return list(pool.map(node, range(len(strips))))


STRIPS = [[(0, 24)], [(0, 11), (11, 24)], [(0, 5), (5, 20), (20, 24)]]


@pytest.mark.parametrize("strips", STRIPS)
def test_strips_agree_with_the_whole(scene_path, strips):
    whole, nodes = alone(scene_path), together(scene_path, strips)
    for workload, facts in nodes:
        for mine, theirs in zip(workload.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert facts["bands_dropped"] == [5]
        assert facts["bands_kept"] == BANDS - 1
        assert facts["scaling"] == nodes[0][1]["scaling"]
        assert torch.equal(workload._target, nodes[0][0]._target)
    assert sum(facts["pixels"] for _, facts in nodes) == LINES * SAMPLES
    assert [sum(facts[key] for _, facts in nodes) for key in ("non_finite", "negative", "empty_pixels")] == [
        BANDS,  # the empty pixel's kept bands, and the one value
        1,
        1,
    ]
    maps = [workload.observe() for workload, _ in nodes]
    for key, expected in whole.observe().items():
        found = np.concatenate([strip[key] for strip in maps])
        assert found.shape == (LINES, SAMPLES)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), key


def test_a_band_is_kept_or_dropped_by_all_strips_alike(tmp_path, scene_path):
    with np.load(scene_path) as arrays:
        cube, mask = arrays["data"], arrays["map"]
    cube[:5, :, 8] = np.nan  # missing in all of the first strip, in a fifth of the scene
    cube[5:18, :, 9] = np.nan  # missing in most of the scene, but in nothing of the first strip
    np.savez(tmp_path / "gaps.npz", data=cube, map=mask)
    for _, facts in together(tmp_path / "gaps.npz", STRIPS[2]):
        assert facts["bands_dropped"] == [5, 9]


def test_pixels_and_prior_are_scaled_by_the_whole_scene(scene_path):
    (first, facts), (second, _) = together(scene_path, STRIPS[1])
    low, high = facts["scaling"]
    scene = open_scene(SceneSettings(path=str(scene_path)))
    raw = np.delete(scene.lines(0, 11), 5, axis=-1)[1:9].clip(0)  # damage is on other lines
    scaled = first._pixels.reshape(11, SAMPLES, -1)[1:9].numpy()
    assert scaled == pytest.approx(2 * (raw - low) / (high - low) - 1, abs=1e-5)
    everything = torch.cat([first._pixels, second._pixels])
    assert everything.min() == -1
    assert everything.max() == pytest.approx(1, abs=1e-6)


def test_background_excludes_targets_and_empty_pixels(scene_path):
    workload = alone(scene_path)
    background = np.zeros(LINES * SAMPLES, bool)
    background[workload._background.numpy()] = True
    background = background.reshape(LINES, SAMPLES)
    scene = open_scene(SceneSettings(path=str(scene_path)))
    coarse = workload.observe()["coarse"]
    assert (coarse[scene.mask] > 0.5).all()
    assert not background[scene.mask].any()
    assert not background[21, 7]
    assert workload.observe()["residual"][21, 7] == 0
    assert background.mean() > 0.9
    assert (coarse[background] <= 0.15).all()


def test_maps_are_their_formulas(scene_path):
    ((workload, facts),) = together(scene_path, STRIPS[0])
    maps = workload.observe()
    with torch.no_grad():
        reconstructed = workload.model(workload._pixels)
    seen = np.ones((LINES, SAMPLES), bool)
    seen[21, 7] = False  # the empty pixel
    x, y = ((values.numpy()[seen.ravel()].astype(float) + 1) / 2 for values in (workload._pixels, reconstructed))
    angle = np.arccos((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))
    assert maps["residual"][seen] == pytest.approx(angle, rel=1e-5)
    low, high = facts["scaling"]
    raw, target = (low + (high - low) * values for values in (x, workload._target.numpy().astype(float)))
    weights = np.linalg.solve(raw.T @ raw, target)
    scores = raw @ weights / (target @ weights)
    assert scores.min() < 0  # its magnitude is what counts
    assert maps["coarse"][seen] == pytest.approx(np.abs(scores), abs=1e-4)


def test_the_network_is_as_published():
    network = Autoencoder(189, (400, 400, 50), torch.Generator().manual_seed(0))
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [400, 400, 50, 400, 400, 189]
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "LeakyReLU"] * 2 + ["Linear"] + ["Linear", "LeakyReLU"] * 2 + ["Linear", "Tanh"]
    for layer in linear:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    assert [layer.out_features for layer in Autoencoder(9, (4,), torch.Generator()) if hasattr(layer, "bias")] == [4, 9]


def test_randomness_comes_from_seed_and_rank_alone(scene_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    same = [alone(scene_path, seed=3) for _ in range(2)]
    losses = [[workload.loss().item() for _ in range(3)] for workload in same]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    assert torch.equal(torch.get_rng_state(), before)
    other_rank, other_seed = alone(scene_path, seed=3, rank=1), alone(scene_path, seed=4)
    first = parameters_to_vector(same[0].model.parameters())
    assert torch.equal(first, parameters_to_vector(other_rank.model.parameters()))
    assert not torch.equal(first, parameters_to_vector(other_seed.model.parameters()))
    assert other_rank.loss().item() not in losses[0]


@pytest.mark.parametrize("batch", [64, 5])
def test_loss_is_error_plus_the_greatest_similarities(scene_path, batch):
    workload = alone(scene_path, batch=batch, suppression=0.3)
    seen: list[tuple[Tensor, Tensor]] = []
    workload.model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    loss = workload.loss().item()
    ((pixels, output),) = seen
    assert len(pixels) == batch
    x, y, d = pixels.numpy(), output.detach().numpy(), workload._target.numpy()
    cosine = np.cos(spectral_angle((y + 1) / 2, np.broadcast_to(d, y.shape)))
    expected = ((x - y) ** 2).mean() + 0.3 * np.sort(cosine)[-20:].mean()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_observing_leaves_the_training_as_it_was(scene_path):
    watched, unwatched = alone(scene_path), alone(scene_path)
    for _ in range(3):
        watched.observe()["coarse"][:] = 9
        assert watched.loss().item() == unwatched.loss().item()
    assert watched.observe()["coarse"].max() < 9


def background_error(workload: BackgroundLearning) -> float:
    pixels = workload._pixels[workload._background]
    with torch.no_grad():
        return torch.nn.functional.mse_loss(workload.model(pixels), pixels).item()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_training_learns_the_background_and_not_the_target(scene_path, seed):
    workload = alone(scene_path, seed=seed)
    untrained = background_error(workload)
    optimiser = torch.optim.Adam(workload.model.parameters(), 3e-3)
    for _ in range(200):
        optimiser.zero_grad()
        workload.loss().backward()
        optimiser.step()
    assert background_error(workload) < untrained / 10
    residual = workload.observe()["residual"]
    mask = open_scene(SceneSettings(path=str(scene_path))).mask
    assert np.median(residual[mask]) > 3 * np.median(residual[~mask])


def test_settings_that_do_not_fit(scene_path):
    for changes, message in (
        ({"target_spectrum": (1.0,) * 15}, "found 15 values.*16 bands"),
        ({"target_spectrum": (float("nan"),) * 16}, "16 of them not finite"),
        ({"network": ()}, "at least one layer"),
        ({"network": (8, 0)}, "nothing below 1"),
        ({"coarse_threshold": -1.0}, r"lines 0\.\.24 of scene hold no background"),
    ):
        with pytest.raises(BackgroundError, match=message):
            alone(scene_path, **changes)


def test_strips_of_indian_pines_agree():
    strips = [(0, 60), (60, 145)]
    nodes = together("indian-pines", strips)
    workload = BackgroundLearning(settings_of("indian-pines", (0, 145)), 7, 0)
    facts = workload.prepare(Alone())
    assert facts["bands_kept"] == 200
    assert facts["scaling"] == nodes[0][1]["scaling"] == [955, 9604]
    expected = workload.observe()["coarse"]
    found = np.concatenate([node.observe()["coarse"] for node, _ in nodes])
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
