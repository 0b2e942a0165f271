"""`ktask run` says what load and quota did, and its help names what may be asked for."""

from ktask.cli import case_options
from ktask.cli.run import _conditions
from ktask.workloads.conditions import LOADS

PLAIN = {"load": "none", "quota": "none", "nice": "policy", "placement": "cores"}


def test_what_load_and_quota_did_is_said():
    rates = {"load_alone_rate": 2e9, "load_rate": {"serial": 1e9, "threads": 5e8}}
    loaded = PLAIN | {"load": "spin:2"} | rates
    assert list(_conditions(loaded, 2)) == [
        "\nload spin:2: 2.00 G step/s alone, 1.00 G step/s beside 1 thread, 500 M step/s beside 2"
    ]
    limited = PLAIN | {"quota": "50%", "throttled_s": {"serial": 0.1, "threads": 0.25}}
    assert list(_conditions(limited, 2)) == [
        "\nquota 50%: 1 thread stopped for 100 ms, 2 for 250 ms of CPU time in the median"
    ]
    assert list(_conditions(limited, 1)) == [
        "\nquota 50%: 1 thread stopped for 100 ms of CPU time in the median"
    ]
    fragmented = PLAIN | {"huge_share": {"serial": 0.024, "threads": 0.5}}
    assert list(_conditions(fragmented, 2)) == [
        "\ncame as huge pages: 2% with 1 thread, 50% with 2 in the median"
    ]
    assert list(_conditions(PLAIN, 2)) == []


def test_the_help_names_every_kind_of_load():
    (option,) = case_options.Load.__metadata__
    assert [kind for kind in LOADS if kind not in option.help] == []
