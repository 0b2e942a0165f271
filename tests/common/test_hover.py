"""What points and bars of a figure say: the text, and that it lies on the mark that is drawn."""

import re

import numpy as np
import pandas as pd
import pytest

from ktask.common import figures, hover

GIB = 1 << 30


@pytest.fixture
def table():
    found = pd.DataFrame(
        {"way": ["a", "a", "b", "b"], "threads": [1, 2, 1, 2], "time": [4.0, 2.0, np.nan, 3.0]}
    )
    return found.assign(time_low=[3.9, 1.9, np.nan, np.nan], time_high=[4.1, 2.2, np.nan, np.nan])


def titles_of(svg):
    return re.findall("<title>(.*?)</title>", svg)


def test_each_point_says_its_value_where_it_is_drawn(table):
    with figures.theme():
        drawing, axis = figures.single()
        figures.curves(axis, table, "threads", "time", "way", unit="ms")
    assert titles_of(figures.to_svg(drawing, "key", "words")) == [
        "a, 1 thread: time 4.00 [3.90, 4.10] ms",
        "a, 2 threads: time 2.00 [1.90, 2.20] ms",
        "b, 2 threads: time 3.00 ms",
    ]
    drawn = [tuple(point) for line in axis.lines for point in line.get_xydata()]
    assert {tuple(place) for place in axis.collections[-1].get_offsets()} <= set(drawn)


@pytest.mark.parametrize("look", [{}, {"dodge": False}, {"hue_order": ["b", "a"]}])
def test_points_in_rows_say_theirs_where_they_are_drawn(table, look):
    rows = table.assign(path=["x", "y", "x", "y"])
    with figures.theme():
        drawing, axis = figures.single()
        figures.intervals(axis, rows, "time", "path", "way", **look)
    assert titles_of(figures.to_svg(drawing, "key", "words"))[1] == "y, 2 threads: time 2.00 [1.90, 2.20]"
    drawn = np.concatenate([line.get_xydata() for line in axis.lines])
    for place in axis.collections[-1].get_offsets():
        assert np.isclose(drawn, place).all(axis=1).any()


def test_a_bar_says_its_text_and_keeps_its_colour():
    with figures.theme():
        drawing, axis = figures.single()
        (bar,) = axis.barh(0, 1, color=figures.PALETTE[0])
        hover.says(bar, "<zone->lock> & more: 3 %")
    svg = figures.to_svg(drawing, "key", "words")
    assert titles_of(svg) == ["&lt;zone-&gt;lock&gt; &amp; more: 3 %"]
    (mark,) = re.findall('<g class="value">.*?</g>', svg, re.DOTALL)
    assert "--series-1" in mark and "fill-opacity" not in mark


@pytest.mark.parametrize(
    ("row", "hue", "text"),
    [
        ({"time_s": 0.012, "low": 0.011, "high": 0.013}, None, "time 12.0 ms [11.0 ms, 13.0 ms]"),
        ({"time_s": 2, "page_kind": "4KiB", "size_bytes": GIB}, None, "4KiB pages, 1 GiB: time 2.00 s"),
        ({"time_s": 2, "page_kind": "1GiB", "size_bytes": GIB}, "1 GiB", "1 GiB: time 2.00 s"),
        ({"time_s": 2, "page_kind": "4KiB", "threads": 2}, "a, 4 KiB", "a, 4 KiB, 2 threads: time 2.00 s"),
        ({"time_s": float("nan")}, "x", "x: time –"),
    ],
)  # fmt: skip
def test_a_row_in_words(row, hue, text):
    row = {"low": np.nan, "high": np.nan} | row
    assert hover.text_of(row, "time_s", ("low", "high"), hue) == text


def test_pictures_of_other_kinds_do_not_show_it(table, tmp_path):
    with figures.theme():
        drawing, axis = figures.single()
        figures.curves(axis, table, "threads", "time", "way")
    before = drawing._repr_png_()
    axis.collections[-1].remove()
    assert drawing._repr_png_() == before
    figures.save(drawing, tmp_path / "a.svg")
    assert "says:" not in (tmp_path / "a.svg").read_text()
