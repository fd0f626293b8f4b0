"""Schedules: tabulated, monotone, and turned down out of range."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmot_sws.training.schedules import constant, geometric, linear

FRACTIONS = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]
UNIT = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (constant(0.3), [0.3] * 7),
        (linear(2.0, 4.0), [2, 2.2, 2.5, 3, 3.5, 3.8, 4]),
        (linear(1.0, 0.0, start=0.25, end=0.75), [1, 1, 1, 0.5, 0, 0, 0]),
        (linear(0.0, 1.0, start=0.5, end=0.5), [0, 0, 0, 1, 1, 1, 1]),
        (linear(0.0, 1.0, start=0.0, end=0.0), [1] * 7),
        (linear(0.0, 1.0, start=1.0, end=1.0), [0, 0, 0, 0, 0, 0, 1]),
        (geometric(1.0, 16.0), [1, 16**0.1, 2, 4, 8, 16**0.9, 16]),
        (geometric(4.0, 1.0, end=0.5), [4, 4**0.8, 2, 1, 1, 1, 1]),
    ],
)
def test_table(schedule, expected):
    assert [schedule(fraction) for fraction in FRACTIONS] == pytest.approx(expected)


@given(UNIT, UNIT, st.lists(UNIT, min_size=2, max_size=2).map(sorted))
def test_monotone_and_exact_at_the_ends(first, second, window):
    start, end = window
    schedule = linear(0.0, 1.0, start=start, end=end)
    low, high = sorted([first, second])
    assert 0.0 <= schedule(low) <= schedule(high) <= 1.0
    assert schedule(1.0) == 1.0
    if start < end:
        assert schedule(start) == 0.0


@given(UNIT, UNIT, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_geometric_is_monotone(first, second, initial, final):
    schedule = geometric(initial, final)
    low, high = sorted([first, second])
    step = schedule(high) - schedule(low)
    assert step * (final - initial) >= -1e-9 * final * abs(final - initial)


@pytest.mark.parametrize("factory", [linear, geometric])
@pytest.mark.parametrize(("start", "end"), [(-0.1, 1), (0, 1.1), (0.6, 0.5), (float("nan"), 1)])
def test_fractions_out_of_range(factory, start, end):
    with pytest.raises(ValueError, match=f"0 <= start <= end <= 1; received start={start}"):
        factory(1.0, 2.0, start=start, end=end)


@pytest.mark.parametrize(("initial", "final"), [(0, 1), (1, 0), (-1, 1), (1, float("nan"))])
def test_geometric_needs_positive_values(initial, final):
    with pytest.raises(ValueError, match="needs values above 0"):
        geometric(initial, final)
