"""Experts that are in MXFP4 on disk stay so: the same blocks, in ggml's order."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file, save_file

from exporters.export.share import quantized_share
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source, describe_source, open_source
from tests import every_family, families
from tests.exporters.exported import silent
from tests.exporters.ggml.gguf_tools import (
    byte_level_tokenizer,
    export,
    random_statistics,
    recipe,
    save_tokenizer,
)
from verification.verify import verify


def in_mxfp4(folder: Path) -> Path:
    """gpt-oss as it is published: of its experts every byte, and scales of every size that BF16 has room for."""
    generator = torch.Generator().manual_seed(3)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = tensor
            continue
        experts, width, rows = tensor.shape
        shape = (experts, rows, width // 32)
        stored[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        stored[f"{name}_scales"] = torch.randint(112, 124, shape, dtype=torch.uint8, generator=generator)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_mxfp4(every_family.make_family("gpt_oss", tmp_path_factory.mktemp("mxfp4") / "model"))


@pytest.mark.parametrize("scheme", ["Q4_K_M", "BF16"])
def test_every_number_is_the_sources(scheme: str, folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    statistics = random_statistics(source, tmp_path / "statistics")
    plan, file = export(source, recipe(scheme), tmp_path, statistics)
    held = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    experts = {name: tensor for name, tensor in held.items() if name.endswith("_exps.weight")}
    assert len(experts) == 3 * source.architecture.layers
    assert {tensor.tensor_type.name for tensor in experts.values()} == {"MXFP4"}
    for part in ("gate", "up", "down"):
        tensor = experts[f"blk.1.ffn_{part}_exps.weight"]
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        for expert in range(source.architecture.experts):
            name = f"model.layers.1.mlp.experts.{expert}.{part}_proj.weight"
            rows = source.checkpoint.tensors[name].shape[0]
            assert torch.equal(values[expert], source.checkpoint.read(TensorSlice(name, 0, rows)).float())
    assert any(note.startswith("in MXFP4, number for number") for note in plan.notes)
    assert quantized_share(source, plan) == pytest.approx(1.0 if scheme == "Q4_K_M" else experts_share(source))
    for against in (None, source):
        found = verify(file, against, silent).findings
        assert [f for f in found if f.check not in ("keys.tokenizer", "divergence.not-measured")] == []


def experts_share(source: Source) -> float:
    """Of the weights of all Linears in decoder layers that may be quantized."""
    linears = [li for li in source.architecture.linears if li.layer is not None and li.quantizable]
    sizes = [li.out_features * li.in_features for li in linears]
    experts = [size for li, size in zip(linears, sizes, strict=True) if li.expert is not None]
    return sum(experts) / sum(sizes)


def test_the_config_alone_plans_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    described = describe_source(str(tmp_path / "config.json"))
    assert described.checkpoint.quantized == open_source(folder).checkpoint.quantized


def test_experts_of_single_matrices_stay_so(tmp_path: Path) -> None:
    """As DeepSeek-V4 has them: codes in signed bytes, and scales that are called `scale`."""
    generator, folder = torch.Generator().manual_seed(3), families.make_family("mixtral", tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    for name in [name for name in stored if ".experts." in name]:
        rows, columns = stored[name].shape
        codes = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8, generator=generator)
        scales = torch.randint(112, 124, (rows, columns // 32), dtype=torch.uint8, generator=generator)
        stored[name] = codes.view(torch.int8)
        stored[name.replace(".weight", ".scale")] = scales.view(torch.float8_e8m0fnu)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    plan, file = export(source, recipe("Q8_0"), tmp_path)
    experts = {t.name: t for t in GGUFReader(file).tensors if t.name.endswith("_exps.weight")}
    assert {tensor.tensor_type.name for tensor in experts.values()} == {"MXFP4"}
    tensor = experts["blk.1.ffn_down_exps.weight"]
    values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
    for expert in range(source.architecture.experts):
        name = f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"
        rows = source.checkpoint.tensors[name].shape[0]
        assert torch.equal(values[expert], source.checkpoint.read(TensorSlice(name, 0, rows)).float())
    assert verify(file, source, silent).findings == ()
    assert quantized_share(source, plan) == 1
