"""What the exports may cost in time and memory; `make bench` runs it, minutes long, on an otherwise idle machine."""

from pathlib import Path

import pytest

from benchmarks.speed.throughput import OURS, benchmark, table


@pytest.mark.bench
def test_exports_keep_up_with_copying_and_stay_small(tmp_path: Path) -> None:
    report = benchmark(tmp_path, gigabytes=4.4, runs=5, peer_runs=1)
    print(f"\n{table(report)}")  # noqa: T201 - the table is what one runs it for
    results = report["medians"]
    for name, times_copying in {"fp8": 2, "nvfp4": 3}.items():
        assert results[name]["seconds"] <= times_copying * results["cp"]["seconds"]
    for name in OURS:
        assert results[f"peer:{name}"]["seconds"] >= 5 * results[name]["seconds"]
        assert results[name]["peak"] <= 600e6 + 3 * results[name]["largest_inputs"]
