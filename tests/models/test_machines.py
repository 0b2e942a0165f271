"""Machine descriptions: what a file may say, and what is said about one that is wrong."""

import math
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from ktask.common.yaml_files import meaning_of
from ktask.models.simulation import machines
from ktask.models.simulation.event_loop import Costs
from ktask.models.simulation.machines import (
    Load,
    Machine,
    as_yaml,
    load_machine,
    parse_machine,
    write_machine,
)

DOCS = (Path(__file__).parents[2] / "docs/simulator.md").read_text(encoding="utf-8")
SMALL = "nodes: 2\ncores_per_node: 4\n"


def test_units_are_read():
    machine = parse_machine(
        SMALL
        + "core_bandwidth: 1.5GiB\nnode_bandwidth: 2e9\nhelper_start: 50us\nchunk_cost: 20 ns\n"
        + "load: [{threads: 3, nice: 5, cpu_time: 2min, start: -1s, bandwidth: 1MiB}]\n"
        + "work: {free: {core_bandwidth: 10GiB, lock_share: 0.25}}\n"
    )
    assert (machine.core_bandwidth, machine.node_bandwidth) == (1.5 * 2**30, 2e9)
    assert (machine.helper_start_s, machine.chunk_cost_s) == (5e-5, 2e-8)
    assert machine.load == (Load(3, nice=5, cpu_time_s=120.0, start_s=-1.0, bandwidth=2.0**20),)
    free = machine.for_work("free")
    assert (free.core_bandwidth, free.lock_share, free.node_bandwidth) == (10 * 2**30, 0.25, 2e9)


def test_what_a_policy_knows_of_a_machine():
    machine = parse_machine(SMALL + "smt: 2\n")
    assert (machine.cpus, machine.cpus_per_node, machine.bandwidth) == (16, 8, math.inf)
    known = machine.for_policy()
    assert (known.cpus, known.cpus_per_node, known.limit, known.node_limits) == (
        16,
        {0: 8, 1: 8},
        12,
        {0: 6, 1: 6},
    )


@pytest.mark.parametrize("name", machines.shipped())
def test_shipped_descriptions_survive_being_written(name, tmp_path):
    machine = load_machine(name)
    assert machine.source
    write_machine(machine, tmp_path / "copy.yaml")
    assert load_machine(tmp_path / "copy.yaml") == machine


WRONG = [
    ("nodes: 0\ncores_per_node: 2", "line 1: nodes=0 is not allowed; use a whole number from 1 to 1024"),
    (SMALL + "core_bandwidth: -1GiB", "line 3: core_bandwidth=-1GiB is not allowed; use bytes per second"),
    (SMALL + "core_bandwidth: .nan", "line 3: core_bandwidth=.nan is not"),
    (SMALL + "core_bandwidth: yes", "line 3: core_bandwidth=yes is not"),
    (SMALL + "chunk_cost: 3 hours", "line 3: chunk_cost=3 hours is not allowed; use seconds"),
    (SMALL + "noise: [1]", "line 3: noise=a list or mapping is not allowed; use a number from 0 to 2"),
    (SMALL + "lock_share: 1.5", "line 3: lock_share=1.5 is not allowed; use a number from 0 to 1"),
    (SMALL + "smt: 2\nsmt_gain: 3", "line 4: smt_gain=3 is not allowed; use at most smt=2"),
    (SMALL + "run_queue: all", "line 3: run_queue=all is not allowed; use cpu or node"),
    (SMALL + "nodes: 3", "line 3: key 'nodes' of the description appears twice; use it once"),
    (SMALL + "sockets: 3", "line 3: key 'sockets' of the description is unknown; use the keys"),
    (SMALL + "load:\n  - threads: 2\n    cpu_time: -4\n", "line 5: cpu_time=-4 is not allowed; use seconds"),
    (
        SMALL + "load:\n  - nice: 2\n",
        "line 4: key threads of an entry of load is missing",
    ),
    (SMALL + "load: 7", "line 3: load=7 is not allowed; use a list of mappings"),
    (SMALL + "work: {walk: {nodes: 1}}", "line 3: key 'nodes' of work walk is unknown"),
    (SMALL + "cores_per_node: [", "not YAML"),
    ("nodes: 1024\ncores_per_node: 65536", "line 1: nodes=1024 is not allowed; use nodes × cores_per_node"),
    (
        "cores_per_node: 2",
        "line 1: key nodes of the description is missing; give a whole number",
    ),
    ("- 1", "line 1: the description is a list or mapping; it must be a mapping with the keys"),
    ("", "line 1: the description is empty; it must be a mapping with the keys"),
    (
        "nodes: &a [*a]\ncores_per_node: 1",
        "line 1: nodes is too deep or has too many values, by aliases",
    ),
    ("[" * 5000, "line 1: too much"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_impossible_numbers_are_named(text, message):
    with pytest.raises(ValueError) as caught:
        parse_machine(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml")
    assert message in str(caught.value)


def test_a_name_that_is_no_machine():
    with pytest.raises(ValueError, match=r"'pdp-11' is neither a file nor one of .*xeon-e7-8895v3"):
        load_machine("pdp-11")


def test_unknown_work():
    with pytest.raises(ValueError, match=r"work 'walk' is not described for x; use one of none"):
        Machine("x").for_work("walk")


def test_defaults_stay_unwritten():
    assert as_yaml(Machine("x", nodes=1, cores_per_node=3)) == "name: x\nnodes: 1\ncores_per_node: 3\n"


NUMBERS = {**machines.FIGURES, "caller_nice": None, "helper_nice": None, "smt": None}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_parameter_is_written_read_shown_documented_and_simulated(name):
    """Each one, and so the next one as well: its field is all there is to add."""
    field = next(one for one in structs.fields(Machine) if one.name == name)
    bounds = msgspec.inspect.type_info(field.type).type
    value = next(one for one in (2, 0.5) if bounds.ge <= one <= bounds.le)
    machine = Machine("x", nodes=2, **{"smt": 4, name: value})
    assert machines.parse_machine(as_yaml(machine)) == machine
    assert (name if name != "smt" else "2 threads each") in machine._repr_html_()
    assert f"| `{field.encode_name}` |" in DOCS
    assert meaning_of(field.type)
    if name in machines.FIGURES:
        of_work = Machine("x", nodes=2, smt=4, work={"free": {name: value}})
        assert machines.parse_machine(as_yaml(of_work)).for_work("free") == structs.replace(machine, work={})
        assert name in Costs._fields


def test_the_table_of_parameters_in_the_docs_is_that_of_the_code():
    assert machines.parameter_table() in DOCS, "put `machines.parameter_table()` into docs/simulator.md"


def test_a_notebook_shows_what_is_described_with_units():
    machine = Machine("a <b>", nodes=2, node_bandwidth=float(3 << 30), helper_start_s=5e-5, about="two & two")
    html = machine._repr_html_()
    assert "a &lt;b&gt;" in html and "two &amp; two" in html
    assert "2 nodes of 1 cores, 1 threads each" in html
    assert "3.00 GiB/s" in html and "50.0 µs" in html
    assert "remote_penalty" not in html


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("[{threads: 60000}, {threads: 60000}]", "use at most 65536 threads in all"),
        ("[{threads: 2, cpu_time: 1, rounds: 1000000}]", "use at most 100000 rounds times threads"),
    ],
)
def test_load_without_an_end_is_refused(load, message):
    with pytest.raises(ValueError, match=rf"line 3: load=\.\.\. is not allowed; {message}"):
        parse_machine(f"nodes: 1\ncores_per_node: 4\nload: {load}", "mine.yaml")
