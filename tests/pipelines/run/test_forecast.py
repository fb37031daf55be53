"""How long a chain takes: from another machine's times, then from this one's."""

from __future__ import annotations

import time

import pytest

from histogen.pipelines.run.forecast import CALIBRATION_SECONDS, Forecast, Reference, measure_speed, minutes

REFERENCE = Reference(speed=10.0, seconds={"a": 60.0, "b": 120.0, "report": 20.0})


def test_a_machine_of_half_the_speed_takes_twice_as_long() -> None:
    assert Forecast(REFERENCE, ["a", "b"], 5.0).left() == pytest.approx(400.0)


def test_what_was_measured_here_soon_counts_more_than_the_calibration() -> None:
    forecast = Forecast(REFERENCE, ["a", "b"], 10.0)
    forecast.finished("a", 180.0)  # three times as long as foretold
    assert 2.4 * 140 < forecast.left() < 3.0 * 140
    forecast.finished("b", 360.0)
    assert 2.6 * 20 < forecast.left() < 3.0 * 20


def test_what_was_done_before_says_nothing_of_this_machine() -> None:
    forecast = Forecast(REFERENCE, ["a", "b"], 10.0)
    forecast.finished("a", None)
    assert forecast.left() == pytest.approx(140.0)


def test_stages_that_the_reference_does_not_know_do_not_break_it() -> None:
    forecast = Forecast(Reference(speed=1.0, seconds={}), ["a"], 1.0)
    forecast.finished("a", 5.0)
    assert forecast.left() == 0.0


def test_the_calibration_takes_its_two_seconds() -> None:
    start = time.perf_counter()
    assert measure_speed("cpu") > 0
    assert CALIBRATION_SECONDS <= time.perf_counter() - start < 10 * CALIBRATION_SECONDS


@pytest.mark.parametrize(("seconds", "words"), [(20, "less than a minute"), (50, "about 1 min"), (400, "about 7 min")])
def test_estimates_in_words(seconds: float, words: str) -> None:
    assert minutes(seconds) == words
