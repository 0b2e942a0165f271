"""The short form of `make chaos`, and that it would notice what does not hold."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import campaign
import faults
import fuzz
import inputs
import pytest
import trials
from trials import BrokenError, Ended, Kind, SkippedError

LONG = {"kills": pytest.mark.long}


@pytest.mark.parametrize(
    "kind", [pytest.param(one, id=name, marks=LONG.get(name, ())) for name, one in campaign.KINDS.items()]
)
def test_a_few_of_each_kind_hold(kind, tmp_path):
    found = campaign.empty()
    for _ in campaign.try_kind(kind, kind.few, found, tmp_path, math.inf):
        pass
    assert found["failures"] == []
    assert found["tried"] + sum(found["skipped"].values()) >= kind.few


def test_inputs_follow_from_their_seed():
    made = [
        [make(fuzz.Random(seed)) for seed in range(5)] for make, _ in fuzz.FILES.values() for _ in range(2)
    ]
    assert made[::2] == made[1::2]
    assert len({text for texts in made for text in texts}) == len(made) * 5 // 2


def odd_fail(seed, folder):
    if seed == 4:
        raise SkippedError("no four here")
    (folder / "left").write_text("")
    trials.require(seed % 2 == 0, "an odd\nseed")
    return 3


def test_what_failed_is_named_and_a_stopped_campaign_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(campaign.KINDS, "odd", Kind("odd", "made to fail", odd_fail, 12, 1))
    campaign.campaign("long", ["odd"], None, 0.0, tmp_path)
    assert json.loads((tmp_path / "long.json").read_text())["kinds"]["odd"]["next"] == 1
    result = campaign.campaign("long", ["odd"], None, math.inf, tmp_path)
    odd = result["kinds"]["odd"]
    assert (odd["tried"], odd["failed"], odd["skipped"]) == (12, 3, {"no four here": 1})
    assert odd["failures"][0] == {"trial": "odd:1", "problem": "an odd seed"}
    assert "failed odd:1: an odd seed" in campaign.table(result["kinds"])
    kept = sorted(path.name for path in tmp_path.glob("work.*/*"))
    assert kept == ["odd.1", "odd.3", "odd.5"]
    alone = campaign.campaign("alone", ["odd"], 5, math.inf, tmp_path)
    assert alone["kinds"]["odd"]["failures"] == [{"trial": "odd:5", "problem": "an odd seed"}]


@pytest.mark.parametrize(
    ("code", "err", "what"),
    [
        (3, "ktask: no\n", "exit 3"),
        (-11, "", "exit -11"),
        (1, 'Traceback (most recent call last):\n  File "a"\nValueError: x\n', "Traceback"),
        (2, "no\n", "exit 2 without its line"),
        (2, "ktask: one\nktask: two\n", "several lines"),
        (2, "ktask: " + "x" * 9999, "a line of"),
        (1, "", "without a word"),
    ],
)
def test_a_bad_end_is_noticed(code, err, what):
    with pytest.raises(BrokenError, match=what):
        trials.judge(Ended(code, "", err, 0.1, 0))


def test_what_a_trial_leaves_behind_is_noticed(tmp_path):
    with pytest.raises(BrokenError, match="went on for more than"):
        trials.finish(trials.start([], tmp_path, before=["sh", "-c", "exec sleep 60"]), tmp_path, 0.3)
    program = "import subprocess; subprocess.Popen(['sleep', '60'])"
    started = trials.start([], tmp_path, before=[sys.executable, "-c", program])
    started.wait()
    trials.let_go(started)
    with pytest.raises(BrokenError, match="processes are left"):
        trials.gone(tmp_path, 0.1)
    trials.gone(tmp_path)


@pytest.mark.parametrize(
    ("does", "what"),
    [
        (lambda: "x" * (2 << 30), "memory"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended the process with -9"),
        (signal.pause, "went on for more than"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_input_that_breaks_the_process_is_noticed(does, what, tmp_path, monkeypatch):
    def called(_):
        try:
            does()
        except MemoryError:
            return Ended(1, "", "ktask: memory has run out", 0.0, 0)
        return Ended(0, "{}", "", 0.0, 0)

    monkeypatch.setattr(fuzz, "called", called)
    monkeypatch.setattr(fuzz, "_compile", lambda _: None)
    monkeypatch.setattr(trials, "LIMIT_S", 0.5)
    found = dict(fuzz.in_process("vectors", iter([1]), tmp_path))
    assert what in found[1]


def test_damage_hits_every_kind_of_file(tmp_path):
    base = inputs.small_run(tmp_path / "base")
    before = {path.relative_to(base): path.read_bytes() for path in base.rglob("*") if path.is_file()}
    hit = set()
    for seed in range(30):
        damaged = inputs.damaged_run(fuzz.Random(seed), base, tmp_path / str(seed))
        hit |= {name.suffix for name, data in before.items() if not _is(damaged / name, data)}
    assert hit == {".json", ".yaml", ".parquet"}


def _is(path: Path, data: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == data


def test_the_clock_of_a_command_goes_back(tmp_path):
    code = "import time; first = time.time(); time.sleep(0.4); print(time.time() - first)"
    try:
        with faults.clock_back(tmp_path, 0.2) as words:
            done = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, check=True)
    except SkippedError as reason:
        pytest.skip(str(reason))
    assert -86_400 < float(done.stdout) < -86_000
