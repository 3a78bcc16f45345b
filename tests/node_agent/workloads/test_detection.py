from __future__ import annotations

import numpy as np
import pytest
import spectral
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from node_agent.job import SceneSettings
from node_agent.workloads import detection
from node_agent.workloads.scenes import Prior, Scene, open_scene, target_prior


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def scene_of(cube: np.ndarray, mask: np.ndarray) -> Scene:
    return Scene("memory", cube.shape, mask, "map", None, cube, (0, 1, 2))


def test_cem_passes_the_target_with_least_energy(generator):
    pixels = generator.gamma(2.0, 3.0, (500, 8))
    correlation, target = pixels.T @ pixels / 500, generator.gamma(2.0, 3.0, 8)
    weights = detection.cem_filter(correlation, target)
    assert weights @ target == pytest.approx(1)
    energy = weights @ correlation @ weights
    for _ in range(50):  # any other filter that passes the target
        step = generator.normal(size=8)
        other = weights + 0.1 * (step - target * (step @ target) / (target @ target))
        assert other @ correlation @ other >= energy
    assert detection.cem_filter(7.3 * correlation, target) == pytest.approx(weights)


def test_cem_of_a_singular_correlation_is_loaded(generator):
    pixels, target = generator.gamma(2.0, 3.0, (4, 8)), generator.gamma(2.0, 3.0, 8)  # fewer pixels than bands
    correlation = pixels.T @ pixels / 4
    inverse = np.linalg.inv(correlation + 1e-6 * np.trace(correlation) / 8 * np.eye(8))
    expected = inverse @ target / (target @ inverse @ target)
    assert detection.cem_filter(correlation, target) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="zero in every band"):
        detection.cem_filter(np.eye(3), np.zeros(3))


def test_rx_and_ace_by_hand():
    background = spectral.GaussianStats(mean=np.array([1.0, 1.0]), cov=np.diag([4.0, 1.0]))
    cube = np.array([[[3.0, 1.0], [1.0, 3.0], [-1.0, 1.0], [1.0, 1.0]]])
    assert detection.rx(cube, background) == pytest.approx(np.array([[1.0, 4.0, 1.0, 0.0]]))
    # whitened, d - mu = (1, 0): the pixels lie along, across, against it and at the mean
    assert detection.ace(cube, np.array([3.0, 1.0]), background) == pytest.approx(np.array([[1, 0, -1, 0]]))


def test_spectral_angle_by_hand():
    x = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, 0.0]], np.float32)
    y = np.array([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0], [1.0, 0.0]], np.float32)
    assert detection.spectral_angle(x, y) == pytest.approx([np.pi / 2, np.pi / 4, 0, 0], abs=1e-7)


def test_suppression_by_hand():
    # no pass changes 0; 0.1 falls pass by pass: I W with W = 1 - exp(-10 I) from the pass before
    value, weight = 0.1, 1.0
    for _ in range(4):
        value *= weight
        weight = 1 - np.exp(-10 * value)
    suppressed = detection.suppress(np.array([0.0, 0.1, 1.0, -0.5]))
    assert suppressed[1] == pytest.approx(value, rel=1e-12)
    assert value < 0.02
    assert suppressed[0] == 0
    assert suppressed[2] == pytest.approx(1, abs=2e-4)
    assert suppressed[3] == 0


def test_suppression_ends_early_where_it_changes_nothing():
    # the second pass multiplies 0.0005 by 1 - exp(-0.005), a mean-square change of 2.5e-7: it is the last
    value = 0.0005
    assert detection.suppress(np.full(3, value)) == pytest.approx(value * (1 - np.exp(-10 * value)))


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(0, 3)))
def test_suppression_keeps_order_and_never_raises(coarse):
    suppressed = detection.suppress(coarse)
    assert (suppressed <= coarse).all()
    order = np.argsort(coarse, axis=None)
    assert (np.diff(suppressed.ravel()[order]) >= -1e-15).all()


def test_fusion_scales_the_angle_over_the_scene():
    angle, coarse = np.array([[0.1, 0.3], [0.2, 0.5]]), np.full((2, 2), 5.0)
    assert detection.fuse(angle, coarse) == pytest.approx(5 * np.array([[0, 0.5], [0.25, 1]]))
    assert not detection.fuse(np.ones((2, 2)), coarse).any()


