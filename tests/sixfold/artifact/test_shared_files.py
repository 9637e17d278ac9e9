"""Files that several artifacts of a folder have: a projector stays for those that still list it, and as it is."""

import os
from pathlib import Path

from sixfold.artifact.manifest import FileRecord, artifact_bytes, file_record, inputs_of, manifest_of
from sixfold.artifact.work_folder import Made, put_in_place
from sixfold.artifact.workspace import sha256_of
from tests.exporters.ggml.gguf_tools import recipe

SEES = "mmproj-m-BF16.gguf"


def finish(folder: Path, variant: str, *, sees: bool) -> None:
    partial = folder / "partial" / variant
    partial.mkdir(parents=True, exist_ok=True)
    names = [f"m-{variant}.gguf", *([SEES] if sees else [])]
    for name in names:
        (partial / name).write_bytes(name.encode())
    files = {name: file_record(partial / name) for name in names}
    manifest = manifest_of(variant, "m", inputs_of(recipe("BF16"), "0", "", None), None, files, ())
    put_in_place(
        folder, f"m-{variant}.gguf.manifest.json", manifest, Made(partial, files, {}, None, ()), partial, 0.0, 1
    )


def test_what_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    """Another artifact knows its files by their times."""
    finish(tmp_path, "Q4", sees=True)
    os.utime(tmp_path / SEES, ns=(1, 1))
    finish(tmp_path, "Q8", sees=True)
    assert (tmp_path / SEES).stat().st_mtime_ns == 1
    (tmp_path / SEES).write_bytes(b"damaged, of the same size"[: len(SEES)].ljust(len(SEES)))
    finish(tmp_path, "Q8", sees=True)
    assert (tmp_path / SEES).read_bytes() == SEES.encode()


def test_it_goes_with_the_last_that_lists_it(tmp_path: Path) -> None:
    finish(tmp_path, "Q4", sees=True)
    finish(tmp_path, "Q8", sees=True)
    finish(tmp_path, "Q4", sees=False)
    assert (tmp_path / SEES).is_file()
    finish(tmp_path, "Q8", sees=False)
    assert not (tmp_path / SEES).exists()


def test_it_is_in_no_artifact_s_size(tmp_path: Path) -> None:
    finish(tmp_path, "Q4", sees=True)
    model = tmp_path / "m-Q4.gguf"
    record = {"bytes": model.stat().st_size, "sha256": sha256_of(model)}
    assert artifact_bytes({model.name: record, SEES: {"bytes": 10**9, "sha256": ""}}) == record["bytes"]
    assert FileRecord(**record) == file_record(model)
