"""The report: tables, figures, words and the page, on synthetic runs with known truth."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ktask.lab.machine import machine_facts
from ktask.lab.records import SKIPPED_COLUMNS

MIB, GIB = 1 << 20, 1 << 30
PAGE_BYTES = {"4KiB": 4096, "THP": 2 * MIB, "2MiB": 2 * MIB, "1GiB": GIB}


@dataclass(frozen=True)
class Truth:
    """One path of a synthetic run: its one-thread rate, start-up cost, and the speedup threads would reach."""

    workload: str
    backend: str
    method: str
    page_kind: str
    bytes_per_s: float
    scaling: dict[int, float] = field(default_factory=lambda: {2: 1.9})
    overhead_s: float = 2e-5
    unit: str = "byte"

    def wall_s(self, size_bytes: int, threads: int) -> float:
        alone = size_bytes / self.bytes_per_s
        return alone if threads == 1 else alone / self.scaling[threads] + self.overhead_s


TRUTHS = (
    Truth("zeroing", "kernel", "populate", "4KiB", 2.0 * GIB),
    Truth("zeroing", "kernel", "populate", "THP", 8.6 * GIB),
    Truth("zeroing", "kernel", "populate", "2MiB", 8.6 * GIB, {2: 1.85}),
    Truth("zeroing", "user", "memset", "4KiB", 9.7 * GIB, {2: 1.93}),
    Truth("zeroing", "user", "nontemporal", "4KiB", 22.6 * GIB, {2: 1.96}),
    Truth("page_walk", "kernel", "pagemap_scan", "4KiB", 188e6 * 4096, {2: 2.0}, unit="PTE"),
    Truth("page_walk", "kernel", "pagemap", "4KiB", 56e6 * 4096, {2: 1.97}, unit="PTE"),
    Truth("free", "kernel", "dontneed", "4KiB", 40 * GIB, {2: 1.6}),
    Truth("free", "kernel", "munmap", "4KiB", 38 * GIB, {2: 0.8}),
)


@dataclass
class Run:
    name: str
    path: Path
    records: pd.DataFrame
    machine: dict
    grid: dict
    skipped: pd.DataFrame


def rows_of_cell(truth, size_bytes, rng, *, n, threads, noise, aa, cold):
    """Yield the rows of one cell in rounds: serial, chunked, and the serial call again if `aa`."""
    calls = [(1, True, False), *([(1, True, True)] if aa else []), *((t, False, False) for t in threads)]
    for round_ in range(-1, n):
        for order, turn in enumerate(rng.permutation(len(calls))):
            count, baseline, again = calls[turn]
            is_cold = round_ in cold and not baseline
            wall = truth.wall_s(size_bytes, count) * np.exp(noise * rng.standard_normal())
            yield {
                "round": round_,
                "order": order,
                "threads_requested": count,
                "threads": count,
                "warmup": round_ < 0,
                "baseline": baseline,
                "wall_s": wall * (8 if is_cold else 1),
                "cpu_user_s": wall * count * 0.02,
                "cpu_system_s": wall * count * 0.95,
                "flags": ["aa"] * again + ["cold_memory"] * is_cold + ["steal"] * (round_ == 3),
                "chunk_size": size_bytes if baseline else size_bytes // (4 * count),
                "n_chunks": 1 if baseline else 4 * count,
            }


def make_records(truths=TRUTHS, sizes=(4 * MIB, 64 * MIB, GIB), *, n=7, noise=0.01, aa=True, cold=(), seed=7):
    rng = np.random.default_rng(seed)
    parts = []
    for truth in truths:
        for size_bytes in sizes:
            rows = rows_of_cell(
                truth,
                size_bytes,
                rng,
                n=n,
                threads=sorted(truth.scaling),
                noise=noise,
                aa=aa and size_bytes == max(sizes),
                cold=cold,
            )
            parts.append(
                pd.DataFrame(rows).assign(
                    run_id="run",
                    host_id="host",
                    cell_id=f"{truth.workload}-{truth.method}-{truth.page_kind}-{size_bytes}",
                    workload=truth.workload,
                    backend=truth.backend,
                    method=truth.method,
                    page_kind=truth.page_kind,
                    page_size_bytes=PAGE_BYTES[truth.page_kind],
                    size_bytes=size_bytes,
                    unit=truth.unit,
                    operations=size_bytes // (4096 if truth.unit == "PTE" else 1),
                    policy="ktask-v4",
                    min_chunk_size=2 * MIB,
                    faults_minor=0,
                    ctx_involuntary=1,
                    steal_s=0.0,
                    verified=True,
                    started_at=pd.Timestamp("2025-03-01T12:00:00Z"),
                )
            )
    return pd.concat(parts, ignore_index=True)


def machine(**changes):
    """Return machine facts that do not depend on where the tests run."""
    known = machine_facts()
    return {
        **{key: known[key] for key in ("caches", "python_version", "packages") if key in known},
        "host_name": "testhost",
        "cpu_model": "Test CPU 3000",
        "sockets": 1,
        "cores": 2,
        "threads": 2,
        "smt": False,
        "kernel_release": "6.18.0",
        "memory_total_bytes": 24 * GIB,
        "virtualised": True,
        "hypervisor": "KVM",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "lock_sha256": "ab" * 32,
        **changes,
    }


def skipped(*rows):
    """Return skipped cases; each is (workload, backend, method, page kind, size in bytes, reason)."""
    cells = [{"cell_id": f"skipped-{i}", "failed": False} for i in range(len(rows))]
    named = [
        dict(zip(SKIPPED_COLUMNS[1:7], row, strict=True)) | cell
        for row, cell in zip(rows, cells, strict=True)
    ]
    return pd.DataFrame(named, columns=SKIPPED_COLUMNS)


NO_POOL = ("zeroing", "kernel", "populate", "1GiB", GIB, "no free 1 GiB pages in the hugetlb pool")


def make_run(records=None, *, skips=(NO_POOL,), **facts):
    if records is None:
        records = make_records()
    grid = {
        "name": "quick",
        "about": "synthetic",
        "seed": 20250301,
        "threads": [1, 2],
        "protocol": {"least": 7, "most": 25, "budget_s": 1.0, "precision": 0.01, "warmup_s": 6.0, "seed": 1},
        "cells": [],
    }
    return Run("sample", Path("data/runs/sample"), records, machine(**facts), grid, skipped(*skips))


def write_run(run, directory):
    """Write a run directory in the format of a sweep: one Parquet file per cell."""
    (directory / "records").mkdir(parents=True)
    for cell, part in run.records.groupby("cell_id"):
        part.to_parquet(directory / "records" / f"{cell}.parquet", index=False)
    (directory / "machine.json").write_text(json.dumps(run.machine))
    (directory / "grid.yaml").write_text(yaml.safe_dump(run.grid))
    (directory / "skipped").mkdir()
    for row in run.skipped.to_dict("records"):
        (directory / "skipped" / f"{row['cell_id']}.json").write_text(json.dumps(row))
    return directory
