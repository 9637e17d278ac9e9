"""What a pruned folder holds: the original's bytes, renumbered, wherever something of an expert lives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning import run as run_module
from pruning.anatomy import dissect
from pruning.choosing.plan_file import read_plan
from pruning.run import prune
from sixfold.artifact.workspace import sha256_of
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import open_source
from tests.moe_families import make_moe
from tests.pruning.made import DEMO, plan_of, pruned, silent

BLOCK = "model.layers.{}.block_sparse_moe"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], **fields: Any) -> Path:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config(folder), **fields}))
    return folder


def test_experts_are_renumbered_and_everything_else_is_the_same(tmp_path: Path) -> None:
    kept = {0: (0, 2, 3, 7), 1: (1, 4, 5, 6)}
    pruned(DEMO, tmp_path / "out", kept)
    before, after = weights(DEMO), weights(tmp_path / "out")
    expected = {}
    for layer, experts in kept.items():
        block = BLOCK.format(layer)
        expected[f"{block}.gate.weight"] = before[f"{block}.gate.weight"][list(experts)]
        expected[f"{block}.e_score_correction_bias"] = before[f"{block}.e_score_correction_bias"][list(experts)]
        for new, old in enumerate(experts):
            for part in ("w1", "w2", "w3"):
                expected[f"{block}.experts.{new}.{part}.weight"] = before[f"{block}.experts.{old}.{part}.weight"]
    expected |= {name: tensor for name, tensor in before.items() if "block_sparse_moe" not in name}
    assert after.keys() == expected.keys()
    for name, tensor in expected.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor), name
    assert after[f"{BLOCK.format(0)}.e_score_correction_bias"].dtype == torch.float32
    assert {**config(DEMO), "num_local_experts": 4} == config(tmp_path / "out")
    for carried in ("tokenizer.json", "LICENSE", "chat_template.jinja"):
        assert (tmp_path / "out" / carried).read_bytes() == (DEMO / carried).read_bytes()


def test_the_order_of_a_plan_is_the_order_of_the_experts(tmp_path: Path) -> None:
    pruned(DEMO, tmp_path / "out", {0: (7, 2, 0), 1: (1, 4, 5)})
    before, after = weights(DEMO), weights(tmp_path / "out")
    block = BLOCK.format(0)
    assert torch.equal(after[f"{block}.gate.weight"], before[f"{block}.gate.weight"][[7, 2, 0]])
    assert torch.equal(after[f"{block}.experts.0.w2.weight"], before[f"{block}.experts.7.w2.weight"])


def test_stacked_experts_and_their_biases(tmp_path: Path) -> None:
    """gpt-oss holds all experts of a layer as one array, with a bias for each, and a bias in the router."""
    folder = make_moe("gpt_oss", tmp_path / "model")
    kept = (0, 1, 5, 7)
    pruned(folder, tmp_path / "out", dict.fromkeys(range(4), kept))
    before, after = weights(folder), weights(tmp_path / "out")
    sliced = {name for name, tensor in before.items() if tensor.shape != after[name].shape}
    parts = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    assert sliced == {f"model.layers.{i}.mlp.experts.{part}" for i in range(4) for part in parts} | {
        f"model.layers.{i}.mlp.router.{part}" for i in range(4) for part in ("weight", "bias")
    }
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor[list(kept)] if name in sliced else tensor)


def test_shared_experts_stay_as_they_are(tmp_path: Path) -> None:
    folder = make_moe("deepseek_v3", tmp_path / "model")
    pruned(folder, tmp_path / "out")
    before, after = weights(folder), weights(tmp_path / "out")
    shared = [name for name in before if "shared_experts" in name]
    assert shared
    assert all(torch.equal(before[name], after[name]) for name in shared)
    assert (config(tmp_path / "out")["n_routed_experts"], config(tmp_path / "out")["n_group"]) == (4, 2)


def test_every_field_that_counts_experts_is_told(tmp_path: Path) -> None:
    """Some config.json repeat the number under an engine's name for it; what only looks like it stays."""
    folder = make_moe("mixtral", tmp_path / "model")
    rewrite(folder, weights(folder), num_experts=8, n_shared_experts=8, num_experts_per_tok=2, window=8)
    pruned(folder, tmp_path / "out")
    found = config(tmp_path / "out")
    assert (found["num_local_experts"], found["num_experts"]) == (5, 5)
    assert all(type(found[key]) is int for key in ("num_local_experts", "num_experts"))
    assert (found["n_shared_experts"], found["window"], found["num_experts_per_tok"]) == (8, 8, 2)


