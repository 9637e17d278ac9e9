import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from calibration.calibrate import Calibrated, calibrate
from calibration.forward_pass.coverage import summary
from calibration.imatrix import write_imatrix
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.statistics.statistics import open_statistics
from tests.calibration.silent import silent
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"
PROFILE = Calibration(samples=12, length=64, sample_rows=16)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    return calibrate(open_source(DEMO), PROFILE, tmp_path_factory.mktemp("calibration"), progress=silent)


def test_every_linear_has_statistics_under_its_own_name(done: Calibrated) -> None:
    source, statistics = open_source(DEMO), open_statistics(done.statistics.folder)
    for linear in source.architecture.linears:
        found = statistics.of_linear(linear.name)
        assert found.sum_sq.shape == found.sum_abs.shape == found.abs_max.shape == (linear.in_features,)
        assert found.sample.shape == (min(16, found.count), linear.in_features)
        assert found.sample.dtype is torch.bfloat16
        assert found.count == 12 * 64 or linear.expert is not None
        whole = statistics.site(linear.site)["sum_sq"]
        assert torch.equal(found.sum_sq, whole if linear.expert is None else whole[linear.expert])
    assert not statistics.has("model.embed_tokens")
    with pytest.raises(SixfoldError, match=r"no statistics for model.embed_tokens; run `sixfold calibrate` again"):
        statistics.of_linear("model.embed_tokens")


def test_the_manifest_says_what_was_run(done: Calibrated) -> None:
    manifest = done.statistics.manifest
    assert manifest["profile"] == PROFILE.model_dump(mode="json")
    assert manifest["tokens"]["samples"] == 12
    assert set(manifest["versions"]) == {"sixfold", "torch", "transformers"}
    assert manifest["sites"]["model.layers.1.block_sparse_moe.experts.*.w1"] == {
        "layer": 1,
        "experts": 8,
        "linears": [f"model.layers.1.block_sparse_moe.experts.*.{part}" for part in ("w1", "w3")],
    }
    assert manifest["sites"]["lm_head"] == {"layer": None, "experts": None, "linears": ["lm_head"]}
    layers = {f"layer-{n}.safetensors" for n in ("00000", "00001", "other")}
    assert set(manifest["files"]) == layers | {"imatrix.gguf"}
    for layer in manifest["coverage"]:
        assert sum(layer["tokens"]) == 12 * 64 * 2
    assert [c.layer for c in done.coverage] == [0, 1]
    assert "16 experts in 2 layers: 0 saw no token" in summary(done.coverage)


def test_two_runs_leave_the_same_bytes_and_a_third_does_nothing(done: Calibrated, tmp_path: Path) -> None:
    source = open_source(DEMO)
    again = calibrate(source, PROFILE, tmp_path, progress=silent)
    folder = done.statistics.folder
    for name in ("manifest.json", *again.statistics.manifest["files"]):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert again.statistics.digest == done.statistics.digest
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    third = calibrate(source, PROFILE, tmp_path, progress=silent)
    assert third.skipped
    assert third.coverage == done.coverage
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_a_change_is_noticed_and_named(done: Calibrated, tmp_path: Path) -> None:
    folder = shutil.copytree(done.statistics.folder, tmp_path / "copy")
    other = calibrate(open_source(DEMO), PROFILE.model_copy(update={"seed": 3}), folder, progress=silent)
    assert not other.skipped
    assert other.reasons == ("profile.seed changed",)
    assert other.statistics.digest != done.statistics.digest
    (folder / "layer-00001.safetensors").write_bytes(b"short")
    repaired = calibrate(open_source(DEMO), PROFILE.model_copy(update={"seed": 3}), folder, progress=silent)
    assert repaired.reasons == ("layer-00001.safetensors is missing or differs from the manifest",)
    assert repaired.statistics.digest == other.statistics.digest


