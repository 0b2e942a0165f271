"""The heat map of runs of several kernels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from runs_of_passes import made, measured, slowed

from ktask.lab.compare import compare_kernels
from ktask.report.runs import kernels
from ktask.report.runs.kernels import KERNELS_KEY, kernels_figure


def runs(*releases):
    return [measured(5 * k + 1, 5 * k + 5, f"run{k}", kernel_release=name) for k, name in enumerate(releases)]


def test_the_map_shows_each_case_on_each_kernel_and_where_it_steps():
    three = runs("6.12", "6.15", "6.18")
    three[2] = slowed(three[2], 1.6, lambda rows: rows["method"] == "munmap", "run2")
    figure = kernels_figure(three)
    assert figure.key == KERNELS_KEY
    assert len(figure.data) == 2 * 24
    changed = figure.data[figure.data["step"] != ""]
    assert set(changed["kernel"]) == {"6.18"}
    assert all(case.startswith("free munmap (4 KiB), 64 MiB") for case in changed["case"])
    assert figure.caption.startswith("3 cases of 24 change, at 6.18.")
    assert "6.18: 3 worse" in figure.alt
    assert figure.svg.count(f"{kernels.STEP_MARK} 1.") == 3


def test_undecided_fields_have_no_colour():
    figure = kernels_figure(runs("6.12", "6.18"))
    assert "No case changes." in figure.caption
    shown = figure.drawing.axes[0].collections[0].get_array().ravel()
    undecided = (figure.data["verdict"] == "undecided").to_numpy()
    assert undecided.any()
    assert (shown[undecided] == 0).all()


def test_one_kernel_or_nothing_in_common_has_no_map():
    assert kernels_figure(runs("6.18", "6.18")) is None
    first, second = runs("6.12", "6.18")
    second.records["size_bytes"] *= 2
    assert kernels_figure([first, second]) is None
    assert kernels_figure(runs("6.12", "")) is None


def test_cases_that_differ_in_their_chunks_alone_have_rows_of_their_own():
    def with_more(run):
        other = run.records.assign(cell_id=run.records["cell_id"] + "-large", min_chunk_size=16 << 20)
        return replace(run, records=pd.concat([run.records, other], ignore_index=True))

    two = [with_more(run) for run in runs("6.12", "6.18")]
    two[1] = slowed(two[1], 1.6, lambda rows: rows["method"] == "munmap", "run1")
    figure = kernels_figure(two)
    assert len(figure.data) == figure.data["case"].nunique() == 2 * 24
    assert figure.data["case"].str.endswith("chunks from 16 MiB").sum() == 24
    assert f"Shown are the {kernels.MOST_CASES} that change most; the data have all." in figure.caption
    shown = [text.get_text() for text in figure.drawing.axes[0].get_yticklabels()]
    assert len(shown) == kernels.MOST_CASES
    assert set(figure.data.loc[figure.data["step"] != "", "case"]) <= set(shown)


# --- change points of made series -------------------------------------------------------------------------


def steps_of(factors, seed=1):
    """Return the kernels at which the map marks a step, of six cases whose third takes `factors` as long."""
    rng = np.random.default_rng(seed)
    series = []
    for k, factor in enumerate(factors):
        name = f"run{k}"
        run = made(rng, 6, 8, 0.02, name=name, start_s=3600 * k, kernel_release=f"6.{k}")
        series.append(slowed(run, factor, lambda rows: rows["cell_id"] == "c2", name))
    data = kernels.kernel_data(compare_kernels(series))
    steps = data[data["step"] != ""]
    assert steps["case"].str.contains("3 MiB").all()
    return {(row["kernel"], row["step"]) for _, row in steps.iterrows()}


@pytest.mark.parametrize(
    ("factors", "steps"),
    [
        ((1, 1, 1.2, 1.2), {("6.2", "worse")}),
        ((1, 1.2, 1.2, 1.44), {("6.1", "worse"), ("6.3", "worse")}),
        ((1, 1.2, 1.2, 1), {("6.1", "worse"), ("6.3", "better")}),
    ],
)
def test_steps_of_a_fifth_are_marked_where_they_are(factors, steps):
    assert steps_of(factors) == steps


def test_noise_has_no_step():
    assert [steps_of((1, 1, 1, 1), seed) for seed in range(3)] == [set()] * 3
