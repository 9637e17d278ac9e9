"""docs/families.md says what is planned, of every family, and the README counts as it does."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.soundness.family_table import FILE, README, counts_of, page, row_of, rows_of
from tests.every_family import families


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
    assert counts_of(committed) in README.read_text(encoding="utf-8")
