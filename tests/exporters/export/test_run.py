"""One export as a whole: what it leaves, what a rerun skips or redoes and says, and what a half-finished one is."""

import json
import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exporters.export import planning
from exporters.export import run as run_module
from exporters.export.planning import check_disk, inputs_for, plan_all
from exporters.export.run import Exported, export
from sixfold.artifact import work_folder
from sixfold.artifact.lock import exclusive
from sixfold.artifact.manifest import changed_inputs, state_of
from sixfold.artifact.workspace import PARTIAL, Workspace, sha256_of
from sixfold.checkpoint.checkpoint import open_checkpoint
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration, Recipe, load_recipes
from tests.exporters.exported import silent
from tests.families import make_family

BF16 = Recipe(name="bf16", suffix="BF16", title="BF16", exporter="bf16", scheme="BF16")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(make_family("llama", tmp_path / "tiny"))


def run(source: Source, root: Path, recipe: Recipe = BF16) -> Exported:
    return export(source, recipe, Workspace(root, source.checkpoint.name), None, threads=2, progress=silent)


def state(source: Source, done: Exported, recipe: Recipe = BF16) -> tuple[str, tuple[str, ...]]:
    found = state_of(done.folder, done.manifest, inputs_for(source, recipe, None))
    return found.name, found.reasons


