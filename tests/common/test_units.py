"""Sizes, times and rates as text, and back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktask.common import units
from ktask.lab.measure.stats import Estimate


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512MiB", 512 << 20),
        ("1GiB", 1 << 30),
        ("4096", 4096),
        (4096, 4096),
        (" 1.5 GiB ", 3 << 29),
        ("2tib", 2 << 40),
        ("64 B", 64),
        ("0.5KiB", 512),
    ],
)
def test_sizes_are_read(text, size_bytes):
    assert units.parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["3parsecs", "-1", "0", "", "0MiB", "512MB", "1e3", "0.3B", "MiB", "1 2", "٣", "1GiB\n2", None]
)
def test_what_is_no_size_is_named_with_what_is_allowed(text):
    with pytest.raises(ValueError, match="512MiB") as caught:
        units.parse_size(text)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 1 << 20), st.sampled_from(list(units.SIZE_SUFFIXES)))
def test_a_whole_size_survives_the_round_trip(number, suffix):
    assert units.parse_size(f"{number}{suffix}") == number * units.SIZE_SUFFIXES[suffix]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (1, "1 B"),
        (4096, "4 KiB"),
        (512 << 20, "512 MiB"),
        (3 << 29, "1.50 GiB"),
        (64 << 30, "64 GiB"),
        (1023 << 10, "1023 KiB"),
        ((1 << 30) - 1, "1.00 GiB"),
    ],
)
def test_sizes_are_iec(size_bytes, text):
    assert units.fmt_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1234.4, "1234 s"),
        (1.5, "1.50 s"),
        (0.0123, "12.3 ms"),
        (9.996e-4, "1.00 ms"),
        (2.5e-6, "2.50 µs"),
        (6.3e-9, "6.30 ns"),
        (3e-10, "0.300 ns"),
        (0, "0 s"),
        (math.nan, "–"),
    ],
)
def test_times_are_si_with_three_digits(seconds, text):
    assert units.fmt_time(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "unit", "text"),
    [
        (8.61 * 2**30, "byte", "8.61 GiB/s"),
        (188.4e6, "PTE", "188 M PTE/s"),
        (2.5e3, "page", "2.50 k pages/s"),
        (12, "page", "12.0 pages/s"),
        (7, "furlong", "7.00 furlong/s"),
    ],
)
def test_rates_name_their_operation(per_second, unit, text):
    assert units.fmt_rate(per_second, unit) == text


def test_an_estimate_shares_unit_and_decimals():
    one = Estimate(0.11612, 0.1149, 0.11705, 0.114, 7)
    assert units.fmt_estimate(one, units.time_scale(one.median)) == "116 [115, 117] ms"
    assert units.fmt_estimate(Estimate(1.9, 1.875, 1.9149, 2, 7)) == "1.90 [1.88, 1.91]"
    assert units.fmt_estimate(Estimate(0.94, 0.9, 0.951, 1, 7), units.PERCENT, digits=2) == "94 [90, 95] %"


def test_a_single_value_says_that_it_has_no_interval():
    assert units.fmt_estimate(Estimate(1.9, math.nan, math.nan, 1.9, 1)) == "1.90 [no interval]"
    assert units.fmt_estimate(Estimate(math.nan, math.nan, math.nan, math.nan, 0)) == "–"