def test_a_count_left_at_its_default_is_written(tmp_path: Path) -> None:
    folder = make_moe("mixtral", tmp_path / "model")
    fields = config(folder)
    del fields["num_local_experts"]  # Mixtral's default is the 8 experts that the checkpoint has
    (folder / "config.json").write_text(json.dumps(fields))
    pruned(folder, tmp_path / "out")
    assert config(tmp_path / "out")["num_local_experts"] == 5


def test_a_field_that_engines_need_and_transformers_drops_is_carried(tmp_path: Path) -> None:
    pruned(DEMO, tmp_path / "out")
    found = config(tmp_path / "out")
    assert (found["scoring_func"], found["rotary_dim"]) == ("sigmoid", 32)


def test_fp8_sources_become_bf16_on_the_way(tmp_path: Path) -> None:
    folder = make_moe("qwen3_moe", tmp_path / "model")
    plain = weights(folder)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in plain.items():
        if ".experts." in name:
            stored[name] = tensor.to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = torch.full((1, 1), 0.5)
        else:
            stored[name] = tensor
    rewrite(folder, stored, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    pruned(folder, tmp_path / "out", dict.fromkeys(range(4), (0, 1, 2, 6)))
    after = weights(tmp_path / "out")
    name = "model.layers.2.mlp.experts.{}.up_proj.weight"
    expected = (stored[name.format(6)].float() * 0.5).bfloat16()
    assert after[name.format(3)].dtype == torch.bfloat16
    assert torch.equal(after[name.format(3)], expected)
    assert "quantization_config" not in config(tmp_path / "out")
    assert not any("scale" in found for found in after)


def mxfp4_model(folder: Path) -> Path:
    """gpt-oss as it is published: packed experts with E8M0 scales."""
    make_moe("gpt_oss", folder)
    stored: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(3)
    for name, tensor in weights(folder).items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, width, rows = tensor.shape
            groups = width // 32
            draw = {"dtype": torch.uint8, "generator": generator}
            stored[f"{name}_blocks"] = torch.randint(0, 256, (experts, rows, groups, 16), **draw)
            stored[f"{name}_scales"] = torch.randint(120, 126, (experts, rows, groups), **draw)
        else:
            stored[name] = tensor
    return rewrite(folder, stored, quantization_config={"quant_method": "mxfp4"})


def test_mxfp4_sources_become_bf16_on_the_way(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    folder = mxfp4_model(tmp_path / "model")
    stored = weights(folder)
    pruned(folder, tmp_path / "out", dict.fromkeys(range(4), (1, 3, 4)))
    name = "model.layers.1.mlp.experts.down_proj"
    expected = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"])[[1, 3, 4]]
    assert torch.equal(weights(tmp_path / "out")[name], expected)


def with_mtp(folder: Path) -> Path:
    """GLM-4-MoE with a layer behind its four, as it is published: experts, a router, and its own projections."""
    make_moe("glm4_moe", folder)
    tensors = weights(folder)
    extra = {n.replace("layers.3.", "layers.4."): t + 1 for n, t in tensors.items() if "layers.3." in n}
    extra["model.layers.4.eh_proj.weight"] = torch.ones(64, 128, dtype=torch.bfloat16)
    return rewrite(folder, {**tensors, **extra}, num_nextn_predict_layers=1)


def test_mtp_layers_are_dropped_and_the_config_says_so(tmp_path: Path) -> None:
    folder = with_mtp(tmp_path / "model")
    pruned(folder, tmp_path / "out")
    assert not any("layers.4." in name for name in weights(tmp_path / "out"))
    assert config(tmp_path / "out")["num_nextn_predict_layers"] == 0
    notes = json.loads((tmp_path / "out" / "manifest.json").read_text())["notes"]
    assert any(note.startswith("Multi-token prediction layers (") for note in notes)


def test_mtp_layers_can_be_pruned_as_the_last_layer(tmp_path: Path) -> None:
    folder = with_mtp(tmp_path / "model")
    kept = {layer: (0, 1, 4, 6) if layer < 3 else (1, 2, 5, 7) for layer in (1, 2, 3)}
    pruned(folder, tmp_path / "out", kept, mtp="as-last-layer")
    before, after = weights(folder), weights(tmp_path / "out")
    assert config(tmp_path / "out")["num_nextn_predict_layers"] == 1
    gate = "model.layers.4.mlp.gate.weight"
    assert torch.equal(after[gate], before[gate][[1, 2, 5, 7]])
    down = "model.layers.4.mlp.experts.{}.down_proj.weight"
    assert torch.equal(after[down.format(2)], before[down.format(5)])
    assert down.format(4) not in after
    assert torch.equal(after["model.layers.4.eh_proj.weight"], before["model.layers.4.eh_proj.weight"])


def test_mtp_layers_can_be_refused(tmp_path: Path) -> None:
    folder = with_mtp(tmp_path / "model")
    with pytest.raises(UsageError, match=r"has multi-token prediction layers .*; drop them, or prune them"):
        pruned(folder, tmp_path / "out", mtp="refuse")


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files = run_module.write_files

    def killed(*args: Any, **kwargs: Any) -> Any:
        write_files(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "write_files", killed)
    with pytest.raises(KeyboardInterrupt):
        pruned(DEMO, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(run_module, "write_files", write_files)
    reads: list[str] = []
    source = open_source(DEMO)
    read = source.checkpoint.contents.read
    monkeypatch.setattr(type(source.checkpoint), "read", lambda self, part: reads.append(part.name) or read(part))
    anatomy = dissect(source)
    pruned(DEMO, tmp_path / "out")
    assert not reads, "what was finished is not made again"
    pruned(DEMO, tmp_path / "fresh" / "out")
    assert reads
    for path in (tmp_path / "fresh" / "out").iterdir():
        if path.name != "run.json":
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    assert len(anatomy.layers) == 2


def test_a_rerun_skips_what_is_current_and_says_what_changed(tmp_path: Path) -> None:
    source, out = open_source(DEMO), tmp_path / "out"
    anatomy = dissect(source)
    plan = plan_of(source, anatomy, {0: (0, 1, 2), 1: (0, 1, 2)})
    other = plan_of(source, anatomy, {0: (0, 1, 3), 1: (0, 1, 2)})

    def again(which: Any) -> Any:
        return prune(source, anatomy, which, "drop", out, threads=1, progress=silent)

    assert (again(plan).skipped, again(plan).skipped) == (False, True)
    changed = again(other)
    assert not changed.skipped
    assert "plan changed" in changed.reasons


def test_new_words_write_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another license, or the same choice by another criterion, must not cost a copy of the model."""
    source, out = open_source(DEMO), tmp_path / "out"
    anatomy = dissect(source)
    plan = plan_of(source, anatomy, {0: (0, 1, 2), 1: (0, 1, 2)})
    prune(source, anatomy, plan, "drop", out, threads=1, progress=silent)
    monkeypatch.setattr(run_module, "write_files", None)
    provenance = replace(source.checkpoint.provenance, license="mit")
    restated = replace(source, checkpoint=replace(source.checkpoint, provenance=provenance))
    again = prune(restated, anatomy, replace(plan, criterion="frequency"), "drop", out, threads=1, progress=silent)
    assert again.skipped
    assert "license: mit" in (out / "provenance.yaml").read_text()
    assert read_plan(out / "plan.json").criterion == "frequency"
    for name, record in json.loads((out / "manifest.json").read_text())["files"].items():
        assert sha256_of(out / name) == record["sha256"], name


def test_the_source_and_other_checkpoints_are_never_overwritten(tmp_path: Path) -> None:
    folder = make_moe("mixtral", tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="is the checkpoint that is to be pruned; choose another --out"):
        pruned(folder, folder)
    other = make_moe("mixtral", tmp_path / "other")
    with pytest.raises(SixfoldError, match=r"holds model.safetensors, which pruning did not write"):
        pruned(folder, other)
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_pruned_checkpoint_is_pruned_further_by_its_own_plan(tmp_path: Path) -> None:
    """The folder is a checkpoint like any other; its plan is of the original, and refused here."""
    pruned(DEMO, tmp_path / "one", {0: (0, 1, 2, 3, 4), 1: (0, 1, 2, 3, 4)})
    pruned(tmp_path / "one", tmp_path / "two", {0: (0, 1, 2), 1: (2, 3, 4)})
    assert open_source(tmp_path / "two").architecture.experts == 3
    assert read_plan(tmp_path / "two" / "plan.json").model == "one"