@given(
    hnp.arrays(np.float64, 30, elements=st.integers(0, 9).map(float)),
    hnp.arrays(bool, 30),
    hnp.arrays(bool, 30),
)
def test_area_is_the_chance_that_a_target_outscores_background(scores, target, scored):
    positive, negative = scores[target & scored], scores[~target & scored]
    if not positive.size or not negative.size:
        with pytest.raises(ValueError, match="both kinds"):
            detection.roc(scores, target, scored)
        return
    false_alarm, detected, area = detection.roc(scores, target, scored)
    difference = positive[:, None] - negative
    assert area == pytest.approx(np.mean(np.where(difference == 0, 0.5, difference > 0)))
    assert (false_alarm[0], detected[0], false_alarm[-1], detected[-1]) == (0, 0, 1, 1)
    assert np.isfinite(false_alarm).all()


def test_roc_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="1 of 3 scores"):
        detection.roc(np.array([0, np.nan, 1]), np.array([False, True, True]), np.ones(3, bool))


def test_three_dimensional_roc_by_hand():
    # scaled: targets 1 and 0.5, background 0, 0.25, 0.5; of six pairs five are won and one is a tie
    scores = np.array([6.0, 4.0, 2.0, 3.0, 4.0, 99.0])
    target = np.array([True, True, False, False, False, True])
    figures = detection.roc_3d(scores, target, scored=scores < 99)
    df, dt, ft = 5.5 / 6, 0.75, 0.25
    expected = {"auc_df": df, "auc_dt": dt, "auc_ft": ft, "td": df + dt, "bs": df - ft, "tdbs": dt - ft}
    expected |= {"od": df + dt - ft, "odp": dt + 1 - ft, "snpr": 3.0}
    assert figures == pytest.approx(expected)
    taus = np.linspace(0, 1, 20001)  # the areas by their definition
    scaled = (scores - 2) / 4
    assert np.mean([(scaled[:2] >= tau).mean() for tau in taus]) == pytest.approx(dt, abs=1e-3)
    assert np.mean([(scaled[2:5] >= tau).mean() for tau in taus]) == pytest.approx(ft, abs=1e-3)
    assert "snpr" not in detection.roc_3d(np.array([1.0, 0.0]), np.array([True, False]), np.ones(2, bool))


def test_controls_do_not_depend_on_how_the_scene_is_read(generator, monkeypatch):
    cube = generator.gamma(3.0, 100.0, (40, 10, 6)).astype(np.float32)
    cube[3, 3] = np.nan
    cube[..., 2] = 5
    mask = np.zeros((40, 10), bool)
    mask[5:8, 5:8] = True
    prior = Prior(cube[mask].mean(axis=0).astype(float), np.zeros_like(mask), "oracle")
    whole = detection.controls(scene_of(cube, mask), prior)
    monkeypatch.setattr(Scene, "strips", lambda self: [(start, start + 4) for start in range(0, 40, 4)])
    strips = detection.controls(scene_of(cube, mask), prior)
    assert list(whole) == ["rx", "ace", "cem", "brightness"]
    for name, scores in whole.items():
        assert scores.shape == (40, 10)
        assert scores[3, 3] == 0
        assert strips[name] == pytest.approx(scores, rel=1e-9, abs=1e-12), name
    pixels = np.delete(cube, 2, axis=-1).reshape(-1, 5).astype(float)
    pixels = pixels[np.isfinite(pixels[:, 0])]
    expected = spectral.rx(pixels, spectral.calc_stats(pixels)) * 399 / 398  # S over n, not n - 1
    found = whole["rx"].ravel()[np.arange(400) != 33]
    assert found == pytest.approx(expected, rel=1e-6)


def test_controls_are_their_formulas(generator):
    cube = generator.gamma(3.0, 100.0, (20, 10, 5)).astype(np.float32)
    mask = np.zeros((20, 10), bool)
    mask[5:8, 5:8] = True
    spectrum = cube[mask].mean(axis=0).astype(float)
    spectrum[1] = -30.0  # clipped at zero, as pixels are
    maps = detection.controls(scene_of(cube, mask), Prior(spectrum, np.zeros_like(mask), "oracle"))
    x, d = cube.reshape(-1, 5).astype(float), np.where(spectrum < 0, 0, spectrum)
    correlation = x.T @ x / len(x)
    weights = np.linalg.solve(correlation, d) / (d @ np.linalg.solve(correlation, d))
    assert maps["cem"].ravel() == pytest.approx(x @ weights, rel=1e-8)
    assert maps["cem"].min() < 0 < maps["cem"].max()
    assert maps["brightness"].ravel() == pytest.approx(x.mean(axis=1))
    mean, covariance = x.mean(axis=0), np.cov(x.T, bias=True)
    inverse = np.linalg.inv(covariance + 1e-8 * np.trace(covariance) / 5 * np.eye(5))
    along = (x - mean) @ inverse @ (d - mean)
    lengths = np.einsum("ij,jk,ik->i", x - mean, inverse, x - mean) * ((d - mean) @ inverse @ (d - mean))
    assert maps["ace"].ravel() == pytest.approx(np.sign(along) * along**2 / lengths, rel=1e-6)


