"""The first screen: answer, figure, claims and caveat, on runs with known truth and on unexpected ones."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_report import (
    FEW,
    GIB,
    MIB,
    NO_POOL,
    TRUTHS,
    advice_on,
    make_records,
    make_run,
    one_path,
    scaled,
    skipped,
)

from ktask.report import Report, first_screen, headline
from ktask.report.paths import advice

SLOWER = TRUTHS[8]


def study_of(run):
    return Report([run]).studies[0]


def run_of(*truths, **options):
    return make_run(make_records(truths, (GIB,), **options), skips=())


def with_speedups(*speedups):
    """Return as many truths, each a path of its own, with these speedups by two threads."""
    return [
        replace(TRUTHS[0], method=f"m{k}", scaling={2: one}, overhead_s=0.0) for k, one in enumerate(speedups)
    ]


@pytest.fixture(scope="module")
def study():
    return study_of(make_run(make_records(sizes=(GIB,), passes=3)))


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes seconds."""
    monkeypatch.setattr(Report, "figures", {})


# --- table ------------------------------------------------------------------------------------------------


def test_the_headline_has_a_row_per_kernel_path_the_fastest_first(study):
    table = study.headline
    assert len(table) == sum(one.backend == "kernel" for one in TRUTHS)
    assert table["speedup"].is_monotonic_decreasing
    assert (table["ideal"] == 2).all()
    assert set(table["size_bytes"]) == {GIB}
    assert table.iloc[-1][["method", "verdict"]].tolist() == ["munmap", "slower"]
    assert table["p99_ratio"].isna().all()  # no neighbour probed


def test_stores_of_the_program_are_a_reference_and_no_path(study):
    reference = headline.user_reference(study.scaling)
    assert reference["method"] == "nontemporal"  # the one with the highest rate
    assert not set(study.headline["method"]) & {"memset", "nontemporal"}
    assert headline.user_reference(scaled(one_path({2: 1.6}))) is None


def probes(table, **changes):
    """Return what two neighbours found beside each path of a headline table, as `bystander_table` does."""
    one = {
        "place": "helper",
        "probe": "page fault",
        "process": "same",
        "neighbour": "page fault, same process",
    }
    one |= {"longer": "undecided", "p99_ratio": 1.2, "p99_ratio_low": 0.9, "p99_ratio_high": 1.6}
    other = {"probe": "wake-up", "process": "another", "neighbour": "wake-up, another process"}
    other |= {"longer": "longer", "p99_ratio": 30.0, "p99_ratio_low": 20.0, "p99_ratio_high": 45.0}
    rows = table.drop(columns=[*headline.PRICE])
    return pd.concat([rows.assign(**one), rows.assign(**{**one, **other, **changes})], ignore_index=True)


def test_the_neighbour_that_surely_waits_longest_is_beside_the_path(study):
    found = probes(study.headline)
    other = SimpleNamespace(best=study.best, bystanders=found)
    table = headline.headline_table(other)
    assert set(table["neighbour"]) == {"wake-up, another process"}
    assert (table["p99_ratio"] == 30).all()
    # What is wide open is not taken for the worst.
    other.bystanders = probes(study.headline, longer="undecided", p99_ratio_low=0.1)
    assert set(headline.headline_table(other)["neighbour"]) == {"page fault, same process"}
    # Nor is a neighbour that surely waits less, while it is open whether another one waits longer.
    other.bystanders = probes(study.headline, longer="shorter", p99_ratio=0.95, p99_ratio_low=0.92)
    assert set(headline.headline_table(other)["neighbour"]) == {"page fault, same process"}
    elsewhere = probes(study.headline).assign(threads=4)  # beside another number of threads
    other.bystanders = elsewhere
    assert headline.headline_table(other)["p99_ratio"].isna().all()


def test_many_paths_are_drawn_from_both_ends(study):
    methods = [f"m{k}" for k in range(64)]
    table = study.headline.iloc[[0] * 64].assign(method=methods, speedup=np.linspace(2, 0.5, 64))
    case = SimpleNamespace(headline=table.reset_index(drop=True), scaling=study.scaling)
    figure = headline.headline_figure(case, "headline")
    assert len(figure.data) == 64
    labels = [one.get_text() for one in figure.drawing.axes[0].get_yticklabels()]
    half = headline.MOST_ROWS // 2
    assert len(labels) == 2 * half
    assert labels[0].endswith(": m0 (4 KiB)")
    assert labels[-1].endswith(": m63 (4 KiB)")
    assert f"The {half} fastest and the {half} slowest; the others are in appendix B." in figure.caption


def test_small_screens_have_the_figure_as_a_table(study):
    table = headline.as_table(study.headline, "key")
    assert table.count("<tr>") == 1 + len(study.headline)
    assert "▼ 0.795 [0.758, 0.834]" in table
    assert "p99</th>" not in table
    assert headline.as_table(study.headline.iloc[:0], "key") == ""