def test_bf16_is_the_source_tensor_for_tensor(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    ours, theirs = load_file(done.folder / "model.safetensors"), load_file(tmp_path / "tiny" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert json.loads((done.folder / "config.json").read_text()) == source.checkpoint.config


def test_float32_sources_are_cast_but_correction_biases_are_not(tmp_path: Path) -> None:
    folder = make_family("glm4_moe", tmp_path / "tiny")
    path = folder / "model.safetensors"
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    done = run(open_source(folder), tmp_path / "out")
    dtypes = {name: tensor.dtype for name, tensor in load_file(done.folder / "model.safetensors").items()}
    biases = {name for name in dtypes if name.endswith("e_score_correction_bias")}
    assert biases
    assert all(dtype == (torch.float32 if name in biases else torch.bfloat16) for name, dtype in dtypes.items())


def test_the_manifest_lists_every_file_with_its_true_hash(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    manifest = json.loads((done.folder / "manifest.json").read_text())
    on_disk = {str(p.relative_to(done.folder)) for p in done.folder.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json", "run.json"}
    for name, record in manifest["files"].items():
        assert record == {"bytes": (done.folder / name).stat().st_size, "sha256": sha256_of(done.folder / name)}
    assert all((done.folder / name).stat().st_mode & 0o444 == 0o444 for name in on_disk)


def test_two_runs_leave_the_same_manifest(source: Source, tmp_path: Path) -> None:
    one, two = run(source, tmp_path / "one"), run(source, tmp_path / "two")
    assert (one.folder / "manifest.json").read_bytes() == (two.folder / "manifest.json").read_bytes()


def test_a_rerun_skips_what_is_current(source: Source, tmp_path: Path) -> None:
    assert not run(source, tmp_path / "out").skipped
    assert run(source, tmp_path / "out").skipped


def test_a_changed_recipe_is_stale_and_says_why(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    changed = BF16.model_copy(update={"keep": ("lm_head",)})
    assert state(source, done, changed) == ("stale", ("recipe.keep changed",))
    again = run(source, tmp_path / "out", changed)
    assert not again.skipped
    assert again.reasons == ("recipe.keep changed",)


def test_a_new_title_is_recorded_without_writing_weights_again(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    before = (done.folder / "model.safetensors").stat().st_mtime_ns
    assert run(source, tmp_path / "out", BF16.model_copy(update={"title": "Clean BF16"})).skipped
    assert json.loads((done.folder / "manifest.json").read_text())["recipe"]["title"] == "Clean BF16"
    assert (done.folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_profile_that_is_not_read_makes_nothing_stale(source: Source, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    other = BF16.model_copy(update={"calibration": Calibration(samples=7)})
    assert run(source, tmp_path / "out", other).skipped


def test_a_keep_pattern_that_matches_nothing_is_refused(source: Source, tmp_path: Path) -> None:
    typo = BF16.model_copy(update={"keep": ("self_atn",)})
    with pytest.raises(UsageError, match=r"bf16: `keep` has 'self_atn', which no Linear of tiny matches; see their"):
        run(source, tmp_path / "out", typo)


ALWAYS = {"torch", "transformers"}


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("bf16", ALWAYS),
        ("fp8", ALWAYS),
        ("nvfp4", ALWAYS),
        ("nvfp4-gb10", ALWAYS),
        ("awq", ALWAYS),
        ("gguf-q4_k_m", ALWAYS | {"gguf", "libggml-python", "tokenizers"}),
        ("llmcompressor", ALWAYS | {"llmcompressor", "compressed-tensors"}),
    ],
)
def test_an_artifact_depends_on_what_made_it_and_on_nothing_else(
    name: str, counted: set[str], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every installed package in another version, one after the other, and gone."""
    recipe = BF16.model_copy(update={"exporter": name}) if name == "llmcompressor" else load_recipes(name)[0]
    manifest = inputs_for(source, recipe, None)
    real = metadata.version
    named: dict[str, str | None] = {}
    monkeypatch.setattr("sixfold.artifact.manifest.version", lambda library: named.get(library) or real(library))
    for package in {distribution.name for distribution in metadata.distributions()}:
        named = {package: "99.9"}
        reasons = [f"versions.{package}"] if package in counted else []
        assert changed_inputs(manifest, inputs_for(source, recipe, None)) == reasons

    def gone(library: str) -> str:
        raise metadata.PackageNotFoundError(library)

    monkeypatch.setattr("sixfold.artifact.manifest.version", gone)
    assert changed_inputs(manifest, inputs_for(source, recipe, None)) == []
    assert set(manifest["versions"]) == counted | {"sixfold"}


def test_another_version_of_a_library_is_the_reason_that_a_rerun_tells(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(source, tmp_path / "out")
    path = done.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"]["llmcompressor"] = "0.1"  # as earlier versions of this project recorded what was installed
    path.write_text(json.dumps(manifest))
    assert state(source, done) == ("current", ())
    manifest["versions"]["torch"] = "2.0"
    path.write_text(json.dumps(manifest))
    assert run(source, tmp_path / "out").reasons == ("versions.torch changed",)


def test_another_tuning_of_the_same_shape_is_stale(source: Source, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    path = tmp_path / "tiny" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    again = run(open_source(tmp_path / "tiny"), tmp_path / "out")
    assert again.reasons == ("source.fingerprint changed",)
    with safe_open(again.folder / "model.safetensors", "pt") as opened, safe_open(path, "pt") as tuned:
        assert torch.equal(opened.get_tensor("model.norm.weight"), tuned.get_tensor("model.norm.weight"))


def test_a_damaged_file_is_found_and_made_again(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    weights = done.folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(weights, ns=(1, 1))  # two writes within one tick of a file system's clock have the same time
    assert state(source, done) == ("damaged", ("model.safetensors is missing or differs from the manifest",))
    assert run(source, tmp_path / "out").reasons == state_reasons("model.safetensors")
    assert state(source, done) == ("current", ())


def state_reasons(name: str) -> tuple[str, ...]:
    return (f"{name} is missing or differs from the manifest",)


def test_a_copied_artifact_is_current_though_its_times_differ(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    os.utime(done.folder / "model.safetensors", ns=(1, 1))
    assert state(source, done) == ("current", ())


@pytest.mark.parametrize("when", ["streaming", "putting in place"])
def test_a_killed_run_is_partial_and_a_rerun_finishes_it(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    module, target = (run_module, "write_files") if when == "streaming" else (work_folder, "write_if_changed")
    with monkeypatch.context() as patch:
        patch.setattr(module, target, killed)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out")
    folder = Workspace(tmp_path / "out", "tiny").variant("BF16")
    assert state_of(folder, "manifest.json", None).name == "partial"
    done = run(source, tmp_path / "out")
    assert done.reasons == ("no manifest: the run did not finish",)
    assert state(source, done) == ("current", ())
    assert not (folder / PARTIAL).exists()


def test_what_a_run_left_that_was_killed_at_its_very_end_is_cleared(source: Source, tmp_path: Path) -> None:
    partial = run(source, tmp_path / "out").folder / PARTIAL
    left = partial / "bf16"
    left.mkdir(parents=True)
    (left / "model.safetensors.tmp").write_bytes(b"half")
    with exclusive(partial / "bf16.lock", "held by the test"):
        assert run(source, tmp_path / "out").skipped
        assert left.exists(), "another process is at work there"
    (partial / "bf16.lock").touch()
    assert run(source, tmp_path / "out").skipped
    assert not partial.exists()


def test_files_of_an_older_plan_are_removed_and_others_left_alone(source: Source, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out")
    manifest = json.loads((done.folder / "manifest.json").read_text())
    stale, own = done.folder / "model-00001-of-00002.safetensors", done.folder / "NOTES.md"
    stale.write_bytes(b"old shard")
    own.write_text("mine")
    manifest["files"][stale.name] = {"bytes": 9, "sha256": sha256_of(stale)}
    manifest["recipe"]["scheme"] = "older"
    (done.folder / "manifest.json").write_text(json.dumps(manifest))
    run(source, tmp_path / "out")
    assert not stale.exists()
    assert own.read_text() == "mine"


def test_a_kill_while_replacing_leaves_no_file_of_the_older_artifact(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(source, tmp_path / "out")
    old = done.folder / "model-00001-of-00002.safetensors"
    old.write_bytes(b"old shard")
    manifest = json.loads((done.folder / "manifest.json").read_text())
    manifest["files"][old.name] = {"bytes": 9, "sha256": sha256_of(old)}
    manifest["recipe"]["scheme"] = "older"
    (done.folder / "manifest.json").write_text(json.dumps(manifest))

    def killed(path: Path, missing_ok: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out")
    assert old.exists()
    run(source, tmp_path / "out")
    assert not old.exists()


def test_too_little_disk_is_said_before_the_work(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: usage)
    message = r"0\.00 GB are to be written to .*, which has 0\.00 GB free; free some space, choose another OUT, or"
    with pytest.raises(SixfoldError, match=message):
        check_disk(source, plan_all(source, [BF16]), Workspace(tmp_path / "out", "tiny"))


def test_room_is_needed_for_what_is_made_again(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(source, tmp_path / "out")
    workspace = Workspace(tmp_path / "out", "tiny")
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    check_disk(source, plan_all(source, [BF16]), workspace)
    with pytest.raises(SixfoldError, match="are to be written to"):
        check_disk(source, plan_all(source, [BF16.model_copy(update={"keep": ("lm_head",)})]), workspace)


def test_a_source_is_not_written_over(source: Source, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "tiny-BF16"
    folder.parent.mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "tiny", folder, ignore=shutil.ignore_patterns("tiny-*"))
    inside = Source(open_checkpoint(str(folder), name="tiny"), source.architecture)
    with pytest.raises(SixfoldError, match=r"bf16 would be written over its own source .*tiny-BF16; choose another"):
        run(inside, tmp_path)


def test_an_output_folder_that_cannot_be_made(source: Source, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SixfoldError, match=r"cannot make .*out/tiny: Not a directory; choose another OUT"):
        check_disk(source, plan_all(source, [BF16]), Workspace(tmp_path / "out", "tiny"))


def test_two_processes_do_not_write_one_artifact(source: Source, tmp_path: Path) -> None:
    folder = Workspace(tmp_path / "out", "tiny").variant("BF16")
    with work_folder.locked(folder / PARTIAL, "bf16"):
        with pytest.raises(SixfoldError, match=r"another process is exporting bf16 into .*; wait for it, or stop it"):
            run(source, tmp_path / "out")


def test_a_source_that_changes_while_it_is_read_gives_no_artifact(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(source.checkpoint.folder, model)
    write = run_module.write_files

    def overwritten(*arguments, **options):  # type: ignore[no-untyped-def]
        os.utime(next(model.glob("*.safetensors")), (1, 1))
        return write(*arguments, **options)

    monkeypatch.setattr(run_module, "write_files", overwritten)
    with pytest.raises(SixfoldError, match=r"safetensors changed while it was being read; run the same command again"):
        run(open_source(str(model)), tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
