"""Seconds a layer by the slope between two depths, and lines that add up to the whole."""

import re
from typing import Any

from benchmarks.real_size.whole_job import whole_job


def run(layers: int, seconds: float, disk: float, products: float) -> dict[str, Any]:
    """Of a stage that takes ten seconds before its first layer. seconds, disk, products: of each."""
    beside = [{"disk": disk * layers}, {"products": products * layers, "statistics": 0.25 * layers}]
    stages = [{"name": "plan", "seconds": 1.0}, {"name": "calibration", "seconds": 10 + seconds * layers}]
    return {"layers": layers, "stages": stages, "limits": {"calibration": beside}}


def test_a_layer_and_what_is_done_once() -> None:
    runs = [run(layers, seconds=6.0, disk=1.5, products=3.75) for layers in (2, 8)]
    lines = list(whole_job({"disk": runs}, 60))
    assert lines[2] == "| disk | calibration | 6.00 | 10.00 | 1.50 | 4.00 | 2.00 | 6.2 min |"
    assert lines[3] == lines[2].replace("calibration", "all")
    *parts, whole = (float(number) for line in lines if (number := "".join(re.findall(r"^- ([\d.]+) min", line))))
    assert parts == [1.5, 2.5, 2.0, 0.2]
    assert whole == sum(parts)


def test_of_one_depth_a_layer_has_the_start_up() -> None:
    (row,) = [line for line in whole_job({"page cache": [run(4, 6.0, 1.5, 3.75)]}, 4) if "calibration |" in line]
    assert row.startswith("| page cache | calibration | 8.50 | 0.00 |")
