"""Detectors, fusion of maps and receiver operating characteristics. numpy only, free of torch.

Notation: x a pixel, d the target prior, both (B,); mu and S mean and covariance of the scene; R = mean of x x^T.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from spectral import RX, GaussianStats, MatchedFilter
from spectral.algorithms.detectors import ACE

from node_agent.workloads.cleaning import cleaned_strips, scene_statistics
from node_agent.workloads.scenes import Prior, Scene

Map = NDArray[np.float64]

ILL_CONDITIONED = 1e12
"""condition number from which float64 solutions have fewer than about four digits left"""

VISIBLE = (640e-9, 550e-9, 460e-9)
"""red, green and blue, m"""


def cem_filter(correlation: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Constrained energy minimisation: w = R^-1 d / (d^T R^-1 d), (B,), so that w^T d = 1; the score is w^T x.

    An ill-conditioned R is loaded by 1e-6 trace(R) / B. Source: Harsanyi, PhD thesis, UMBC, 1993.
    Raises ValueError where d is zero.
    """
    if not target.any():
        raise ValueError("the target prior is zero in every band")
    bands = target.size
    ill_conditioned = np.linalg.cond(correlation) > ILL_CONDITIONED
    loading = 1e-6 * float(np.trace(correlation)) / bands if ill_conditioned else 0.0
    direction = np.linalg.solve(correlation + loading * np.eye(bands), target)
    weights: NDArray[np.float64] = direction / (target @ direction)
    return weights


def rx(cube: Map, background: GaussianStats) -> Map:
    """(x - mu)^T S^-1 (x - mu). Source: Reed and Yu, IEEE TASSP 38(10), 1990."""
    scores: Map = RX(background)(cube)
    return scores


def ace(cube: Map, target: NDArray[np.float64], background: GaussianStats) -> Map:
    """Adaptive cosine estimator with its sign: s |s|, s the cosine between x - mu and d - mu under S^-1.

    The sign makes the test one-sided: a spectrum opposite to the target is not a target.
    Source: Kraut, Scharf and Butler, IEEE TSP 53(2), 2005.
    """
    sign: Map = np.sign(MatchedFilter(background, target)(cube))
    with np.errstate(invalid="ignore"):  # 0/0 where a pixel equals the mean
        squared_cosine: Map = np.nan_to_num(ACE(target, background)(cube))
    return sign * squared_cosine


def spectral_angle(x: NDArray[np.floating], y: NDArray[np.floating]) -> Map:
    """arccos(x^T y / (|x| |y|)) over the last axis, rad, in float64: near 0 the arc cosine of float32 has four digits.

    A spectrum that is zero everywhere has no direction; its angle is 0, so that empty pixels are never conspicuous.
    """
    a, b = x.astype(np.float64), y.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = np.divide((a * b).sum(axis=-1), norms, out=np.ones(norms.shape), where=norms > 0)
    angle: Map = np.arccos(cosine.clip(-1, 1))
    return angle


def min_max(scores: NDArray[np.floating]) -> Map:
    """Scale to [0, 1]; a constant map becomes 0."""
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / (high - low if high > low else 1.0)


def suppress(coarse: NDArray[np.floating]) -> Map:
    """Suppress the background of a raw coarse map I (of CEM: about 1 on targets, 0 on background).

    From W = 1, four times: I <- I W, then W <- max(1 - exp(-10 I), 0). It ends early where a pass beyond the first
    (which leaves I as it is) changes I by less than 1e-6 in mean square. Source: BLTSC, IEEE JSTARS 13, 2020.
    """
    current = coarse.astype(np.float64)
    weight = np.ones_like(current)
    for step in range(4):
        previous, current = current, current * weight
        if step and np.mean((current - previous) ** 2) < 1e-6:
            break
        weight = np.maximum(1 - np.exp(-10 * current), 0)
    return current


def fuse(angle: NDArray[np.floating], coarse: NDArray[np.floating]) -> Map:
    """The detection map (H, W): spectral angle scaled to [0, 1] over the whole scene, times the suppressed coarse map.

    Source: BLTSC, IEEE JSTARS 13, 2020.
    """
    return min_max(angle) * suppress(coarse)


