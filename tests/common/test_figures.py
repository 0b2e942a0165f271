"""What all figures share: a look, axes with room for labels, measured intervals, and pictures that repeat."""

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ktask.common import figures

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def points():
    return pd.DataFrame(
        {"threads": [1, 2, 1, 2], "way": ["a", "a", "b", "b"], "speedup": [1, 1.9, 1, 1.5]}
        | {"speedup_low": [1, 1.7, 1, np.nan], "speedup_high": [1, 2.4, 1, np.nan]}
    )


def drawn(points, order=("a", "b")):
    with figures.theme():
        drawing, axis = figures.single()
        figures.curves(axis, points, "threads", "speedup", "way", order=order)
    return drawing, axis


def test_a_curve_has_the_interval_of_its_table(points):
    _, axis = drawn(points)
    bars = axis.collections[0].get_segments()
    assert bars[1][:, 1].tolist() == pytest.approx([1.7, 2.4])
    assert axis.lines[0].get_ydata().tolist() == [1, 1.9]


def test_a_point_without_an_interval_is_drawn(points):
    _, axis = drawn(points)
    assert [1, 1.5] in [list(line.get_ydata()) for line in axis.lines]


def test_a_curve_looks_the_same_in_every_panel(points):
    _, axis = drawn(points[points["way"] == "b"])
    assert axis.lines[0].get_color() == figures.PALETTE[1]
    assert [text.get_text() for text in axis.legend_.get_texts()] == ["b"]


def test_intervals_lie_in_rows(points):
    with figures.theme():
        _, axis = figures.single()
        figures.intervals(axis, points.iloc[[1]], "speedup", "way")
    values = {value for line in axis.lines for value in line.get_xdata()}
    assert sorted(values) == pytest.approx([1.7, 1.9, 2.4])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a"]


def test_intervals_of_one_colour_only_are_drawn(points):
    with figures.theme():
        _, axis = figures.single()
        figures.intervals(axis, points[points["way"] == "a"], "speedup", "threads", "way")
    assert 1.9 in {value for line in axis.lines for value in line.get_xdata()}


def test_drawing_and_saving_leave_no_trace(points, tmp_path):
    with mpl.rc_context():
        mpl.rcdefaults()
        before = dict(mpl.rcParams)
        for name in ("one.svg", "two.svg", "three.png"):
            figures.save(drawn(points)[0], tmp_path / name)
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert drawn(points)[0]._repr_png_().startswith(b"\x89PNG")


def test_an_inline_drawing_has_words_and_the_colours_of_the_page(points):
    svg = figures.to_svg(drawn(points)[0], "key", 'one & "two"')
    assert svg == figures.to_svg(drawn(points)[0], "key", 'one & "two"')
    assert 'aria-label="one &amp; &quot;two&quot;"' in svg
    assert f"var(--series-1, {figures.PALETTE[0]})" in svg
    other = figures.to_svg(drawn(points)[0], "other", "words")
    first, second = (set(re.findall(r'\bid="([^"]+)"', one)) for one in (svg, other))
    assert first and not first & second


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (3, 3), (4, 4), (5, 3), (6, 3), (7, 4), (9, 3), (15, 4)]
)
def test_panels_leave_few_places_empty(count, columns):
    assert figures.columns_of(count) == columns


def test_sizes_are_labelled_where_there_is_room():
    axis = Figure().add_subplot()
    figures.size_axis([axis], [8 * MIB, 64 * MIB, 256 * MIB, GIB, 2 * GIB], 1.4)
    assert sorted(axis.get_xticks()) == [64 * MIB, 2 * GIB]


def test_many_threads_are_on_logarithmic_axes():
    few, many = (Figure().add_subplot() for _ in range(2))
    figures.thread_axis([few], [1, 2, 3])
    figures.thread_axis([many], [*range(1, 10), 288])
    assert (few.get_xscale(), few.get_xticks().tolist()) == ("linear", [1, 2, 3])
    assert (many.get_xscale(), many.get_xticks().tolist()) == ("log", [1, 2, 4, 8, 288])


@pytest.mark.parametrize(
    ("labels", "width_in", "columns"),
    [
        (["near", "far"], 3.8, 3),
        (["THP, node=local", "THP, node=local,placement=spread"] * 3, 5.6, 2),
        (["x" * 80] * 3, 3.8, 1),
    ],
)
def test_a_legend_has_as_many_columns_as_fit(labels, width_in, columns):
    assert figures._legend_columns(labels, width_in) == columns


def test_items_are_split_as_a_legend_splits_them():
    assert figures.split_evenly("abcdefg", 3) == ["abc", "de", "fg"]
    assert figures.split_evenly("ab", 3) == ["a", "b"]
