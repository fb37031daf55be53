"""How long a chain will take on this machine: a short calibration here, and the times of one where it was measured."""

from __future__ import annotations

import time
from collections.abc import Sequence

from histogen.config import Settings

CALIBRATION_SECONDS = 2.0
REPORT = "report"
"""What writing the page is called among the stages."""


class Reference(Settings):
    """A machine on which the chain was timed."""

    speed: float
    """Calibration steps per second (:func:`measure_speed`)."""
    seconds: dict[str, float]
    """Wall seconds of each stage, and of the report."""


class Forecast:
    """What is left of a chain; it learns from the stages that were done how this machine compares.

    The first guess is the ratio of calibrations; each stage that is done then counts as much as its time in the
    reference, the calibration as much as a tenth of the whole.
    """

    def __init__(self, reference: Reference, stages: Sequence[str], speed: float) -> None:
        self.seconds = {name: reference.seconds.get(name, 0.0) for name in (*stages, REPORT)}
        self.factor = reference.speed / speed
        self.expected, self.taken = 0.0, 0.0

    def finished(self, stage: str, seconds: float | None) -> None:
        """Take in a stage that took ``seconds``; None when it was done before."""
        usual = self.seconds.pop(stage, 0.0)
        if seconds is not None and usual > 0:
            self.expected += usual
            self.taken += seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        everything = sum(self.seconds.values()) + self.expected
        prior = 0.1 * everything
        factor = (self.factor * prior + self.taken) / (prior + self.expected) if everything else 1.0
        return factor * sum(self.seconds.values())


def measure_speed(device_name: str) -> float:
    """Return training steps per second of a small convolutional network on ``device_name``, over two seconds."""
    import torch
    from torch import nn

    from histogen.training.precision import autocast, resolve_precision
    from histogen.training.processes import resolve_device

    device = resolve_device(device_name)
    precision = resolve_precision("auto", device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.SiLU()) for a, b in ((12, 64), (64, 64), (64, 12))]
        network = nn.Sequential(*layers).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(32, 12, 16, 16).to(device)
    steps, start, first = 0, time.perf_counter(), 0.0
    while (now := time.perf_counter()) - start < CALIBRATION_SECONDS:
        with autocast(device, precision):
            loss = network(images).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        steps += 1
        if steps == 1:  # what is set up once
            first = time.perf_counter() - now
    return (steps - 1) / max(time.perf_counter() - start - first, 1e-9)


def minutes(seconds: float) -> str:
    """Return ``about 6 min``, in words for an estimate."""
    return "less than a minute" if seconds < 45 else f"about {max(1, round(seconds / 60)):,} min"
