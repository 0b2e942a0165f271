"""Which law explains a curve, in numbers and in words; and a run carried on to more threads."""

import math

import numpy as np
import pandas as pd
import pytest

from ktask.models import figures, published
from ktask.models.scaling import explain, forecast, laws
from ktask.models.scaling.predict import Options, predict_table
from ktask.models.scaling.table import Curve, read_curves
from ktask.models.simulation.machines import Machine

THREADS = np.array([1, 2, 3, 4, 6, 8, 12, 16])
CASE = ["workload", "size_bytes"]


def curve_of(law, *values, threads=THREADS, slow=1.0):
    """Return a curve that follows a law exactly, but for a slow one-thread time."""
    times = law(threads.astype(float), *(np.array([[value]]) for value in values))[0]
    times = np.where(threads == 1, slow * times, times)
    return Curve({"machine": "m"}, threads, 4.0 * times, np.full(len(threads), 1e-3))


def run(times, baseline=(1,)):
    """Return a scaling table of one case."""
    rows = [
        {"workload": "free", "size_bytes": 1 << 30, "threads": n, "baseline": n in baseline, "n": 7}
        | {"wall": t, "wall_low": t / 1.02, "wall_high": t * 1.02}
        for n, t in times.items()
    ]
    return pd.DataFrame(rows)


# --- laws against a curve ---------------------------------------------------------------------------------


def test_the_true_law_wins_where_it_was_not_shown():
    roof = explain.compare_laws(curve_of(laws.roof, 0.01, 6.0, 8.0))
    assert roof.law[0] == "roof" and roof.held_out_pct[0] < 2
    assert roof.says[0].endswith("of the work is serial; saturates at 6.0 threads")
    assert roof.says[0].startswith("at most ")  # a hundredth is too little to tell from nothing
    assert 1.0 < float(roof.says[0].split()[2].rstrip("%")) < 5.0
    amdahl = explain.compare_laws(curve_of(laws.amdahl, 0.2)).set_index("law")
    assert amdahl.held_out_pct["amdahl"] < 1 < amdahl.held_out_pct["gustafson"]
    assert amdahl["probability"].sum() == pytest.approx(1)


def test_residuals_are_small_for_the_true_law_only():
    table = explain.residuals(curve_of(laws.lock, 0.25, 0.05, 8.0))
    worst = table.groupby("law").residual_pct.apply(lambda errors: errors.abs().max())
    assert worst["lock"] < 2 < worst["gustafson"]
    assert len(table) == len(laws.LAWS) * len(THREADS)
    assert table[table.threads == 1].held_out_pct.isna().all()


def test_a_slow_start_is_said():
    found = explain.explain([curve_of(laws.amdahl, 0.05, slow=1.5)]).iloc[0]
    assert found.law == "amdahl"
    assert found.says.startswith("5.0% of the work is serial; one thread alone is 1.49 times slower")


def test_what_the_times_do_not_determine_is_not_claimed():
    two = curve_of(laws.roof, 0.001, 10.0, 6.0, threads=np.array([1, 2, 4]))
    roof = explain.compare_laws(two).set_index("law").says["roof"]
    assert "saturates" not in roof


def test_curves_of_few_threads_are_not_explained():
    assert explain.explain([curve_of(laws.amdahl, 0.1, threads=np.array([1, 2, 4]))]).empty


def test_the_published_roof_is_found():
    curves = read_curves(published.FOLDER / "ktask_clear_gigantic_page.csv").curves
    intel = explain.explain([curve for curve in curves if "E7-8895" in curve.group["machine"]])
    assert intel.law.tolist() == ["roof"] * 3
    assert all("saturates at 10" in says for says in intel.says)


# --- forecasts --------------------------------------------------------------------------------------------


def test_a_run_becomes_curves_whose_one_thread_is_the_serial_call():
    scaling = pd.concat([run({1: 8.0, 2: 4.1}), run({1: 9.0}, baseline=())])
    (curve,) = forecast.curves_of(scaling, CASE)
    assert dict(zip(curve.threads, curve.time_s, strict=True)) == {1: 8.0, 2: 4.1}
    assert curve.spread == pytest.approx(math.log(1.02) / 1.96)
    assert curve.group == {"workload": "free", "size_bytes": 1 << 30}


def test_a_forecast_has_measured_points_and_doublings_with_intervals():
    table = forecast.forecast(forecast.curves_of(run({1: 8.0, 2: 4.1}), CASE))
    assert table.threads.tolist() == [1, 2, 4, 8, 16]
    assert table.measured_s.tolist()[:2] == [8.0, 4.1] and table.measured_s[2:].isna().all()
    assert table.beyond.tolist() == [False, False, False, True, True]
    assert (table.low_s < table.time_s).all() and (table.time_s < table.high_s).all()
    assert (table.speedup_low < table.speedup).all() and (table.speedup <= table.threads * 1.02).all()
    assert np.diff(table.high_s / table.low_s)[1:].min() > 0


def test_a_bigger_machine_sets_the_roof_of_a_forecast():
    curves = forecast.curves_of(run({1: 8.0, 2: 4.0}), CASE)
    rate = (1 << 30) / 8.0
    low, high = (
        forecast.forecast(curves, (16,), Machine("m", cores_per_node=64, node_bandwidth=n * rate))
        for n in (4, 40)
    )
    assert low.speedup.iloc[-1] == pytest.approx(4, rel=0.2)
    assert high.speedup.iloc[-1] > 12


def test_a_single_measured_count_is_no_forecast():
    assert forecast.forecast(forecast.curves_of(run({1: 8.0}), CASE)).empty


def test_it_is_said_what_a_forecast_rests_on():
    (curve,) = forecast.curves_of(run({1: 8.0, 2: 4.1}), CASE)
    said = forecast.rests_on(curve)
    assert "with 1, 2 threads" in said and "Beyond 4 threads" in said and "published machines" in said
    machine = Machine("big", cores_per_node=64, node_bandwidth=1e11)
    assert "described for big" in forecast.rests_on(curve, machine)


# --- figures ------------------------------------------------------------------------------------------------


def test_the_table_of_predictions_tells_fit_from_test():
    table = read_curves(published.FOLDER / "ktask_clear_gigantic_page.csv")
    shown = figures.prediction_table(predict_table(table, Options()), ("machine", "size_gib"))
    assert shown.groupby("use").size().to_dict() == {"fit": 15, "test": 10}
    assert shown[shown.use == "fit"].time_s.isna().all()
    assert set(shown[shown.beyond].threads) == {16}


def test_every_figure_draws_its_table():
    curves = read_curves(published.FOLDER / "ktask_vfio_pinning.csv").curves
    speedups = figures.speedup_table(curves, ("variant",))
    assert speedups.groupby("curve").speedup.first().tolist() == [1.0, 1.0]
    (axis, *_) = figures.speedups(speedups).axes
    assert axis.lines[0].get_label() == "ideal"
    assert sum(len(line.get_xdata()) > 0 for line in axis.lines) == 3
    predicted = predict_table(read_curves(published.FOLDER / "ktask_vfio_pinning.csv"))
    shown = figures.prediction_table(predicted, ("variant",))
    assert len(figures.predictions(shown).axes) == 2
    assert "14 times" in figures.errors(shown).axes[0].get_xlabel()
    assert len(figures.residuals(explain.residuals(curves[0])).axes) == len(laws.LAWS)
    carried_on = forecast.forecast(forecast.curves_of(run({1: 8.0, 2: 4.1}), CASE))
    (axis,) = figures.forecasts(carried_on, ("workload",)).axes
    assert axis.get_title(loc="left") == "free"
