"""What a changelog says of two manifests."""

from copy import deepcopy
from typing import Any

import pytest

from publishing.changelog import Step, entry_of, latest_version, with_entry
from sixfold.artifact.manifest import FileRecord, inputs_of, manifest_of
from sixfold.recipes.recipe import load_recipes


def manifest(
    *overrides: str, sha256: str = "a", statistics: str | None = None, fingerprint: str = "f"
) -> dict[str, Any]:
    (recipe,) = load_recipes("nvfp4", overrides)
    inputs = inputs_of(recipe, fingerprint * 64, "", statistics)
    files = {"model.safetensors": FileRecord(1000, sha256 * 64), "config.json": FileRecord(10, "c" * 64)}
    return manifest_of("nvfp4", "m", inputs, None, files, ())


def told(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    return entry_of(3, "2026-11-25", [Step(before, after)]).splitlines()[2:]


def test_a_first_release() -> None:
    title = load_recipes("nvfp4")[0].title
    lines = told(None, manifest())
    assert lines == [f"- `nvfp4` is new: {title}; 1.01 kB in 2 files, made of m by sixfold 0.1.0."]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"statistics": "b" * 64}, "the calibration statistics changed (unset before, bbbbbbbbbbbb now)"),
        (
            {},
            {"fingerprint": "e"},
            "the source checkpoint changed (fingerprint ffffffffffff before, eeeeeeeeeeee now)",
        ),
        ({}, {"overrides": ["indivisible=fail"]}, "`recipe.indivisible` was keep and is fail"),
        ({"overrides": ["keep=[a]"]}, {"overrides": ["keep=[a,b]"]}, "`recipe.keep` was ['a'] and is ['a', 'b']"),
    ],
)
def test_every_reason(before: dict[str, Any], after: dict[str, Any], reason: str) -> None:
    old, new = (manifest(*case.pop("overrides", []), **case) for case in (deepcopy(before), deepcopy(after)))
    new["files"]["model.safetensors"]["sha256"] = "d" * 64
    assert told(old, new) == [
        "- `nvfp4` was made again: 1 file changed (model.safetensors); 1.01 kB before, 1.01 kB now.",
        f"  - Why: {reason}.",
    ]


def test_another_version_of_a_library_that_changed_no_byte() -> None:
    old, new = manifest(), manifest()
    new["versions"]["torch"] = "9.9"
    assert told(old, new) == [
        "- `nvfp4` was made again: its files are the same.",
        f"  - Why: torch {old['versions']['torch']} before, 9.9 now.",
    ]


def test_other_words_for_the_same_artifact_are_no_release() -> None:
    assert not Step(manifest(), manifest("title=Better words", "gates.max_mean_kl=0.1")).is_change
    assert Step(manifest(), manifest(sha256="d")).is_change


def test_entries_stand_newest_first_and_the_rest_stays() -> None:
    first = with_entry("", "## v1 (d)\n\n- a\n")
    assert first == "# Changelog\n\n## v1 (d)\n\n- a\n"
    assert with_entry(first, "## v2 (d)\n\n- b\n") == "# Changelog\n\n## v2 (d)\n\n- b\n\n## v1 (d)\n\n- a\n"
    assert with_entry("Our notes.\n", "## v1 (d)\n") == "Our notes.\n\n## v1 (d)\n"
    assert [latest_version(text) for text in ("", "Our notes.", first, "## v9\n## v10\n")] == [0, 0, 1, 10]
