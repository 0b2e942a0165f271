"""The committed report and the notebooks in a real browser that reaches nothing but this machine."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import browser
import pytest
from test_report import FEW, GIB, make_records, make_run

from ktask.report import Report
from ktask.report.forms import slides

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports/sample.html"
AXE = ROOT / "tests/axe/node_modules/axe-core/axe.min.js"
SCREENS = ROOT / "build/screens"

pytestmark = pytest.mark.skipif(not browser.CHROMIUM, reason=browser.MISSING)

# Elements that stick out of the page. What lies in a box that scrolls by itself does not.
STICKING_OUT = """
[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll') || one.matches('.scroll'))
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(one => one.tagName + ' ' + one.textContent.trim().slice(0, 60))
"""
LIGHT_AND_DARK = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def new_page(tmp_path_factory):
    with browser.browser(tmp_path_factory.mktemp("profile")) as new_page:
        yield new_page


@pytest.fixture(scope="module")
def page(new_page):
    page = new_page()
    page.resize(1000)
    page.open(REPORT.as_uri())
    page.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
    return page


def test_the_page_asks_for_nothing_and_complains_of_nothing(page):
    assert page.requests == [REPORT.as_uri()]
    assert page.failed == []
    assert page.complaints == []


def test_the_contents_lead_to_what_they_name(page):
    hops = """[...document.querySelectorAll('nav a')].map(link => {
      link.click();
      const there = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      const top = there.getBoundingClientRect().top;
      const end = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 1;
      return [link.textContent, there.textContent, Math.abs(top) < 2 || end];
    })"""
    found = page.run(hops)
    assert len(found) >= 15  # nine sections and six parts of the appendix
    assert [one for one in found if one[0] != one[1] or not one[2]] == []


def test_the_first_screen_fits_a_screen(page):
    page.resize(1280, 900)
    bottom = "document.querySelector('{}').getBoundingClientRect().bottom + window.scrollY"
    assert page.run(bottom.format(".first-screen")) < 900
    assert page.run("document.querySelectorAll('.claims > ul > li').length") == 3
    page.resize(1000, 800)
    for wanted in ("#machine", "#advice"):
        assert page.run(f"document.querySelector('{wanted}').getBoundingClientRect().height") < 800, wanted
    assert page.run(bottom.format(".answer")) < 400


def test_the_page_keeps_its_budgets(new_page):
    """What a reader meets who unfolds nothing, on the screen and in print."""
    page = new_page()
    page.resize(1280)
    page.open(REPORT.as_uri())
    assert len(page.run("document.querySelector('main').innerText").split()) <= 6000
    shown = "[...document.querySelectorAll('main figure')].filter(one => one.checkVisibility()).length"
    assert page.run(shown) <= 10
    assert REPORT.stat().st_size <= 3e6
    page.resize(643, media="print")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf())) <= 14


def test_a_link_unfolds_the_part_of_the_appendix_that_it_leads_to(new_page):
    page = new_page()
    page.resize(1280)
    page.open(f"{REPORT.as_uri()}#numbers-zeroing")
    page.wait_for("document.getElementById('numbers-zeroing').checkVisibility()")


def test_figures_have_size(page):
    boxes = page.run("""[...document.querySelectorAll('figure svg.plot')].map(one => {
      const box = one.getBoundingClientRect(), ink = one.getBBox();
      return [box.width, box.height, ink.width, ink.height];
    })""")
    assert len(boxes) > 8
    assert all(min(box) > 60 for box in boxes)


def test_data_of_a_figure_are_a_click_away(page):
    kind, _, data = page.run("document.querySelector('a.data').href").partition(",")
    assert kind == "data:text/csv;base64"
    assert len(base64.b64decode(data).splitlines()) > 2


def test_the_flame_graphs_can_be_searched(page):
    page.run("""(() => {
      const input = document.querySelector('.flame-search input');
      input.value = document.querySelector('.flame g title').textContent.split(': ')[0];
      input.dispatchEvent(new Event('input'));
    })()""")
    assert re.fullmatch(r"[1-9]\d* found", page.run("document.querySelector('.flame output').value"))
    assert page.run("document.querySelectorAll('.flame')[0].querySelectorAll('g.hit').length") > 0


INJECTED = """<script>window.ran = 1</script><svg onload="window.ran = 1"></svg>
<img src="data:image/png,x" onerror="window.ran = 1"><img src="http://127.0.0.1:PORT/x.png">
<iframe src="about:blank"></iframe>
<style>@import url(http://127.0.0.1:PORT/x.css);</style><form action="http://127.0.0.1:PORT"><button>x</button></form>
<a href="javascript:void(window.ran = 1)">x</a></main>"""


def received(server):
    """Return what has been asked of a server; a browser may connect beforehand and then ask for nothing."""
    asked = b""
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            with server.accept()[0] as peer, contextlib.suppress(TimeoutError):
                peer.settimeout(0.2)
                asked += peer.recv(100)
    return asked


def test_what_gets_into_the_page_is_not_run_and_loads_nothing(new_page, tmp_path):
    """As if everything that escapes and cuts text on its way into the page had failed."""
    changed = tmp_path / "page.html"
    page = new_page()
    with socket.create_server(("127.0.0.1", 0)) as server:
        injected = INJECTED.replace("PORT", str(server.getsockname()[1]))
        text = REPORT.read_text(encoding="utf-8").replace("</main>", injected)
        changed.write_text(text, encoding="utf-8")
        page.open(changed.as_uri())
        page.run("document.querySelector('form button').click()")
        page.run("document.querySelector('main > a').click()")
        page.run("new Promise(done => setTimeout(done, 100))")
        assert page.run("window.ran") is None
        assert received(server) == b""
    assert sum("Content Security Policy" in one for one in page.complaints) >= 5
    assert page.run("document.querySelector('.flame-search').hidden") is False  # our own script ran


@LIGHT_AND_DARK
@pytest.mark.parametrize("width", [320, 768, 1000])
def test_nothing_sticks_out(page, width, scheme):
    page.resize(width, scheme=scheme)
    page.picture(SCREENS / f"report-{width}-{scheme}.png", 6000)
    assert page.run("document.documentElement.scrollWidth") == width
    assert page.run(STICKING_OUT) == []


def test_in_a_wide_window_only_the_appendix_scrolls(page):
    page.resize(1200)
    cut_off = """[...document.querySelectorAll('.scroll')]
      .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.getAttribute('aria-label'))"""
    assert all("every case and thread count" in label for label in page.run(cut_off))


def test_narrow_columns_of_text_stay_readable(page):
    page.resize(320)
    thin = """[...document.querySelectorAll('td:not(.number)')].filter(cell =>
      cell.textContent.length > 40 && cell.getBoundingClientRect().width < 120).length"""
    assert page.run(thin) == 0


@LIGHT_AND_DARK
def test_the_colours_are_those_of_the_scheme(page, scheme):
    page.resize(1000, scheme=scheme)
    light = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 127")
    assert light == (scheme == "light")


@LIGHT_AND_DARK
@pytest.mark.skipif(not AXE.exists(), reason="no axe-core; run `npm ci --prefix tests/axe`")
def test_a_screen_reader_finds_its_way(page, scheme):
    page.resize(1000, scheme=scheme)
    page.run(AXE.read_text(encoding="utf-8") + "; 0")
    found = page.run("axe.run().then(all => all.violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
    assert [one for one in found if one[0] in ("serious", "critical")] == []


def test_the_page_prints_on_a4(page):
    page.resize(643, media="print")  # A4 less its margins
    cut_off = """[...document.querySelectorAll('.scroll:not(.wide)')]
      .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.getAttribute('aria-label'))"""
    assert page.run(cut_off) == []
    printed = page.pdf()
    (SCREENS / "report.pdf").write_bytes(printed)
    boxes = {
        tuple(map(round, map(float, box))) for box in re.findall(rb"/MediaBox \[0 0 (\S+) (\S+)\]", printed)
    }
    assert boxes <= {(595, 842), (842, 595)}


# --- slides -----------------------------------------------------------------------------------------------

PRESS = "document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{}', cancelable: true}}))"
SEEN = "[...document.querySelectorAll('.slide')].filter(one => one.offsetHeight).map(one => one.id).join()"


@pytest.fixture(scope="module")
def deck(new_page, tmp_path_factory):
    file = tmp_path_factory.mktemp("slides") / "slides.html"
    report = Report([make_run(make_records(FEW[3:], (GIB,), n=3, passes=2))])
    vars(report)["figures"] = {}
    file.write_text(slides.slides(report), encoding="utf-8")
    page = new_page()
    page.resize(1280, 720)
    page.open(file.as_uri())
    return page


def test_keys_and_clicks_move_between_slides(deck):
    seen = []
    for key in ("Home", "ArrowRight", "PageDown", "ArrowLeft", "End", "ArrowRight"):
        deck.run(PRESS.format(key))
        seen.append(deck.run(SEEN))
    last = str(deck.run("document.querySelectorAll('.slide').length"))
    assert seen == ["1", "2", "3", "2", last, last]
    deck.run("document.elementFromPoint(100, 300).click()")  # at 0, 0: the left
    assert deck.run(SEEN) == str(int(last) - 1)
    assert deck.complaints == []


def test_no_slide_runs_over(deck):
    over = """[...document.querySelectorAll('.slide')]
      .filter(one => one.scrollHeight > one.clientHeight + 1)
      .map(one => [one.textContent.trim().slice(0, 400), one.scrollHeight, one.clientHeight])"""
    deck.run("document.documentElement.classList.remove('deck')")  # as without the script: all of them
    assert deck.run(over) == []
    deck.run("document.documentElement.classList.add('deck')")


def test_slides_print_one_to_a_page(deck):
    deck.resize(1280, 720, media="print")
    boxes = re.findall(rb"/MediaBox \[0 0 (\S+) (\S+)\]", deck.pdf())
    assert len(boxes) == deck.run("document.querySelectorAll('.slide').length")
    assert {(round(float(x)), round(float(y))) for x, y in boxes} == {(960, 540)}


def test_slides_can_be_read_on_a_phone(deck):
    deck.resize(320)
    deck.wait_for(
        f"{SEEN}.startsWith('1,2,3')"
    )  # the script hears of the new width when the machine has time
    assert deck.run("document.documentElement.scrollWidth") == 320


# --- JupyterLab -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the notebooks, since it saves what it runs; yield its address."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    (home / "data").symlink_to(ROOT / "data")
    environment = os.environ | {f"JUPYTER_{name}_DIR": str(home) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0"),
        *("--allow-root", "--expose-app-in-browser", f"--notebook-dir={home / 'notebooks'}"),
        *(f"--LabApp.{name}_dir={home}" for name in ("user_settings", "workspaces")),
    ]
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield browser.wait_until(lambda: re.search(r"http://127\S+", log.read_text()), "JupyterLab")[0]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


NOTEBOOK = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find(one => one.content?.model?.cells)"


STILL = ".jp-OutputArea-child:has(.noUi-handle) ~ .jp-OutputArea-child img"
# Turns the first knob by a key, and returns the picture as it was before.
TURN = f"""(() => {{
  const handle = document.querySelector('.noUi-handle'), before = document.querySelector('{STILL}').src;
  handle.focus();
  handle.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Right', bubbles: true, cancelable: true}}));
  return before;
}})()"""


@pytest.mark.long
def test_jupyterlab_opens_a_notebook_and_runs_it(new_page, lab):
    page = new_page()
    page.resize(1200)
    page.open(lab.replace("/lab?", "/lab/tree/your_task.ipynb?"))
    page.wait_for(f"{NOTEBOOK}?.sessionContext.session?.kernel?.status == 'idle'")
    page.run(f"jupyterapp.shell.activateById({NOTEBOOK}.id)")
    page.run("jupyterapp.commands.execute('notebook:run-all-cells').then(() => 0)")
    cells = page.run(f"""{NOTEBOOK}.content.model.toJSON().cells
      .filter(cell => cell.cell_type == 'code').map(cell => [cell.execution_count, cell.outputs])""")
    page.picture(SCREENS / "jupyterlab.png", 1200)
    before = page.run(TURN)
    page.wait_for(f"document.querySelector('{STILL}').src != {json.dumps(before)}")
    assert cells
    assert all(count for count, _ in cells)
    assert [one for _, outputs in cells for one in outputs if one["output_type"] == "error"] == []
    assert [one for one in page.requests if not re.match("http://127.0.0.1|data:|blob:", one)] == []
