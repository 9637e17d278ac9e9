"""docs/families.md says what is planned, of every family, and the README counts as it does."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.soundness.family_table import DENSE, FILE, STAGES, YES, page, row_of
from tests.every_family import families

FOLDERS = ("bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq")
"""For any Linear; `mxfp4` is for experts alone."""

README = FILE.parents[1] / "README.md"


def rows_of(text: str) -> dict[str, dict[str, str]]:
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == len(STAGES) + 1 and cells[0] != "family":
            found[cells[0]] = {s: reasons.get(c, c) for s, c in zip(STAGES, cells[1:], strict=True)}
    return found


@pytest.fixture(scope="module")
def committed() -> Mapping[str, Mapping[str, str]]:
    return rows_of(FILE.read_text(encoding="utf-8"))


def test_every_family_has_a_row(committed: Mapping[str, Mapping[str, str]]) -> None:
    assert list(committed) == list(families())
    assert page(committed) == FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["gpt_oss", "jetmoe"])
def test_a_row_says_what_is_planned(family: str, committed: Mapping[str, Mapping[str, str]], tmp_path: Path) -> None:
    assert row_of(family, tmp_path) == committed[family]


@pytest.mark.bench
@pytest.mark.parametrize("family", families())
def test_every_row(family: str, committed: Mapping[str, Mapping[str, str]], tmp_path: Path) -> None:
    assert row_of(family, tmp_path) == committed[family]


def test_the_readme_counts_as_the_table_does(committed: Mapping[str, Mapping[str, str]]) -> None:
    folders = sum(all(row[stage] == YES for stage in FOLDERS) for row in committed.values())
    files = sum(row["gguf-q4_k_m"] == YES for row in committed.values())
    experts_alone = sum(row["mxfp4"] == YES for row in committed.values())
    pruned = sum(row["prune"] == YES for row in committed.values())
    experts = sum(row["prune"] != DENSE for row in committed.values())
    said = f"Of {len(committed)} families, {folders} go into every Hugging Face format, "
    said += f"{experts_alone} have experts for MXFP4, and {files} go into GGUF;"
    assert said in README.read_text(encoding="utf-8")
    assert f"{pruned} of {experts} with experts can be pruned" in README.read_text(encoding="utf-8")
