"""The report on machines with many CPUs: the simulated runs that come with the tests."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from ktask.common import figures as draw
from ktask.common.units import parse_size
from ktask.lab.records import SYNTHETIC, load_run, synthetic_note
from ktask.report import machine, tables
from ktask.report.paths import bottlenecks, gains_figure, many_cpus
from ktask.report.scaling import laws

DATA = Path(__file__).parents[2] / "data"
CPUS = (8, 64, 128, 288)


@pytest.fixture(scope="module", params=(8, 288))
def run(request):
    """Two passes of one path, for speed."""
    whole = load_run(DATA / f"synthetic-{request.param}-cpus")
    rows = whole.records
    kept = rows[(rows["method"] == "populate") & (rows["page_kind"] == "4KiB") & (rows["pass"] <= 2)]
    return replace(whole, records=kept.reset_index(drop=True))


@pytest.fixture(scope="module")
def scaling(run):
    return tables.scaling_table(run)


@pytest.mark.parametrize("cpus", CPUS)
def test_a_simulated_run_says_so_wherever_its_machine_is_named(cpus):
    run = load_run(DATA / f"synthetic-{cpus}-cpus")
    assert synthetic_note(run.machine) == SYNTHETIC
    assert SYNTHETIC in machine.scope(run.machine)
    assert (run.path / "records" / "all.parquet").stat().st_size < 100_000


def test_maps_have_every_size_and_mark_the_borders(run, scaling):
    borders = machine.thread_borders(run.machine)
    figure = many_cpus.efficiency_figure(scaling, "efficiency", borders)
    assert figure.data["efficiency"].between(0, 1.1).all()
    assert set(figure.data["backend"]) == {"kernel"}
    assert not figure.data["options"].str.contains("node=").any()
    axis = figure.drawing.axes[0]
    inside = {sum(n <= border for n in set(figure.data["threads"])) for border in borders}
    assert {line.get_xdata()[0] for line in axis.lines} == {n for n in inside if n}
    with draw.theme():
        figure.drawing.draw_without_rendering()
    assert_apart(axis.get_xticklabels())


def test_curves_name_sizes_in_order_and_borders_once(run, scaling):
    borders = machine.thread_borders(run.machine)
    figure = gains_figure.gains_figure(
        scaling, pd.DataFrame(columns=["workload", "seen"]), "zeroing", "k", borders
    )
    labels = [text.get_text() for text in figure.drawing.legends[0].get_texts()]
    sizes = [parse_size(label) for label in labels if label.endswith("iB")]
    assert len(sizes) > 2 and sizes == sorted(sizes)
    named = [text.get_text() for axis in figure.drawing.axes for text in axis.texts]
    assert sorted(named) == sorted(what for n, what in borders.items() if n < scaling["threads"].max())


@pytest.mark.parametrize(("smaller", "counts"), [(4, True), (1024, False)])
def test_the_roof_counts_stores_to_several_nodes_at_any_large_size(scaling, smaller, counts):
    near = tables.at_largest_size(scaling).assign(backend="user", method="nontemporal")
    sizes = near["size_bytes"] // smaller
    spread = near.assign(options="node=spread", size_bytes=sizes, bandwidth=2 * near["bandwidth"])
    roof = bottlenecks.memory_roof(pd.concat([near, spread], ignore_index=True))
    assert roof.bytes_per_s == (spread if counts else near)["bandwidth"].max()
    assert ("node=spread" in roof.label) == counts


def test_maps_need_thread_counts_and_sizes(scaling):
    few = scaling[scaling["threads"] <= 2]
    assert many_cpus.efficiency_figure(few, "efficiency", {}) is None
    one_size = scaling[scaling["size_bytes"] == scaling["size_bytes"].max()]
    assert many_cpus.efficiency_figure(one_size, "efficiency", {}) is None


def test_paths_with_enough_thread_counts_may_have_a_law(scaling):
    rows = laws.enough(scaling)
    assert rows.groupby(tables.CASE)["threads"].nunique().min() >= laws.LEAST_COUNTS
    assert laws.enough(scaling[scaling["threads"] <= 4]).empty


@pytest.mark.parametrize("panels", [1, 4])
def test_labels_of_ten_thread_counts_do_not_touch(panels):
    counts = (1, 2, 4, 8, 18, 36, 72, 100, 144, 288)
    with draw.theme():
        drawing, axes = draw.panels(panels, width_in=draw.FULL_WIDTH_IN, sharex=True)
        axes[0].plot(counts, counts)
        draw.thread_axis(axes, counts)
        drawing.draw_without_rendering()
        assert_apart([tick for tick in axes[0].get_xticklabels() if tick.get_text()])
    assert axes[0].get_xticklabels()[-1].get_text() == "288"


def assert_apart(labels):
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
