"""A sweep and its report on an emulated machine; `make vm` runs this there, last, as it takes minutes."""

import pytest
from checks import CPUS, MACHINE, NODE_CPUS

pytestmark = pytest.mark.skipif(not MACHINE, reason="this is no emulated machine")
GRID = """
about: one cell, to see that all of it works
seed: 1
threads: [1, 4]
min_chunk: 64KiB
policy: ktask-v4
passes: 1
protocol: {least: 2, most: 2, budget_s: 0.1, warmup_s: 0.1}
work:
  - {workload: zeroing, method: populate, page_kind: 4KiB, size: 4MiB}
"""


@pytest.mark.limit(900)
def test_a_sweep_and_its_report(typed, tmp_path, monkeypatch):
    if len(CPUS) != 8:
        pytest.skip("done where there are 8 CPUs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text(GRID)
    code, _, err = typed("sweep", "one.yaml", "--run", "one")
    assert code == 0, err
    assert list((tmp_path / "data/runs/one/records").glob("*.parquet")), err
    code, _, err = typed("report", "one")
    assert code == 0, err
    page = (tmp_path / "reports/one.html").read_text().replace("\xa0", " ")
    for nid, cpus in NODE_CPUS.items():
        assert f"node {nid}: {len(cpus)} CPUs" in page