def test_the_figure_shows_verdict_ideal_and_price_in_words_too(study):
    figure = headline.headline_figure(study, "headline")
    assert "With 2 threads, of 7 kernel paths, 6 are faster" in figure.caption
    assert "blank: not measured" in figure.caption
    assert "95 % interval over processes; 3 processes, n = 21 per point" in figure.caption
    assert "free munmap (4 KiB) 0.795" in figure.alt
    assert figure.alt.count(", faster") == 6
    legend = {text.get_text() for text in figure.drawing.legends[0].get_texts()}
    assert legend == {"ideal", "faster", "slower", "nontemporal in user space"}
    texts = [one.get_text() for one in figure.drawing.axes[1].texts]
    assert "neighbour's\np99" not in texts  # nobody probed
    paid = (
        probes(study.headline)
        .iloc[-len(study.headline) :]
        .assign(verdict=study.headline["verdict"].to_numpy(), price_size_bytes=GIB)
    )
    case = SimpleNamespace(headline=paid.reset_index(drop=True), scaling=study.scaling)
    texts = [one.get_text() for one in headline.headline_figure(case, "headline").drawing.axes[1].texts]
    assert texts.count("30") == len(study.headline)
    smaller = SimpleNamespace(headline=case.headline.assign(price_size_bytes=GIB // 8), scaling=study.scaling)
    figure = headline.headline_figure(smaller, "headline")
    texts = [one.get_text() for one in figure.drawing.axes[1].texts]
    assert texts.count("30‡") == len(study.headline)
    assert "‡ probed beside less work, at most 128 MiB." in figure.caption
    assert "30‡" in headline.as_table(smaller.headline, "key")


# --- answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speedups", "text"),
    [
        ((1.9, 1.8, 1.7), "Yes: all 3 kernel paths are faster with 2 threads."),
        ((1.9, 1.8, 0.7), "Mostly yes: 2 of 3 kernel paths are faster with 2 threads."),
        ((1.9, 0.7), "Partly: 1 of 2 kernel paths is faster with 2 threads."),
        ((1.9, 0.8, 1.0), "Mostly no: 1 of 3 kernel paths is faster with 2 threads."),
        ((0.8, 1.0), "No: none of 2 kernel paths is faster with 2 threads."),
        ((0.7,), "No: the one measured kernel path is slower than the serial call with 2 threads."),
        ((1.7,), "Yes: the one measured kernel path is faster than the serial call with 2 threads."),
    ],
)
def test_the_answer_is_that_of_the_verdicts(speedups, text):
    assert first_screen.answer(study_of(run_of(*with_speedups(*speedups), noise=0.002))) == text


def test_undecided_paths_count_for_neither_side():
    noisy = make_records(with_speedups(*[1.02] * 3), (GIB,), noise=0.1)
    clear = make_records([replace(TRUTHS[7], scaling={2: 1.8})], (GIB,))
    study = study_of(make_run(pd.concat([noisy, clear], ignore_index=True), skips=()))
    assert first_screen.answer(study) == (
        "Mostly undecided: 1 of 4 kernel paths is faster with 2 threads; 3 are undecided."
    )


def test_the_price_is_named_only_where_faster_paths_pay_it(study):
    assert "price" not in first_screen.answer(study)
    paid = study.headline.assign(longer="longer")
    text = first_screen.answer(SimpleNamespace(headline=paid))
    assert text.startswith("Mostly yes, at a price: 6 of 7 kernel paths are faster")
    assert text.endswith(" with 2 threads, but neighbours wait longer.")
    loser = (paid["verdict"] == "slower").map({True: "longer", False: "undecided"})
    assert "price" not in first_screen.answer(SimpleNamespace(headline=paid.assign(longer=loser)))
    burning = study.headline.assign(cpu_cost_low=1.4)
    assert "but some take more CPU time" in first_screen.answer(SimpleNamespace(headline=burning))


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda: make_run(make_records(FEW[:1], n=1).iloc[:0]), "Not known: nothing was measured."),
        (lambda: one_path({}), "Not known: only one thread was measured."),
        (
            lambda: replace(one_path({}), machine={"threads": 1}),
            "Not known: this machine has one CPU, so there is nothing to split work over.",
        ),
        (
            lambda: run_of(TRUTHS[3], TRUTHS[4]),
            "Not known for the kernel: only code in user space was measured.",
        ),
        (
            lambda: one_path({2: 1.6}, passes=1),
            "Not known yet: the one measured kernel path is undecided after one pass.",
        ),
        (
            lambda: one_path({2: 1.02}, noise=0.3),
            "Not known: the one measured kernel path is undecided after 5 passes.",
        ),
        (
            lambda: one_path({2: 1.6}, n=2, cold=(0, 1)),
            "Not known: too few repetitions were warm.",
        ),
    ],
)
def test_what_was_not_measured_is_not_answered(run, text):
    study = study_of(run())
    assert first_screen.answer(study) == text
    said = str(first_screen.claims(study))
    assert "is the surest gain" not in said
    assert "loses most" not in said


