"""Checkpoints that hold all experts of a layer as one array, seen with one matrix an expert."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.meta_model import meta_model
from sixfold.model.module_map import map_tensors
from sixfold.model.source import Source, open_source
from sixfold.runner.layer_weights import HostBuffers, parameter_sources, read_parameters
from tests import every_family


def whole(source: Source, name: str) -> torch.Tensor:
    checkpoint = source.checkpoint
    return checkpoint.read(TensorSlice(name, 0, checkpoint.tensors[name].shape[0]))


def experts_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """What transformers' experts modules get of the checkpoint's tensors."""
    model = meta_model(checkpoint)
    placements, _ = map_tensors(model, checkpoint)
    sources = parameter_sources(model, placements, checkpoint, torch.float32, ())
    wanted = [source for name, source in sources.items() if ".experts." in name]
    return read_parameters(wanted, checkpoint.read_into, HostBuffers(pinned=False), model)


@pytest.mark.parametrize("family", ["gpt_oss", "granitemoe", "llama4_text", "step3p7"])
def test_the_matrices_put_together_are_what_transformers_makes_of_the_stacks(family: str, tmp_path: Path) -> None:
    """Interleaved, transposed and with biases; under other names; outside of transformers' experts interface; gate and
    up in stacks of their own."""
    source = open_source(every_family.make_family(family, tmp_path))
    single, stacked = experts_of(source.checkpoint), experts_of(source.checkpoint.as_stored)
    assert source.checkpoint.slices
    assert source.architecture.stacked_experts == ()
    assert single.keys() == stacked.keys()
    assert all(torch.equal(single[name], stacked[name]) for name in single)


def test_gpt_oss_by_its_definition(tmp_path: Path) -> None:
    """Gate and up are the even and the odd columns of [hidden, 2 x intermediate]."""
    source = open_source(every_family.make_family("gpt_oss", tmp_path))
    stored = load_file(tmp_path / "model.safetensors")
    stack, bias = (stored[f"model.layers.1.mlp.experts.gate_up_proj{end}"] for end in ("", "_bias"))
    down = stored["model.layers.1.mlp.experts.down_proj"]
    for expert in range(4):
        prefix = f"model.layers.1.mlp.experts.{expert}"
        assert torch.equal(whole(source, f"{prefix}.gate_proj.weight"), stack[expert][:, 0::2].T)
        assert torch.equal(whole(source, f"{prefix}.up_proj.weight"), stack[expert][:, 1::2].T)
        assert torch.equal(whole(source, f"{prefix}.down_proj.weight"), down[expert].T)
        assert torch.equal(whole(source, f"{prefix}.up_proj.bias"), bias[expert][1::2])
    part = source.checkpoint.read(TensorSlice(f"{prefix}.up_proj.weight", 3, 7))
    assert torch.equal(part, stack[3][:, 1::2].T[3:7])


def test_a_stack_that_is_published_transposed(tmp_path: Path) -> None:
    """Qwen3-VL's are [experts, hidden, 2 x intermediate]; transformers saves them the other way round, and reads both.

    Its down projections are square here, and would tell nothing."""
    folder = every_family.make_family("qwen3_vl_moe", tmp_path)
    before = open_source(folder)
    stored = load_file(folder / "model.safetensors")
    turned = {n: t.transpose(1, 2).contiguous() if n.endswith("gate_up_proj") else t for n, t in stored.items()}
    names = [name for name in before.checkpoint.slices if ".layers.1." in name and "down_proj" not in name]
    expected = {name: whole(before, name) for name in names}
    save_file(turned, folder / "model.safetensors", {"format": "pt"})
    after = open_source(folder)
    assert len(names) == 2 * every_family.EXPERTS
    assert all(torch.equal(whole(after, name), expected[name]) for name in names)


def test_each_matrix_is_a_linear_that_engines_fuse_with_its_neighbor(tmp_path: Path) -> None:
    source = open_source(every_family.make_family("granitemoe", tmp_path))
    prefix = "model.layers.1.block_sparse_moe.experts"
    (gate,) = (linear for linear in source.architecture.linears if linear.name == f"{prefix}.2.gate_proj")
    assert (gate.role, gate.part, gate.expert, gate.quantizable) == ("expert", "gate", 2, True)
    assert gate.fused == (f"{prefix}.2.gate_proj", f"{prefix}.2.up_proj")
    assert gate.norm == "model.layers.1.post_attention_layernorm.weight"
