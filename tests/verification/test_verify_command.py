"""sixfold verify: what it prints, what it writes, and what it answers with."""

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import main as cli
from tests.exporters.exported import DEMO
from tests.few_windows import few_windows
from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import W1, W3, tensors
from tests.verification.damage import copy_folder, copy_gguf, in_shards, swap


@pytest.fixture(scope="module", autouse=True)
def _few_windows() -> Iterator[None]:
    with few_windows("verification.measure.held_out"):
        yield


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(["verify", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def with_manifest(artifact: Path, target: Path) -> Path:
    folder = copy_folder(artifact, target)
    shutil.copy(artifact / "manifest.json", folder)
    return folder


def without_run(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    assert found.pop("run")["seconds"] >= 0
    return found


def test_a_sound_folder_says_so_and_keeps_its_state(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_folder(artifacts["nvfp4"], tmp_path / "sound")
    code, out, _ = run(capsys, str(folder), "--against", str(DEMO))
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert any(row.startswith("nvfp4 56 0.09") for row in rows)
    assert f"{folder} is sound. Written: {folder / 'verification.json'}" in rows
    written = without_run((folder / "verification.json").read_text())
    assert written["passed"]
    assert written["source"]["name"] == "minimax-m2-4.6m"
    assert {row["encoding"]: row["tensors"] for row in written["weights"]["formats"]} == {"": 15, "nvfp4": 56}
    run(capsys, str(folder), "--against", str(DEMO))
    assert without_run((folder / "verification.json").read_text()) == written


def test_what_was_measured_stays_where_nothing_is_measured(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sound"
    shutil.copytree(artifacts["nvfp4"], folder)
    run(capsys, str(folder), "--against", str(DEMO))
    measured = (folder / "verification.json").read_bytes()
    code, out, _ = run(capsys, str(folder))
    assert code == 0
    assert f"{folder / 'verification.json'} keeps the earlier measurements against its source" in " ".join(out.split())
    assert (folder / "verification.json").read_bytes() == measured
    (folder / "tokenizer.json").unlink()
    code, _, _ = run(capsys, str(folder))
    assert code == 3
    assert not json.loads((folder / "verification.json").read_bytes())["passed"]


def test_a_failed_check_names_tensor_and_reason_and_answers_3(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_folder(artifacts["nvfp4"], tmp_path / "damaged")
    tensors(lambda found: swap(found, W1, W3))(folder)
    code, out, err = run(capsys, str(folder), "--against", str(DEMO))
    assert (code, err) == (3, "")
    assert f"{W1}weight: it holds the weights of {W3}weight [weights.error]" in out
    last = out.strip().splitlines()[-1]
    assert last.startswith(f"{folder} failed: {W1}weight: it holds the weights of {W3}weight (and 1 more).")
    code, out, _ = run(capsys, str(folder), "--against", str(DEMO), "--json")
    assert code == 3
    found = without_run(out)
    assert not found["passed"]
    assert {f["where"] for f in found["findings"]} == {f"{W1}weight", f"{W3}weight"}
    assert all(f["consequence"] and f["remedy"] and f["severity"] == "error" for f in found["findings"])


def test_a_gguf_file_gets_a_result_of_its_own(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_gguf(artifacts["gguf-q8_0"], tmp_path / "x.gguf")
    code, out, _ = run(capsys, str(path), "--json")
    assert code == 0
    assert without_run(out) == without_run((tmp_path / "x.gguf.verification.json").read_text())
    path.write_bytes(path.read_bytes()[:-4096])
    code, out, _ = run(capsys, str(path))
    assert code == 3
    assert "x.gguf is truncated" in out


def test_what_is_no_artifact_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, sentence in (
        (tmp_path / "nowhere", "there is no folder or file"),
        (tmp_path, "there is no safetensors file in"),
    ):
        code, out, err = run(capsys, str(path))
        assert (code, out) == (1, "")
        assert err.startswith(f"sixfold: {sentence} {path}")
        assert len(err.splitlines()) == 1


def test_nothing_is_left_beside_a_file_that_is_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("no model")
    code, out, _ = run(capsys, str(path))
    assert code == 3
    assert "Nothing was written, as this is no model's artifact." in out
    assert list(tmp_path.iterdir()) == [path]


def test_several_models_are_one_sentence_and_get_no_result(
    artifacts: Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    root = artifacts["fp8"].parent
    code, out, err = run(capsys, str(root))
    assert (code, out) == (2, "")
    assert err.startswith(f"sixfold: {root} is not a model; it holds ")
    assert artifacts["fp8"].name in err or " more;" in err
    assert len(err.splitlines()) == 1
    assert not (root / "verification.json").exists()


def test_deleted_weights_are_one_finding(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_manifest(artifacts["fp8"], tmp_path / "emptied")
    (folder / "model.safetensors").unlink()
    sharded = copy_folder(artifacts["fp8"], tmp_path / "shards")
    in_shards(sharded)
    for shard in sharded.glob("*.safetensors"):
        shard.unlink()
    gguf = artifacts["gguf-q8_0"]
    (tmp_path / "gguf").mkdir()
    shutil.copy(gguf.with_name(f"{gguf.name}.manifest.json"), tmp_path / "gguf")
    for path in (folder, sharded, tmp_path / "gguf" / gguf.name):
        for source in ((), ("--against", str(DEMO))):
            code, out, _ = run(capsys, str(path), *source, "--json")
            (finding,) = json.loads(out)["findings"]
            assert (code, finding["check"], finding["where"]) == (3, "files.weights-gone", path.name)
            assert finding["remedy"] == "export the variant again"


def test_a_damaged_neighbor_does_not_hide_the_verdict(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_manifest(artifacts["fp8"], tmp_path / "sound")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text('{"recipe": {')
    code, out, err = run(capsys, str(folder), "--json")
    assert code == 0
    assert json.loads(out)["passed"]
    assert f"{tmp_path / 'torn' / 'manifest.json'} cannot be read as the manifest of a variant" in err


def test_only_an_artifact_of_ours_has_cards_rendered(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = copy_folder(artifacts["fp8"], tmp_path / "foreign")
    ours = with_manifest(artifacts["fp8"], tmp_path / "ours")
    (ours / "README.md").unlink(missing_ok=True)
    run(capsys, str(foreign))
    assert not (ours / "README.md").exists()
    run(capsys, str(ours))
    assert (ours / "README.md").is_file()


def test_what_pruning_proved_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pruned"
    shutil.copytree(DEMO.parent / "minimax-m2-4.6m-REAP-6", folder)
    proved = (folder / "verification.json").read_bytes()
    code, out, _ = run(capsys, str(folder))
    assert code == 0
    assert f"Written: {folder / 'checkpoint-verification.json'}" in out
    assert json.loads((folder / "checkpoint-verification.json").read_text())["passed"]
    assert (folder / "verification.json").read_bytes() == proved


def test_verification_leaves_the_artifact_current(artifacts: Artifacts, capsys: pytest.CaptureFixture[str]) -> None:
    from sixfold.artifact.manifest import state_of

    run(capsys, str(artifacts["fp8"]))
    assert state_of(artifacts["fp8"], "manifest.json", None).name == "current"


def test_a_folder_that_cannot_be_written_has_a_verdict_all_the_same(
    artifacts: Artifacts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("verification.result.write_json", refuse)
    monkeypatch.setattr("cli.commands.verify.render_cards", refuse)
    folder = artifacts["nvfp4"]
    code, out, err = run(capsys, str(folder))
    assert code == 0
    assert f"{folder} is sound. Not written: Read-only file system" in " ".join(out.split())
    assert "Read-only file system" in err