# --- claims -----------------------------------------------------------------------------------------------


def test_a_claim_has_a_finding_a_number_with_interval_a_condition_and_a_figure(study):
    claims = first_screen.claims(study)
    assert len(claims) == first_screen.MOST_CLAIMS
    for claim in claims[:2]:
        assert re.search(r"\d\.\d+ \[\d\.\d+, \d\.\d+\] times as fast", claim.text)
        assert re.fullmatch(r"1 GiB, 2 threads, \d+(\.\d+)? ms serial", claim.scope)
    surest = study.headline.sort_values("speedup_low").iloc[-1]
    assert claims[0].text.startswith(f"Page walk by {surest['method']} (4 KiB) is the surest gain: ")
    assert claims[1].text.startswith("Free by munmap (4 KiB) loses most: 0.")
    assert claims[2].text.startswith("Free by munmap (4 KiB) takes 2.5")


def test_the_gain_is_the_surest_not_the_luckiest():
    sure, lucky = with_speedups(1.6, 1.8)
    records = [make_records([sure], (GIB,)), make_records([lucky], (GIB,), noise=0.1)]
    study = study_of(make_run(pd.concat(records, ignore_index=True), skips=()))
    assert study.headline.iloc[0]["method"] == "m1"
    assert first_screen.claims(study)[0].text.startswith("Zeroing by m0 (4 KiB) is the surest gain")


def test_every_path_that_loses_is_named_or_counted():
    def loss(*speedups):
        return first_screen.claims(study_of(run_of(*with_speedups(*speedups))))[0].text

    assert loss(0.5, 0.6).endswith("times as fast; zeroing m1 (4 KiB) loses too")
    assert loss(0.5, 0.6, 0.7).endswith("; zeroing m1 (4 KiB) and zeroing m2 (4 KiB) lose too")
    assert loss(*np.linspace(0.4, 0.8, 8)).endswith("; 7 other paths lose too")


def test_a_loss_at_a_small_size_is_claimed_where_no_path_loses_at_its_best():
    study = study_of(one_path({2: 1.8}, sizes=(MIB, GIB), overhead_s=1e-4))
    _, loss = first_screen.claims(study)
    assert loss.text.startswith("Free by dontneed (4 KiB) with 2 threads loses most: 0.6")
    assert loss.scope.startswith("1 MiB, 2 threads")


def test_more_than_there_are_threads_is_not_the_first_gain():
    study = study_of(make_run(make_records(with_speedups(1.6, 2.3), (GIB,)), skips=()))
    assert study.headline.iloc[0]["method"] == "m1"
    assert first_screen.claims(study)[0].text.startswith("Zeroing by m0 (4 KiB) is the surest gain")
    study = study_of(make_run(make_records(with_speedups(2.3, 2.4), (GIB,)), skips=()))
    assert first_screen.claims(study)[0].text.startswith("Zeroing by m1 (4 KiB) is the surest gain")


def test_slower_with_threads_everywhere_claims_no_gain():
    study = study_of(one_path({2: 0.7}))
    texts = [claim.text for claim in first_screen.claims(study)]
    assert texts[0].startswith("Free by dontneed (4 KiB) loses most: 0.")
    assert texts[1].startswith("Free by dontneed (4 KiB) takes 2.8")  # CPU time, for nothing
    assert "is the surest gain" not in "".join(texts)
    assert "faster" not in "".join(texts)


def test_the_surprise_is_the_ratio_that_is_surely_farthest_from_one(study):
    slower = study.headline["verdict"] == "slower"
    table = study.headline.assign(cpu_cost=2.5, cpu_cost_low=2.4, cpu_cost_high=2.6).where(
        slower, study.headline
    )
    found = probes(study.headline)
    case = SimpleNamespace(headline=table, bystanders=found)
    first, second = first_screen.surprises(case)[:2]
    assert first.text == "Neighbours pay: one wake-up in a hundred takes 30.0 [20.0, 45.0] times as long"
    assert first.scope.startswith("p99 in another process on a helper's CPU, beside 2 threads of ")
    assert (
        second.text == "Free by munmap (4 KiB) takes 2.50 [2.40, 2.60] times the CPU time and gains nothing"
    )
    case.bystanders = found.assign(p99_ratio_low=2.0)
    milder = first._replace(text=first.text.replace("[20.0", "[2.0"))
    assert first_screen.surprises(case)[:2] == [second, milder]


