"""What the page does when it is touched: sorting, values of marks, folded evidence; and without a script."""

import math

import browser
import pandas as pd
import pytest
from markupsafe import Markup
from nbformat import v4

from ktask.common import figures as drawing
from ktask.report import markup
from ktask.report.figure import Figure
from ktask.report.page import to_html

EVIL = "<img src=x onerror=alert(1)>"
ROWS = [
    {"path": "b", "time": "9.0 [8, 10] ms", "size": "1 GiB"},
    {"path": "a", "time": "80 [70, 90] µs", "size": "512 MiB"},
    {"path": EVIL, "time": "–", "size": "2 GiB"},
    {"path": "c", "time": "1.0 [1, 1] s", "size": "4 KiB"},
]


def figure():
    table = pd.DataFrame({"way": ["a", "a", EVIL], "threads": [1, 2, 2], "speedup": [1.0, 1.9, 1.5]})
    table = table.assign(speedup_low=table["speedup"] - 0.1, speedup_high=table["speedup"] + 0.1)
    with drawing.theme():
        made, axis = drawing.single()
        drawing.curves(axis, table, "threads", "speedup", "way")
    return Figure("curve", made, table, Markup("A curve."), "A curve from 1.0 to 1.9.", 1)


@pytest.fixture(scope="module")
def html():
    names = {"Path": "path", "Time": "time", "Size": "size"}
    parts = [
        '<h1>Touch</h1><p><a href="#deep">Evidence</a></p>',
        figure()._repr_html_(),
        str(markup.table(names, ROWS, caption="Times", key="times")),
        '<div style="height: 3000px"></div><details><summary>More</summary><details id="inner"><summary>'
        'Deeper</summary><p id="deep">seen</p></details></details>',
    ]
    outputs = [v4.new_output("display_data", {"text/html": part}) for part in parts]
    return to_html(v4.new_notebook(cells=[v4.new_code_cell("x", outputs=outputs)]), "touch")


@pytest.fixture(scope="module")
def new_page(tmp_path_factory, html):
    """A function that opens the page in a tab, with or without JavaScript."""
    if not browser.CHROMIUM:
        pytest.skip(browser.MISSING)
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(html, encoding="utf-8")

    with browser.browser(tmp_path_factory.mktemp("profile")) as new_tab:

        def opened(script=True):
            page = new_tab()
            page.call("Emulation.setScriptExecutionDisabled", value=not script)
            page.resize(800, 600)
            page.open(file.as_uri())
            return page

        yield opened


@pytest.fixture
def page(new_page):
    page = new_page()
    yield page
    assert page.complaints == []


FIRST_COLUMN = "[...document.querySelectorAll('#times tbody th')].map(one => one.textContent)"
SORTED = "[...document.querySelectorAll('#times thead th')].map(one => one.getAttribute('aria-sort'))"
TICK = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
TIP = "document.getElementById('tip').hidden ? null : document.getElementById('tip').textContent"


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("1.56 [1.45, 1.71]", 1.56),
        ("8.50 [8.00, 9.00] GiB/s", 8.5 * 2**30),
        ("256 MiB", 2**28),
        (Markup('<span class="nowrap">3.2&nbsp;ms</span>'), 0.0032),
        ("188 M PTE/s", 188e6),
        ("−12 %", -12),
        ("2 of 3", 2),
        ("–", math.nan),
        ("6.12.1", None),
        ("THP", None),
        (7, 7),
    ],
)
def test_a_cell_is_sorted_by_the_number_that_it_begins_with(cell, key):
    assert markup.leading_number(cell) == pytest.approx(key, nan_ok=True)


def test_text_has_no_keys_and_a_short_table_does_not_sort():
    rows = [["x", "1 s", "1"], ["y", "2 s", "two"], ["z", "–", "3"]]
    assert markup.sort_keys(rows) == [[None, "1", None], [None, "2", None], [None, "nan", None]]
    assert "sorts" not in markup.table({"A": "path"}, ROWS[:2], caption="", key="k")


def press(page, key):
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text="\r" if key == "Enter" else "")


def middle(page, selector):
    """Return where the middle of an element lies."""
    return page.run(f"""(box => [box.x + box.width / 2, box.y + box.height / 2])(
      document.querySelector('{selector}').getBoundingClientRect())""")


def point(page, selector, kind="mouseMoved"):
    x, y = middle(page, selector)
    more = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
    page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


def click(page, selector):
    page.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
    point(page, selector, "mousePressed")
    point(page, selector, "mouseReleased")


def test_a_click_sorts_up_then_down_then_as_it_was(page):
    was = page.run(FIRST_COLUMN)
    click(page, "#times th:nth-child(2) button")
    assert page.run(FIRST_COLUMN) == ["a", "b", "c", EVIL]
    assert page.run(SORTED) == ["none", "ascending", "none"]
    click(page, "#times th:nth-child(2) button")
    assert page.run(FIRST_COLUMN) == ["c", "b", "a", EVIL]
    click(page, "#times th:nth-child(2) button")
    assert (page.run(FIRST_COLUMN), page.run(SORTED)) == (was, ["none"] * 3)


def test_enter_sorts_and_sizes_go_by_their_bytes(page):
    page.run("document.querySelector('#times th:nth-child(3) button').focus()")
    press(page, "Enter")
    assert page.run(FIRST_COLUMN) == ["c", "a", "b", EVIL]
    assert page.run(SORTED) == ["none", "none", "ascending"]


def test_text_is_sorted_as_text_and_stays_text(page):
    click(page, "#times th:nth-child(1) button")
    assert page.run(FIRST_COLUMN) == [EVIL, "a", "b", "c"]
    assert page.run("document.querySelectorAll('main img').length") == 0


def test_a_point_says_its_value_to_the_pointer(page):
    point(page, "figure .value:nth-of-type(3)")
    assert page.run(TIP) == f"{EVIL}, 2\N{NO-BREAK SPACE}threads: speedup 1.50 [1.40, 1.60]"
    assert page.run("document.querySelectorAll('.value > title').length") == 2  # not shown twice
    point(page, "h1")
    assert page.run(TIP) is None
    assert page.run("document.querySelectorAll('.value > title').length") == 3


def test_a_tap_shows_a_value(page):
    x, y = middle(page, "figure .value")
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait_for(TIP, 5)


def test_the_arrow_keys_walk_the_values_of_a_figure(page):
    page.run("document.querySelector('figure .scroll').focus()")
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        press(page, key)
        page.run(TICK)
        said.append(page.run(TIP))
    assert [text.split(":")[1] for text in said] == [
        " speedup 1.00 [0.900, 1.10]",
        " speedup 1.90 [1.80, 2.00]",
        " speedup 1.00 [0.900, 1.10]",
    ]
    press(page, "Escape")
    assert page.run(TIP) is None


def test_a_link_to_folded_evidence_unfolds_it(page):
    click(page, 'a[href="#deep"]')
    page.wait_for("document.querySelectorAll('details[open]').length == 2", 5)
    assert page.run("document.getElementById('deep').getBoundingClientRect().top") < 600


def test_without_javascript_everything_can_be_read(new_page):
    page = new_page(script=False)
    inner = page.call("DOM.getDocument", depth=-1)["root"]
    text = page.call("DOM.getOuterHTML", nodeId=inner["nodeId"])["outerHTML"]
    assert "<button" not in text and 'id="tip"' not in text
    for said in ("80 [70, 90]", "speedup 1.90 [1.80, 2.00]</title>", "seen", "Data of figure 1"):
        assert said in text