def test_an_unfinished_folder_is_no_calibration(
    done: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(done.statistics.folder, tmp_path / "copy")
    monkeypatch.setattr("calibration.calibrate.moe_layers", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        calibrate(open_source(DEMO), PROFILE.model_copy(update={"seed": 3}), folder, progress=silent)
    with pytest.raises(SixfoldError, match=r"no finished calibration in .*; run `sixfold calibrate MODEL` first"):
        open_statistics(folder)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(SixfoldError, match="has schema 0, this version reads 5"):
        open_statistics(tmp_path)


def starved_demo(folder: Path) -> Path:
    """The demo with a bias that keeps expert 5 of layer 1 from ever being chosen."""
    shutil.copytree(DEMO, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.block_sparse_moe.e_score_correction_bias"][5] = -100.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_expert_without_tokens_is_reported_and_has_zeros(tmp_path: Path) -> None:
    source = open_source(starved_demo(tmp_path / "model"))
    made = calibrate(source, PROFILE, tmp_path / "out", progress=silent)
    assert [c.unreached for c in made.coverage] == [(), (5,)]
    assert made.statistics.manifest["coverage"][1]["unreached"] == [5]
    assert "1 saw no token" in summary(made.coverage)
    for part in ("w1", "w2", "w3"):
        found = made.statistics.of_linear(f"model.layers.1.block_sparse_moe.experts.5.{part}")
        assert found.count == 0
        assert len(found.sample) == 0
        assert not found.sum_sq.any()
        assert not found.abs_max.any()
    write_imatrix(made.statistics, source, tmp_path / "imatrix.gguf")
    matrix = entries(tmp_path / "imatrix.gguf")
    counts, sums = (matrix[f"blk.1.ffn_down_exps.weight.{part}"] for part in ("counts", "in_sum2"))
    others = [expert for expert in range(8) if expert != 5]
    assert counts[5] == counts[others].sum(0)
    np.testing.assert_allclose(sums[5], sums[others].sum(0), rtol=1e-6)


def test_few_tokens_are_reported_too(tmp_path: Path) -> None:
    profile = Calibration(samples=1, length=8, sample_rows=16)
    made = calibrate(open_source(DEMO), profile, tmp_path, progress=silent)
    for layer in made.coverage:
        assert set(layer.few) | set(layer.unreached) == set(range(8))


def entries(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def test_the_importance_matrix_holds_the_same_sums(done: Calibrated, tmp_path: Path) -> None:
    source, path = open_source(DEMO), tmp_path / "imatrix.gguf"
    names = write_imatrix(done.statistics, source, path)
    fields = gguf.GGUFReader(path).fields
    assert fields["general.type"].contents() == "imatrix"
    assert "general.architecture" not in fields
    assert fields["imatrix.chunk_count"].contents() == 12
    assert fields["imatrix.chunk_size"].contents() == 64
    assert all(name.startswith("builtin/") for name in fields["imatrix.datasets"].contents())
    layer = ("attn_k", "attn_output", "attn_q", "attn_v")
    experts = ("ffn_down_exps", "ffn_gate_exps", "ffn_up_exps")
    assert set(names) == {f"blk.{n}.{p}.weight" for n in (0, 1) for p in (*layer, *experts, "ffn_gate_inp")}
    found = entries(path)
    for gguf_name, linear in (("attn_q", "self_attn.q_proj"), ("attn_output", "self_attn.o_proj")):
        want = done.statistics.of_linear(f"model.layers.1.{linear}")
        assert np.array_equal(found[f"blk.1.{gguf_name}.weight.in_sum2"], want.sum_sq.numpy()[None])
        assert found[f"blk.1.{gguf_name}.weight.counts"].tolist() == [[12 * 64]]
    for gguf_name, part in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        sums = found[f"blk.0.ffn_{gguf_name}_exps.weight.in_sum2"]
        counts = found[f"blk.0.ffn_{gguf_name}_exps.weight.counts"]
        for expert in range(8):
            want = done.statistics.of_linear(f"model.layers.0.block_sparse_moe.experts.{expert}.{part}")
            assert np.array_equal(sums[expert], want.sum_sq.numpy())
            assert counts[expert] == want.count
    before = path.read_bytes()
    write_imatrix(done.statistics, source, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe", "llama"])
def test_the_importance_matrix_of_other_families(family: str, tmp_path: Path) -> None:
    folder = make_family(family, tmp_path / family, vocab_size=2048)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    source = open_source(folder)
    made = calibrate(source, Calibration(samples=2, length=32, sample_rows=4), tmp_path / "out", progress=silent)
    names = write_imatrix(made.statistics, source, tmp_path / "imatrix.gguf")
    experts = {"deepseek_v3": 1, "qwen3_moe": 2, "llama": 0}[family]
    assert len([name for name in names if name.endswith("ffn_down_exps.weight")]) == experts
    assert all(found.dtype == np.float32 for found in entries(tmp_path / "imatrix.gguf").values())
