"""Energy from samples of power."""

from __future__ import annotations


class Energy:
    """Integrates power over the time since 0, by the trapezoidal rule where it was sampled.

    Before the first sample and after the last the power is taken to be theirs. A stretch without a sample that is
    longer than `longest_gap` (s) is not bridged: it counts as unmeasured, and what was used in it is left out. So does,
    however short, the time before a meter's first count and after its last.
    """

    def __init__(self, longest_gap: float) -> None:
        self._longest_gap = longest_gap
        self._joules = 0.0
        self._unmeasured = 0.0
        self._latest: tuple[float, float | None] | None = None

    def sample(self, time: float, watts: float) -> None:
        """The power at `time`, which is not before the latest one."""
        since, before = self._latest or (0.0, watts)
        self._add(time - since, watts if before is None else (before + watts) / 2)
        self._latest = time, watts

    def count(self, time: float, joules: float) -> None:
        """What a meter has counted until `time`, from the last call on: known however long that took."""
        if self._latest is None:
            self._unmeasured += time
        self._joules += joules
        self._latest = time, None

    def until(self, time: float) -> tuple[float | None, float]:
        """J used until `time`, not before the latest sample, and the s of it that are unmeasured; None: there was no
        sample at all."""
        if self._latest is None:
            return None, time
        since, watts = self._latest
        joules, unmeasured = self._joules, self._unmeasured
        if watts is not None and time - since <= self._longest_gap:
            return joules + watts * (time - since), unmeasured
        return joules, unmeasured + time - since

    def _add(self, seconds: float, watts: float) -> None:
        if seconds <= self._longest_gap:
            self._joules += watts * seconds
        else:
            self._unmeasured += seconds