def test_evaluate_leaves_out_what_gave_the_prior(generator):
    target = np.zeros((6, 6), bool)
    target[:2] = True
    used = np.zeros_like(target)
    used[0] = True
    residual, coarse = generator.random((6, 6)), generator.random((6, 6))
    residual[1], coarse[1] = 2.0, 2.0
    residual[0], coarse[0] = 0.0, 0.0  # would ruin every figure, were it scored
    control = {"rx": generator.random((6, 6))}
    figures = detection.evaluate({"residual": residual, "coarse": coarse}, target, used, control)
    assert figures["auc"] == figures["auc_residual"] == figures["auc_coarse"] == 1
    assert figures["auc_rx"] == detection.roc(control["rx"], target, ~used)[2]
    assert figures["od"] == pytest.approx(figures["auc"] + figures["auc_dt"] - figures["auc_ft"])
    assert "auc_untrained" not in figures
    untrained = {"residual": -residual, "coarse": coarse[::-1]}
    figures = detection.evaluate({"residual": residual, "coarse": coarse}, target, used, control, untrained)
    assert figures["auc_untrained_residual"] == 0
    fused = detection.fuse(-residual, coarse[::-1])
    assert figures["auc_untrained"] == detection.roc(fused, target, ~used)[2]


def test_false_colour(generator):
    cube = generator.random((20, 20, 8)).astype(np.float32)
    cube[..., 0], cube[..., 3], cube[..., 6] = np.linspace(0, 1, 20), 7, np.nan
    mask = np.ones((20, 20), bool)
    wavelengths = np.array([640, 2000, 2100, 551, 552, 460, 461, 2200]) * 1e-9
    scene = Scene("memory", cube.shape, mask, "map", wavelengths, cube, (0, 1, 2))
    image = detection.false_colour(scene)
    assert image.shape == (20, 20, 3)
    assert image.dtype == np.uint8
    assert (image.min(axis=(0, 1)) == 0).all()
    assert (image.max(axis=(0, 1)) == 255).all()
    assert (np.diff(image[0, :, 0].astype(int)) >= 0).all()  # red is band 0, the ramp
    for channel, band in ((1, 4), (2, 5)):  # band 3 is dead, so green is band 4
        assert np.corrcoef(image[..., channel].ravel(), cube[..., band].ravel())[0, 1] > 0.99
    assert detection.false_colour(scene_of(cube, mask)).shape == (20, 20, 3)


PUBLISHED = {  # RX, ACE with the oracle prior, ACE with the one-blob prior, brightness
    "sandiego": (0.8886, 0.9999, 0.9997, 0.280),
    "hydice": (0.9932, 1.0000, 0.9967, 0.815),
    "abu-airport-1": (0.8221, 0.9710, 0.8116, 0.640),
    "abu-airport-2": (0.8404, 0.9961, 0.9491, 0.601),
    "abu-airport-3": (0.9288, 0.9959, 0.8530, 0.892),
    "abu-beach-2": (0.9106, 0.9970, 0.8514, 0.901),
    "abu-beach-3": (0.9998, 1.0000, None, 0.908),
    "abu-urban-2": (0.9946, 0.9991, 0.6958, 0.999),
    "abu-urban-3": (0.9513, 0.9995, 0.9951, 0.720),
    "abu-urban-4": (0.9887, 0.9971, 0.7305, 0.996),
}
"""Areas measured independently on the raw cubes."""

CLIPPED = {"abu-beach-2", "abu-urban-2"}
"""scenes with enough negative values for the clipping to show in the third digit"""


def test_areas_on_real_scenes(real_scenes):
    for name in real_scenes:
        scene = open_scene(SceneSettings(path=name))
        rx, oracle, blob, brightness = PUBLISHED[name]
        tolerance = 4e-3 if name in CLIPPED else 2e-4
        everything = np.ones_like(scene.mask)
        prior = target_prior(scene, "oracle", np.random.default_rng(0))
        maps = detection.controls(scene, prior)
        found = {key: detection.roc(scores, scene.mask, everything)[2] for key, scores in maps.items()}
        assert found["rx"] == pytest.approx(rx, abs=tolerance), name
        assert found["ace"] == pytest.approx(oracle, abs=tolerance), name
        assert found["brightness"] == pytest.approx(brightness, abs=6e-4), name
        if blob is not None:
            prior = target_prior(scene, "blob", np.random.default_rng(0))
            ace = detection.controls(scene, prior)["ace"]
            assert detection.roc(ace, scene.mask, ~prior.used)[2] == pytest.approx(blob, abs=tolerance), name
