"""Jitter and loss against their definitions: moments, bounds, and the statistics of bursts."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.impairments import Jitter, JitterKind, Losses
from node_agent.job import Bursts, LinkState

KINDS: tuple[JitterKind, ...] = ("normal", "uniform", "pareto")


@pytest.mark.parametrize("kind", KINDS)
def test_jitter_has_mean_zero_and_the_standard_deviation_asked_for(kind: JitterKind) -> None:
    samples = Jitter(kind).samples(200_000, np.random.default_rng(1))
    assert samples.mean() == pytest.approx(0, abs=0.01)
    assert samples.std() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_packets_one_by_one_get_what_many_at_once_get(kind: JitterKind) -> None:
    jitter = Jitter(kind)
    one, many = np.random.default_rng(5), np.random.default_rng(5)
    assert [jitter.sample(one) for _ in range(50)] == pytest.approx(jitter.samples(50, many).tolist())


def test_uniform_jitter_is_bounded_by_root_three() -> None:
    # the variance of a uniform distribution of half width h is h² / 3
    samples = Jitter("uniform").samples(100_000, np.random.default_rng(2))
    assert np.abs(samples).max() == pytest.approx(np.sqrt(3), rel=1e-3)
    assert np.abs(samples).max() <= np.sqrt(3)


def test_pareto_jitter_has_a_tail_of_late_packets_only() -> None:
    # Shape 3 between 1 and 10, so that u = x^-3 is uniform from 0.001 to 1. Mean 1.5 (1 - 0.001^(2/3)) / 0.999 =
    # 1.48649, mean square 3 (1 - 0.1) / 0.999 = 2.70270, standard deviation √(2.70270 - 2.20964) = 0.70218.
    # The median is x = 0.5005^(-1/3) = 1.25950.
    samples = Jitter("pareto").samples(200_000, np.random.default_rng(3))
    assert samples.min() == pytest.approx((1 - 1.48649) / 0.70218, abs=1e-3)
    assert 10 < samples.max() <= (10 - 1.48649) / 0.70218 + 1e-4
    assert np.median(samples) == pytest.approx((1.25950 - 1.48649) / 0.70218, abs=0.005)


def test_clipping_at_zero_takes_from_the_deviation_and_adds_to_the_mean() -> None:
    # Normal with delay = deviation = 1: mean Φ(1) + φ(1) = 0.84134 + 0.24197 = 1.08332; mean square
    # 2 Φ(1) + φ(1) = 1.92466; standard deviation √(1.92466 - 1.17357) = 0.86666.
    assert Jitter("normal").clipped(1.0, 1.0) == pytest.approx((1.08332, 0.86666), rel=1e-3)
    # Uniform from -√3 to √3, its lower half at zero: mean √3 / 4, mean square 1/2, variance 1/2 - 3/16.
    assert Jitter("uniform").clipped(0.0, 1.0) == pytest.approx((np.sqrt(3) / 4, np.sqrt(5 / 16)), rel=1e-3)
    # Pareto never falls below 0.6929 deviations.
    assert Jitter("pareto").clipped(0.7, 1.0) == pytest.approx((0.7, 1.0), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_is_what_samples_show(kind: JitterKind) -> None:
    delays = np.maximum(0, 0.002 + 0.003 * Jitter(kind).samples(400_000, np.random.default_rng(4)))
    mean, deviation = Jitter(kind).clipped(0.002, 0.003)
    assert (mean, deviation) == (pytest.approx(delays.mean(), rel=0.01), pytest.approx(delays.std(), rel=0.02))


def test_independent_losses_are_as_frequent_as_asked_for() -> None:
    lost = Losses(LinkState(loss=0.03)).lost(200_000, np.random.default_rng(6))
    assert lost.mean() == pytest.approx(0.03, rel=0.03)
    # each on its own: the one after a lost packet is lost as often as any
    assert lost[1:][lost[:-1]].mean() == pytest.approx(0.03, abs=0.008)


def test_a_link_without_loss_loses_nothing_and_uses_up_no_randomness() -> None:
    generator = np.random.default_rng(7)
    assert not Losses(LinkState()).lost(1000, generator).any()
    assert generator.random() == np.random.default_rng(7).random()


@pytest.mark.parametrize(
    "bursts",
    [
        Bursts(enter=0.01, leave=0.25),
        Bursts(enter=0.05, leave=0.5, lost_inside=0.6, lost_outside=0.01),
        Bursts(enter=0.9, leave=0.8),
    ],
)
def test_bursts_lose_their_mean(bursts: Bursts) -> None:
    lost = Losses(LinkState(bursts=bursts)).lost(400_000, np.random.default_rng(8))
    assert lost.mean() == pytest.approx(bursts.mean, rel=0.03)


def test_bursts_are_as_long_as_their_chain_stays() -> None:
    lost = Losses(LinkState(bursts=Bursts(enter=0.02, leave=0.2))).lost(400_000, np.random.default_rng(9))
    runs = [(state, sum(1 for _ in run)) for state, run in groupby(lost.tolist())]
    assert np.mean([length for state, length in runs if state]) == pytest.approx(1 / 0.2, rel=0.03)
    assert np.mean([length for state, length in runs if not state]) == pytest.approx(1 / 0.02, rel=0.03)


def test_a_chain_that_never_stays_alternates() -> None:
    lost = Losses(LinkState(bursts=Bursts(enter=1, leave=1))).lost(100, np.random.default_rng(10))
    assert (lost[1:] != lost[:-1]).all()


def test_the_chain_starts_in_its_stationary_distribution() -> None:
    # 0.1 / (0.1 + 0.3) = 1/4 of the links start in a burst
    generator = np.random.default_rng(11)
    state = LinkState(bursts=Bursts(enter=0.1, leave=0.3))
    assert np.mean([Losses(state).lost(1, generator)[0] for _ in range(20_000)]) == pytest.approx(0.25, abs=0.015)


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(0, 2**32))
def test_how_packets_are_grouped_does_not_matter(groups: list[int], seed: int) -> None:
    state = LinkState(bursts=Bursts(enter=0.2, leave=0.3))
    one, many = Losses(state), Losses(state)
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    grouped = [one.lost(n, first) for n in groups]
    assert np.concatenate([*grouped, np.zeros(0, bool)]).tolist() == many.lost(sum(groups), second).tolist()


def test_a_burst_goes_on_when_the_link_changes() -> None:
    losses = Losses(LinkState(bursts=Bursts(enter=1, leave=1e-9)))
    generator = np.random.default_rng(12)
    assert losses.lost(3, generator).tolist()[1:] == [True, True]
    losses.change(LinkState(bursts=Bursts(enter=1e-9, leave=1e-9)))
    assert losses.lost(100, generator).all()
    losses.change(LinkState(bursts=Bursts(enter=1e-9, leave=1)))  # one more packet, and the burst is over
    assert losses.lost(100, generator).tolist() == [True, *[False] * 99]
    losses.change(LinkState(loss=1e-9))
    assert not losses.lost(100, generator).any()
    # back in bursts, the chain starts anew: this one is nearly always outside
    losses.change(LinkState(bursts=Bursts(enter=1e-9, leave=1)))
    assert not losses.lost(100, generator).any()
