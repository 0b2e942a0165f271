"""Evidence as files for other tools: their counts and times add up to what was seen."""

import json

import pytest
from seen_evidence import SEEN, a_look

from ktask.host.perf import SAMPLES_PER_S
from ktask.lab.evidence import Evidence
from ktask.lab.evidence.profiles import folded, looks_of, speedscope, write_profiles

STACKS = {("clear_page", "do_fault", "entry"): 10 / SAMPLES_PER_S, (): 2 / SAMPLES_PER_S, ("x",): 1e-9}


def test_folded_stacks_count_the_samples_of_all_repetitions():
    look = a_look(stacks=STACKS, repetitions=4)
    assert [*folded(look)] == ["entry;do_fault;clear_page 40", "? 8"]


def test_speedscope_has_a_profile_for_each_way():
    found = speedscope("a case", looks_of(SEEN))
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert [one["name"] for one in found["profiles"]] == [
        "serial, 1 thread",
        "threads, 288 threads",
        "alone, 1 thread",
    ]
    names = [frame["name"] for frame in found["shared"]["frames"]]
    assert len(set(names)) == len(names)
    for one, look in zip(found["profiles"], looks_of(SEEN).values(), strict=True):
        assert (one["type"], one["unit"], one["startValue"]) == ("sampled", "seconds", 0)
        assert one["endValue"] == pytest.approx(sum(one["weights"])) == pytest.approx(look.cpu_s)
        stacks = {tuple(names[k] for k in reversed(stack)) for stack in one["samples"]}
        assert stacks == {stack or ("?",) for stack in look.stacks}


def test_the_files_lie_in_their_folder_whatever_the_name(tmp_path):
    files = write_profiles(tmp_path / "new", "../../evil/name", Evidence(a_look(), a_look(2)))
    assert [file.parent for file in files] == [tmp_path / "new"] * 3
    assert {file.name for file in (tmp_path / "new").iterdir()} == {file.name for file in files}
    assert json.loads(files[-1].read_text())["name"]