def test_threads_that_do_not_catch_up_with_a_better_serial_method_are_a_surprise():
    slow = replace(TRUTHS[0], method="slow", bytes_per_s=GIB)
    study = study_of(run_of(slow, replace(TRUTHS[0], bytes_per_s=4 * GIB)))
    (surprise,) = first_screen.surprises(study)
    assert surprise.text.startswith("Zeroing by slow (4 KiB) with threads is 0.47")
    assert surprise.text.endswith(" times as fast as another method with one thread")


def test_one_thread_only_gives_rates_and_user_space_is_named_as_such():
    (claim,) = first_screen.claims(study_of(one_path({})))
    assert claim.text.startswith("Free by dontneed (4 KiB): one thread reaches 10.0 [")
    assert claim.text.endswith("; more were not measured")
    (claim,) = first_screen.claims(study_of(run_of(TRUTHS[3], TRUTHS[4])))
    assert claim.text.startswith("In user space, nontemporal (4 KiB) is 1.9")
    assert claim.scope.endswith("; it says nothing about kernel code")


def test_one_pass_claims_nothing():
    assert first_screen.claims(study_of(one_path({2: 1.6}, passes=1))) == []


# --- advice and caveat ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "text"),
    [
        ({2: 1.6}, "2 threads on the one decided path."),
        ({2: 0.7}, "One thread: more do not pay on the one decided path."),
        ({}, "No advice: no path is decided."),
    ],
)
def test_the_first_screen_advises(threads, text):
    assert advice.in_short(advice_on(one_path(threads))) == text


def test_paths_that_should_stay_alone_are_named(no_figures):
    run = make_run(make_records(FEW, (GIB,), n=3))
    assert advice.in_short(advice_on(run)) == "2 threads on 4 of 5 decided paths, one on free munmap (4 KiB)."
    assert "2 threads on 3 of 4 decided paths" in Report([run]).first_screen().body  # of the kernel


@pytest.mark.parametrize(
    ("speedups", "text"),
    [
        ({2: 0.7}, "All 2 points are slower. "),
        ({2: 1.6, 4: 0.7}, "2 of 4 points are slower. "),
        ({2: 1.6}, ""),
    ],
)
def test_losses_are_counted(speedups, text):
    assert first_screen.losses(scaled(one_path(speedups))) == text


EQUAL = pd.DataFrame({"unequal": [False] * 4})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "At most 2 threads on one machine, in one state of it"),
        ({"synthetic": "made"}, "No machine was measured: a simulator made these numbers."),
        ({"findings": [{"name": "thp", "level": "blocker"}]}, "found a blocker before the run: thp"),
        ({"aa": EQUAL.iloc[:0]}, "No A/A comparison was measured"),
        ({"aa": pd.DataFrame({"unequal": [True] * 3 + [False]})}, "3 A/A comparisons of 4 differed"),
    ],
)
def test_the_caveat_that_matters_most_is_given(study, changes, text):
    names = ("scaling", "states", "headline", "run")
    usual = {name: getattr(study, name) for name in names} | {"aa": EQUAL, "findings": []}
    usual["run"] = replace(study.run, machine={}, synthetic=changes.get("synthetic", ""))
    assert text in first_screen.caveat(SimpleNamespace(**usual | changes))


def test_processes_that_differ_much_are_the_caveat():
    study = study_of(one_path({2: 1.6}, noise=0.3, aa=True))
    assert "The machine is noisy: processes that measure the same differ by" in first_screen.caveat(study)


def test_two_states_of_a_path_in_the_figure_are_the_caveat():
    run = one_path({2: 1.6}, n=40, passes=3)
    slow = run.records["round"] % 2 == 0
    run.records.loc[slow & ~run.records["baseline"], "wall_s"] *= 1.5
    text = first_screen.caveat(study_of(run))
    assert text == "Free dontneed (4 KiB) has two states: no time near the middle is typical."


def test_what_was_skipped_is_the_caveat_of_an_empty_run():
    run = make_run(make_records(FEW[:1], n=1).iloc[:0], skips=(NO_POOL, NO_POOL))
    run.skipped = skipped(NO_POOL, NO_POOL)
    assert first_screen.caveat(study_of(run)) == (
        "Nothing was measured: 2 cases skipped, with the reason in appendix B."
    )


# --- page -------------------------------------------------------------------------------------------------


def test_each_run_has_a_first_screen_of_its_own(no_figures):
    run = one_path({2: 1.6}, sizes=(GIB,))
    report = Report([replace(run, name=name) for name in ("before", "after")])
    body = report.first_screen().body
    assert body.count('class="first-screen"') == 2
    assert body.index("before: Yes: the one measured") < body.index("after: Yes: the one measured")
    assert 'href="#advice-run-before"' in body