def roc(
    scores: NDArray[np.floating], target: NDArray[np.bool_], scored: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Receiver operating characteristic over the pixels `scored`: false alarm rates, detection rates, area.

    All arguments (H, W). Raises ValueError where a score is not finite, or targets or background are not scored.
    """
    truth, values = target[scored], scores[scored]
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} scores are not finite")
    if truth.all() or not truth.any():
        raise ValueError(f"{int(truth.sum())} of {truth.size} scored pixels are targets, both kinds are needed")
    false_alarm, detection, _ = metrics.roc_curve(truth, values)
    return false_alarm, detection, float(metrics.auc(false_alarm, detection))


def roc_3d(scores: NDArray[np.floating], target: NDArray[np.bool_], scored: NDArray[np.bool_]) -> dict[str, float]:
    """The 3-D ROC figures of a map whose scored values are scaled to [0, 1], over all thresholds tau.

    auc_df = area of P_D against P_F; auc_dt, auc_ft = integrals of P_D and P_F over tau, which are the mean scaled
    scores of targets and background. td = df + dt; bs = df - ft; tdbs = dt - ft; od = df + dt - ft;
    odp = dt + 1 - ft; snpr = dt / ft (left out where ft = 0). Unlike auc_df all depend on the scaling, and so on the
    greatest score. Source: Chang, IEEE TGRS 59(6), 2021, doi 10.1109/TGRS.2020.3021671. Raises ValueError as `roc`.
    """
    df = roc(scores, target, scored)[2]
    scaled, truth = min_max(scores[scored]), target[scored]
    dt, ft = float(scaled[truth].mean()), float(scaled[~truth].mean())
    figures = {"auc_df": df, "auc_dt": dt, "auc_ft": ft}
    figures |= {"td": df + dt, "bs": df - ft, "tdbs": dt - ft, "od": df + dt - ft, "odp": dt + 1 - ft}
    return figures | ({"snpr": dt / ft} if ft > 0 else {})


def controls(scene: Scene, prior: Prior) -> dict[str, Map]:
    """What needs no learning, on the cleaned scene with the same prior: maps (H, W) of rx, ace, cem and brightness.

    brightness is the mean over bands. Statistics are of the whole scene; S is loaded by 1e-8 of its mean eigenvalue.
    Pixels without any value take no part in them and score 0.
    Reads the scene three times, strip by strip. Raises SceneError where no band can be used.
    """
    kept = scene_statistics(scene).kept
    background = _gaussian(scene, kept)
    correlation = background.cov + np.outer(background.mean, background.mean)
    background.cov = background.cov + 1e-8 * np.trace(background.cov) / kept.sum() * np.eye(int(kept.sum()))
    target = clean_prior(prior.spectrum, kept)
    weights = cem_filter(correlation, target)
    maps = {name: np.empty(scene.shape[:2]) for name in ("rx", "ace", "cem", "brightness")}
    for lines, strip in cleaned_strips(scene, kept):
        cube = strip.cube.astype(np.float64)
        maps["rx"][lines] = rx(cube, background)
        maps["ace"][lines] = ace(cube, target, background)
        maps["cem"][lines] = cube @ weights
        maps["brightness"][lines] = cube.mean(axis=-1)
        for scores in maps.values():
            scores[lines][strip.empty] = 0
    return maps


def clean_prior(spectrum: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A prior (B,) treated as the pixels are: kept bands, clipped at zero."""
    return spectrum[kept].clip(0)


def _gaussian(scene: Scene, kept: NDArray[np.bool_]) -> GaussianStats:
    """Mean and covariance of the cleaned scene; strips are merged by Chan's update, which does not cancel."""
    count, bands = 0, int(kept.sum())
    mean, scatter = np.zeros(bands), np.zeros((bands, bands))
    for _, strip in cleaned_strips(scene, kept):
        pixels = strip.cube[~strip.empty].astype(np.float64)
        if not len(pixels):
            continue
        centre = pixels.mean(axis=0)
        step = centre - mean
        pixels -= centre
        total = count + len(pixels)
        scatter += pixels.T @ pixels + np.outer(step, step) * (count * len(pixels) / total)
        mean += step * (len(pixels) / total)
        count = total
    return GaussianStats(mean, scatter / count, count)


def evaluate(
    arrays: Mapping[str, NDArray[np.floating]],
    target: NDArray[np.bool_],
    used: NDArray[np.bool_],
    controls: Mapping[str, NDArray[np.floating]],
    untrained: Mapping[str, NDArray[np.floating]] | None = None,
) -> dict[str, float]:
    """Figures of a run, over all pixels that did not give the prior.

    `arrays` and `untrained` hold the maps residual and coarse (H, W) of the trained network and of the same one before
    training; `target` and `used` are `Scene.mask` and `Prior.used`; `controls` holds further maps by name.
    auc, and the 3-D figures of `roc_3d`, are of the fused map, auc_residual and auc_coarse of its parts alone;
    auc_NAME of each control; auc_untrained and auc_untrained_residual of the untrained network.
    Raises ValueError as `roc`.
    """
    scored = ~used
    figures = roc_3d(fuse(arrays["residual"], arrays["coarse"]), target, scored)
    figures = {"auc": figures.pop("auc_df"), **figures}
    maps: dict[str, NDArray[np.floating]] = {f"auc_{part}": arrays[part] for part in ("residual", "coarse")}
    maps |= {f"auc_{name}": scores for name, scores in controls.items()}
    if untrained is not None:
        maps["auc_untrained"] = fuse(untrained["residual"], untrained["coarse"])
        maps["auc_untrained_residual"] = untrained["residual"]
    return figures | {name: roc(scores, target, scored)[2] for name, scores in maps.items()}


def false_colour(scene: Scene) -> NDArray[np.uint8]:
    """Three bands of the cleaned scene as red, green and blue, (H, W, 3), each stretched between its 2 % and 98 %.

    The bands nearest 640, 550 and 460 nm; where wavelengths are not known, those that a sensor evenly sampling
    400-2500 nm, as most with about two hundred bands, would have there. Raises SceneError where no band can be used.
    """
    kept = scene_statistics(scene).kept
    centres = scene.wavelengths if scene.wavelengths is not None else np.linspace(400e-9, 2500e-9, kept.size)
    chosen = [int(np.abs(centres[kept] - colour).argmin()) for colour in VISIBLE]
    image = np.concatenate([strip.cube[..., chosen] for _, strip in cleaned_strips(scene, kept)])
    low, high = np.percentile(image, (2, 98), axis=(0, 1))
    stretched = ((image - low) / np.where(high > low, high - low, 1)).clip(0, 1)
    colours: NDArray[np.uint8] = np.round(255 * stretched).astype(np.uint8)
    return colours
