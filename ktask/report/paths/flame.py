"""A flame graph of several threads against one, as a small SVG: widths with several, colours by what grew.

Names of functions come from files of a run: they are cut, escaped and never part of an attribute. Whatever
the stacks are, the graph has a limited number of bytes: the narrowest frames are left out first.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, dropwhile
from typing import NamedTuple

from markupsafe import Markup

from ktask.common import units
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.functions import USER, function_of, is_entry
from ktask.report import markup
from ktask.report import sentences as words

LEAST_SHARE = 0.005  # of the CPU time with several threads; narrower frames are left out
MOST_BYTES = 24_000  # of the frames of one graph
MOST_DEPTH = 40
LONGEST_NAME = 60
WIDTH, ROW, LETTER = 960, 17, 6.1  # a letter of the label: its mean width at 11 px
# Opacity of the colour of a frame that did not change, and of one that is all growth: text stays readable.
FAINTEST, STRONGEST = 0.06, 0.5
MOST_WORDS = 5


class Frame(NamedTuple):
    """One function with the same callers in all its samples; seconds of one repetition."""

    name: str
    depth: int
    start_s: float  # its left end
    serial_s: float
    many_s: float

    @property
    def more_s(self) -> float:
        """By how much it grew."""
        return self.many_s - self.serial_s


class _Stack(NamedTuple):
    names: Sequence[str]  # the outermost first
    serial_s: float
    many_s: float


def frames(serial: Look, many: Look) -> list[Frame]:
    """Return the frames that are wide enough, those that call others before them."""
    both: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for i, look in enumerate((serial, many)):
        for stack, seconds in look.stacks.items():
            both[_outermost_first(stack)][i] += seconds
    stacks = [_Stack(names, *seconds) for names, seconds in both.items()]
    return [*_level(stacks, 0, 0.0, max(LEAST_SHARE * many.cpu_s, 1e-12))]


def _outermost_first(stack: Sequence[str]) -> tuple[str, ...]:
    """Return the functions from the entry of the kernel on, so that all threads have the same callers."""
    if function_of(stack) == USER:
        return (USER,)
    kernel = dropwhile(lambda name: not is_entry(name), reversed(stack))
    return tuple(name[:LONGEST_NAME] for name in [*kernel][:MOST_DEPTH])


def _level(stacks: Sequence[_Stack], depth: int, start_s: float, least_s: float) -> Iterator[Frame]:
    """Yield the frames at this depth by name, each before those that it calls."""
    by_name: dict[str, list[_Stack]] = defaultdict(list)
    for one in stacks:
        if len(one.names) > depth:
            by_name[one.names[depth]].append(one)
    for name, mine in sorted(by_name.items()):
        many_s = sum(one.many_s for one in mine)
        if many_s >= least_s:
            yield Frame(name, depth, start_s, sum(one.serial_s for one in mine), many_s)
            yield from _level(mine, depth + 1, start_s, least_s)
            start_s += many_s


def graph(serial: Look, many: Look, label: str, key: str) -> Markup:
    """Return the flame graph with a field to search it, which stays hidden without JavaScript."""
    found = frames(serial, many)
    if not found:
        return Markup("")
    drawn = _within_limit([(one, _drawn(one, many.cpu_s)) for one in found])
    return markup.render(
        "flame.html.j2",
        key=key,
        label=label,
        threads=words.count(many.threads, "thread"),
        times=(units.fmt_time(serial.cpu_s), units.fmt_time(many.cpu_s)),
        described=_in_words(found, many.cpu_s),
        size=(WIDTH, ROW * (max(one.depth for one, _ in drawn) + 1)),
        frames=markup.join((text for _, text in drawn), "\n"),
        left_out=len(found) - len(drawn),
    )


def _within_limit(drawn: list[tuple[Frame, Markup]]) -> list[tuple[Frame, Markup]]:
    """Return the widest frames, as many as the bytes allow; one is never there without its callers."""
    widest = sorted(drawn, key=lambda one: (-one[0].many_s, one[0].depth))
    sizes = accumulate(len(text.encode()) for _, text in widest)
    return [one for one, size in zip(widest, sizes, strict=True) if size <= MOST_BYTES]


def _drawn(frame: Frame, total_s: float) -> Markup:
    """Return a frame: what to show when pointed at, its rectangle, and its name where there is room."""
    kind, opacity = _look(frame)
    x, width = (WIDTH * seconds / total_s for seconds in (frame.start_s, frame.many_s))
    y, letters = ROW * frame.depth, int((width - 6) / LETTER)
    shown = (
        frame.name if len(frame.name) <= letters else f"{frame.name[: letters - 1]}…" if letters > 3 else ""
    )
    text = Markup('<text x="{:.1f}" y="{}">{}</text>').format(x + 3, y + ROW - 5, shown) if shown else ""
    return Markup(
        '<g class="{}"><title>{}: {}</title><rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" '
        'fill-opacity="{:.2f}"/>{}</g>'
    ).format(kind, frame.name, _about(frame, total_s), x, y, width, ROW - 1, opacity, text)


def _look(frame: Frame) -> tuple[str, float]:
    """Return the class of a frame, more or less time than before, and how strong its colour is."""
    change = frame.more_s / frame.many_s
    return "more" if change > 0 else "less", FAINTEST + (STRONGEST - FAINTEST) * min(1.0, abs(change))


def _about(frame: Frame, total_s: float) -> str:
    sign = "+" if frame.more_s >= 0 else "−"
    return (
        f"{100 * frame.many_s / total_s:.1f} %, {units.fmt_time(frame.many_s)} "
        f"({sign}{units.fmt_time(abs(frame.more_s))})"
    )


def _in_words(found: Sequence[Frame], total_s: float) -> str:
    """Return the frames that grew most, for those who cannot see the graph."""
    ends = [one for one in found if one.more_s > 0]
    most = sorted(ends, key=lambda one: (-one.more_s, -one.depth))[:MOST_WORDS]
    return "; ".join(f"{one.name}: {_about(one, total_s)}" for one in most) or "no function grew"
