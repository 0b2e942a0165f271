"""Traces as a table, a figure and a Chrome trace; the live view."""

import json
import math
import threading
import time

import numpy as np
import pytest

import ktask
from ktask.engine import trace


@ktask.thread_func
def work(start, end, out, steps):
    total = 0
    for i in range(start, end):
        for k in range(steps):
            total += (i ^ k) * 3
    out[0] = total
    return 0


@pytest.fixture(scope="module")
def traced():
    ctl = ktask.Ctl(work, (np.zeros(1, np.int64), 1000), 10, max_threads=2)
    return ktask.run(0, 200, ctl, policy="dynamic", trace=True)


def test_chrome_trace_has_an_event_per_chunk_and_a_name_per_thread(traced, tmp_path):
    trace.write_chrome(traced, tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    chunks = [event for event in events if event["ph"] == "X"]
    assert len(chunks) == traced.n_chunks == 20
    assert sum(event["args"]["end"] - event["args"]["start"] for event in chunks) == 200
    assert all(event["dur"] >= 0 and 0 <= event["ts"] <= traced.wall_s * 1e6 for event in chunks)
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert names == ["caller", "helper 1"][: traced.threads]
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_csv_has_a_row_per_chunk(traced, tmp_path):
    trace.write_csv(traced, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "part,helper,cpu,start,end,t0_s,t1_s"
    assert len(lines) == 21


@pytest.mark.parametrize("name", ["t.svg", "t.png"])
def test_figure_is_written_whole(traced, tmp_path, name):
    trace.write_figure(traced, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes()[:5] in (b"<?xml", b"\x89PNG\r")


def test_timeline_has_a_line_per_thread(traced):
    (axes,) = trace.plot(traced).axes
    assert len(axes.collections) == len(set(traced.trace["helper"]))
    assert sum(len(spans.get_paths()) for spans in axes.collections) == traced.n_chunks


@pytest.mark.parametrize("show", [trace.chrome_events, trace.plot, lambda r: trace.write_csv(r, "x.csv")])
def test_result_without_a_trace_says_how_to_get_one(show):
    with pytest.raises(ValueError, match="trace=True"):
        show(ktask.Result())


def test_progress_grows_while_the_task_runs_and_ends_at_the_whole():
    live, seen = ktask.Live(), []
    ctl = ktask.Ctl(work, (np.zeros(1, np.int64), 3000), 10)
    assert (live.done, live.size) == (0, 0)
    assert math.isnan(live.rate)
    over = threading.Event()

    def watch():
        while not over.wait(0.002):
            seen.append((live.done, live.eta_s))

    watcher = threading.Thread(target=watch)
    watcher.start()
    ktask.run(0, 100_000, ctl, policy="dynamic", live=live)
    over.set()
    watcher.join()
    done = [units for units, _ in seen]
    assert done == sorted(done)
    assert any(0 < units < 100_000 for units in done)
    assert live.done == live.size == 100_000
    assert any(eta_s > 0 for units, eta_s in seen if units)


def test_bar_shows_and_goes_away(capsys):
    ctl = ktask.Ctl(work, (np.zeros(1, np.int64), 3000), 10)
    with ktask.Bar("working", delay_s=0) as bar:
        bar.EVERY_S = 0.01
        ktask.run(0, 100_000, ctl, policy="dynamic", live=bar)
        time.sleep(0.15)
    assert "working" in capsys.readouterr().err
    assert not bar._thread.is_alive()
