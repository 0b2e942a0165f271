"""Sizes, times and rates as text: IEC sizes, SI times, three significant digits."""

import math
import re
from typing import NamedTuple, Protocol

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE_SUFFIXES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40, "PiB": 1 << 50}
ALLOWED_SIZES = "a positive number of bytes, or with a suffix KiB, MiB, GiB, TiB or PiB, such as 512MiB"
NO_VALUE = "–"

_TIME_STEPS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_COUNT_STEPS = ((1e9, "G "), (1e6, "M "), (1e3, "k "), (1.0, ""))
_SIZE_STEPS = tuple((float(factor), name) for name, factor in reversed(SIZE_SUFFIXES.items()))
# What one operation is called in a rate: plural words, capitals for abbreviations.
_RATE_NAMES = {"pte": "PTE", "ptes": "PTE", "page": "pages", "entry": "entries", "call": "calls"}


class HasInterval(Protocol):
    """Anything with a median and an interval, such as `ktask.lab.measure.stats.Estimate`."""

    @property
    def median(self) -> float:
        """The middle."""
        ...

    @property
    def low(self) -> float:
        """The lower end."""
        ...

    @property
    def high(self) -> float:
        """The upper end."""
        ...


class Scale(NamedTuple):
    """A unit to print in: values are divided by `factor` and followed by `suffix`."""

    factor: float
    suffix: str


RATIO = Scale(1.0, "")
PERCENT = Scale(0.01, "%")


def parse_size(text: str | int) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    text : str or int
        Such as "512MiB", "1.5 GiB" or "4096"; bare numbers are bytes.

    Raises
    ------
    ValueError
        If the text is no size, not positive or no whole number of bytes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text), re.IGNORECASE | re.ASCII)
    factors = {name.lower(): factor for name, factor in SIZE_SUFFIXES.items()} | {"": 1}
    if not match or match[2].lower() not in factors:
        raise ValueError(f"size {text!r} is not understood; use {ALLOWED_SIZES}")
    whole, _, fraction = match[1].partition(".")
    scaled, rest = divmod(int(whole + fraction) * factors[match[2].lower()], 10 ** len(fraction))
    if scaled <= 0 or rest:
        raise ValueError(f"size {text!r} is not a positive whole number of bytes; use {ALLOWED_SIZES}")
    return scaled


def fmt_number(value: float, digits: int = 3) -> str:
    """Return a number with at least three significant digits, without an exponent: 0.0123, 1.90, 1234."""
    if not math.isfinite(value):
        return NO_VALUE
    if value == 0 or abs(value) >= 10**digits:
        return f"{value:.0f}"
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)}f}"


def _pick(value: float, steps: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """Return the largest step that leaves at least 1 after rounding to three digits."""
    if not math.isfinite(value) or value == 0:
        return next(step for step in steps if step[0] == 1.0)
    return next((step for step in steps if float(f"{abs(value) / step[0]:.2e}") >= 1), steps[-1])


def time_scale(seconds: float) -> Scale:
    """Return the SI unit that suits a time."""
    return Scale(*_pick(seconds, _TIME_STEPS))


def rate_scale(per_second: float, unit: str) -> Scale:
    """Return the unit that suits a rate of `unit`: GiB/s for bytes, M PTE/s for page-table entries."""
    if unit in ("byte", "bytes", "B"):
        factor, name = _pick(per_second, _SIZE_STEPS)
        return Scale(factor, f"{name}/s")
    factor, prefix = _pick(per_second, _COUNT_STEPS)
    return Scale(factor, f"{prefix}{_RATE_NAMES.get(unit.lower(), unit)}/s")


def _with_suffix(number: str, scale: Scale) -> str:
    return f"{number} {scale.suffix}".rstrip() if number != NO_VALUE else number


def fmt_scaled(value: float, scale: Scale) -> str:
    """Return a value in the unit of `scale`."""
    return _with_suffix(fmt_number(value / scale.factor), scale)


def fmt_size(size_bytes: float) -> str:
    """Return a size in IEC units: "512 MiB"; whole numbers stay whole."""
    factor, name = _pick(size_bytes, _SIZE_STEPS)
    number = size_bytes / factor
    return f"{int(number)} {name}" if number == int(number) else f"{fmt_number(number)} {name}"


def exact_size(size_bytes: int) -> str:
    """Return a size in the largest unit that it is a multiple of, as `parse_size` reads it: 1536MiB."""
    name, factor = next((n, f) for n, f in reversed(SIZE_SUFFIXES.items()) if size_bytes % f == 0)
    return f"{size_bytes // factor}{name}"


def fmt_time(seconds: float) -> str:
    """Return a time in SI units: "1.23 ms"."""
    return fmt_scaled(seconds, time_scale(seconds))


def fmt_rate(per_second: float, unit: str) -> str:
    """Return a rate: "8.61 GiB/s" for bytes, "188 M PTE/s" for page-table entries."""
    return fmt_scaled(per_second, rate_scale(per_second, unit))


def fmt_interval(estimate: HasInterval, scale: Scale = RATIO, digits: int = 3) -> str:
    """Return the interval alone, with the decimals of its median: "[1.88, 1.94]"."""
    if not all(math.isfinite(end) for end in (estimate.median, estimate.low, estimate.high)):
        return "[no interval]"
    middle = fmt_number(estimate.median / scale.factor, digits)
    decimals = len(middle.partition(".")[2])
    return f"[{estimate.low / scale.factor:.{decimals}f}, {estimate.high / scale.factor:.{decimals}f}]"


def fmt_estimate(estimate: HasInterval, scale: Scale = RATIO, digits: int = 3) -> str:
    """Return median and interval in one unit: "8.61 [8.55, 8.70] GiB/s"."""
    if not math.isfinite(estimate.median):
        return NO_VALUE
    number = fmt_number(estimate.median / scale.factor, digits)
    return _with_suffix(f"{number} {fmt_interval(estimate, scale, digits)}", scale)
