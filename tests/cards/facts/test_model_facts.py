"""What read_model finds is what a run left behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from cards.facts.model_facts import is_model_folder, read_model
from sixfold.errors import SixfoldError
from sixfold.statistics.statistics import SCHEMA, existing_statistics
from tests.cards.model_folder import result

SOURCE = {"fingerprint": "f" * 64, "revision": ""}


def write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def manifest(name: str, suffix: str, files: dict[str, int], statistics: str | None = None) -> dict[str, Any]:
    recipe = {"name": name, "suffix": suffix, "title": name.upper(), "exporter": name, "scheme": name.upper()}
    listed = {file: {"bytes": nbytes, "sha256": "a" * 64} for file, nbytes in files.items()}
    made = {"variant": name, "model": "Tiny", "source": SOURCE, "recipe": recipe, "statistics": statistics}
    return {**made, "versions": {}, "files": listed}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folders, one with two GGUF files, and what stands beside them."""
    root = tmp_path / "Tiny"
    write(root / "source/source.json", {"hub": "lab/Tiny", "provenance": {"license": "mit", "base_model": "lab/Big"}})
    write(root / "source/config.json", {"hidden_size": 8})
    write(root / "calibration/manifest.json", {"schema": SCHEMA, "files": {"layer-00000.safetensors": {"sha256": "b"}}})
    write(root / "Tiny-FP8/manifest.json", manifest("fp8", "FP8", {"model.safetensors": 50, "config.json": 4}))
    write(root / "Tiny-FP8/config.json", {"hidden_size": 8, "quantization_config": {}})
    for scheme, nbytes in (("Q3", 20), ("Q8", 40)):
        write(
            root / f"Tiny-GGUF/Tiny-{scheme}.gguf.manifest.json", manifest(scheme, "GGUF", {f"{scheme}.gguf": nbytes})
        )
    return root


def test_every_artifact_with_its_size(root: Path) -> None:
    found = [(a.label, a.file, a.nbytes, a.weight_nbytes) for a in read_model(root).artifacts]
    assert found == [("FP8", None, 54, 50), ("Q8", "Tiny-Q8.gguf", 40, 40), ("Q3", "Tiny-Q3.gguf", 20, 20)]


def test_the_source_says_where_it_came_from(root: Path) -> None:
    model = read_model(root)
    assert (model.name, model.hub_id) == ("Tiny", "lab/Tiny")
    assert (model.provenance.license, model.provenance.base_model) == ("mit", "lab/Big")


def test_a_gguf_file_takes_the_config_of_its_source(root: Path) -> None:
    fp8, q8, _ = read_model(root).artifacts
    assert "quantization_config" in fp8.config
    assert q8.config == {"hidden_size": 8}


def test_a_verdict_on_other_files_is_as_none(root: Path) -> None:
    written = json.loads((root / "Tiny-FP8/manifest.json").read_text())
    verdict = result(written)
    write(root / "Tiny-FP8/verification.json", verdict)
    assert read_model(root).artifacts[0].verdict is not None
    other = {**verdict["artifact"], "content": "of other files"}
    write(root / "Tiny-FP8/verification.json", {**verdict, "artifact": other})
    assert read_model(root).artifacts[0].verdict is None


def test_statistics_are_those_that_the_manifest_names(root: Path) -> None:
    assert read_model(root).artifacts[0].statistics is None
    statistics = existing_statistics(root / "calibration")
    assert statistics is not None
    write(root / "Tiny-FP8/manifest.json", manifest("fp8", "FP8", {"model.safetensors": 50}, statistics.digest))
    found = read_model(root).artifacts[0].statistics
    assert found is not None
    assert found.folder == root / "calibration"


def test_a_folder_without_artifacts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "calibration/manifest.json", {})
    assert not is_model_folder(tmp_path)
    with pytest.raises(SixfoldError, match="holds no finished artifact"):
        read_model(tmp_path)


@pytest.mark.parametrize("text", ['{"a":', "{}"])
def test_a_manifest_that_cannot_be_read_is_named(text: str, root: Path) -> None:
    path = root / "Tiny-FP8/manifest.json"
    path.write_text(text)
    with pytest.raises(SixfoldError, match=r"manifest\.json cannot be read as the manifest of a variant"):
        read_model(root)
