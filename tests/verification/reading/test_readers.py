"""Independent readers against the libraries that define each layout."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationConfig
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file

from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.bare_config import described
from sixfold.model.expert_stacks import with_single_experts
from sixfold.model.gguf.architectures import GGUF_ARCHITECTURES
from sixfold.model.gguf.tensor_names import gguf_tensor_names
from sixfold.model.meta_model import completed
from sixfold.model.source import Source, open_source
from tests import every_family
from tests.every_family import tiny_config
from tests.exporters.autoawq_library import packing_utils
from tests.exporters.exported import DEMO
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from tests.families import make_family
from tests.verification.artifacts import Artifacts, make_all
from verification.reading.ggml_types import BLOCK_TYPES, decoded
from verification.reading.gguf.multipliers import multipliers_of
from verification.reading.gguf.place import place_of
from verification.reading.gguf.weights import GgufWeights
from verification.reading.gguf_file import open_gguf
from verification.reading.packing import e2m1
from verification.reading.safetensors_formats import awq_gemm, scaled_blocks
from verification.reading.weights import CodedWeights, FolderWeights
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject
from verification.structure.gguf.subject import GgufSubject
from verification.weights.format_error import LIMITS, measure

pytestmark = pytest.mark.arithmetic

HYBRID = ["linear_attention", "full_attention"]
NAMES = ("model.layers.1.block_sparse_moe.experts.5.w2", "model.layers.0.self_attn.k_proj")


def parts(folder: Path, name: str) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def quantization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


@pytest.mark.parametrize(
    ("variant", "name"),
    [*itertools.product(["fp8", "nvfp4", "nvfp4-gb10", "awq-packed"], NAMES), ("mxfp4", NAMES[0])],
)
def test_compressed_tensors_decompresses_to_the_same(variant: str, name: str, artifacts: Artifacts) -> None:
    """The library computes in the scales' type; in BF16 its result is ours, rounded."""
    folder = artifacts[variant]
    (scheme,) = QuantizationConfig.model_validate(quantization(folder)).config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    expected = compressor.decompress(parts(folder, name), scheme)["weight"]
    ours = FolderWeights(open_subject(folder, None)).read(f"{name}.weight")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected.float(), rtol=2**-7, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_autoawq_unpacks_to_the_same(name: str, artifacts: Artifacts) -> None:
    stored = parts(artifacts["awq"], name)
    group = stored["qweight"].shape[0] // stored["scales"].shape[0]
    expected = packing_utils.dequantize_gemm(
        stored["qweight"], stored["qzeros"], stored["scales"].float(), 4, group
    ).t()
    assert torch.equal(awq_gemm(stored["qweight"], stored["qzeros"], stored["scales"]), expected)


def test_both_layouts_of_awq_hold_the_same_weights(artifacts: Artifacts) -> None:
    one, other = (FolderWeights(open_subject(artifacts[name], None)) for name in ("awq", "awq-packed"))
    for name in NAMES:
        torch.testing.assert_close(one.read(f"{name}.weight"), other.read(f"{name}.weight"), rtol=2**-7, atol=1e-7)


@pytest.mark.parametrize(("one", "other"), [("nvfp4-gb10", "nvfp4-modelopt"), ("nvfp4", "nvfp4a16-modelopt")])
def test_both_layouts_of_nvfp4_hold_the_same_weights(one: str, other: str, artifacts: Artifacts) -> None:
    first, second = (FolderWeights(open_subject(artifacts[name], None)) for name in (one, other))
    for name in NAMES:
        torch.testing.assert_close(first.read(f"{name}.weight"), second.read(f"{name}.weight"), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "variant", ["fp8", "fp8-block", "fp8-modelopt", "nvfp4", "nvfp4-gb10", "nvfp4-modelopt", "mxfp4"]
)
def test_a_quantized_folder_is_a_source_of_the_same_weights(variant: str, artifacts: Artifacts, demo: Source) -> None:
    """What exporters read of it is what verification does, rounded to BF16."""
    source, weights = open_source(artifacts[variant]), FolderWeights(open_subject(artifacts[variant], None))
    assert source.checkpoint.tensors.keys() == demo.checkpoint.tensors.keys()
    for name in (f"{module}.weight" for module in NAMES):
        tensor = source.checkpoint.tensors[name]
        found = source.checkpoint.read(TensorSlice(name, 0, tensor.shape[0]))
        torch.testing.assert_close(found.float(), weights.read(name), rtol=2**-8, atol=0)


def test_block_scales_by_their_definition() -> None:
    weight = torch.randn(5, 7).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 4)
    expected = torch.tensor([[float(weight[i, j]) * float(scale[i // 2, j // 2]) for j in range(7)] for i in range(5)])
    assert torch.equal(scaled_blocks(weight, scale, (2, 2)), expected)


@pytest.mark.parametrize("variant", ["gguf-q3_k_m", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q6_k", "gguf-q8_0"])
def test_gguf_is_parsed_and_dequantized_as_gguf_py_does(variant: str, artifacts: Artifacts) -> None:
    reader, file = GGUFReader(artifacts[variant]), open_gguf(artifacts[variant])
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            assert file.keys[name] == field.contents()
    weights = GgufWeights(file)
    stack = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down_exps.weight")
    expected = torch.from_numpy(dequantize(stack.data, GGMLQuantizationType(stack.tensor_type)))
    for expert in range(8):
        name = f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"
        assert torch.equal(weights.read(name), expected[expert])
    assert torch.equal(weights.read(name, 3, 9), expected[7][3:9])


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_blocks_of_any_bytes_are_decoded_as_gguf_py_does(kind: str) -> None:
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    data = np.random.default_rng(0).integers(0, 256, (7, 12 * size), dtype=np.uint8)
    with np.errstate(invalid="ignore"):
        expected = torch.from_numpy(dequantize(data, GGMLQuantizationType[kind]))
    torch.testing.assert_close(decoded(kind, torch.from_numpy(data)).values, expected, rtol=0, atol=0, equal_nan=True)


def test_fp4_is_unpacked_as_compressed_tensors_does() -> None:
    packed = torch.arange(256, dtype=torch.uint8).view(4, 64)
    assert torch.equal(e2m1(packed), unpack_fp4_from_uint8(packed, 4, 128, dtype=torch.float32))


@pytest.mark.parametrize(
    "variant", ["fp8", "fp8-block", "nvfp4", "mxfp4", "nvfp4-modelopt", "awq", "awq-packed", "gguf-q4_k_m"]
)
def test_a_stack_is_what_its_matrices_are(variant: str, artifacts: Artifacts, demo: Source) -> None:
    path = artifacts[variant]
    weights: CodedWeights = (
        FolderWeights(open_subject(path, demo)) if path.is_dir() else open_gguf_subject(path, demo).weights
    )
    names = [f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight" for expert in (3, 0, 5)]
    assert len({weights.stack_of(name) for name in names} - {None}) == 1
    stack = weights.stack(names, torch.device("cpu"))
    assert torch.equal(stack.values, torch.cat([weights.read(name) for name in names]))
    assert stack.codes is not None
    for number, name in enumerate(names):
        codes, alone = stack.codes.rows(256 * number, 256 * (number + 1)), weights.codes(name)
        assert alone is not None
        assert torch.equal(codes.numbers, alone.numbers)
        for one, other in ((codes.scale, alone.scale), (codes.base, alone.base)):
            assert torch.equal(one.expand(256, 256), other.expand(256, 256))


@pytest.mark.parametrize("family", ["minimax_m2", "qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama", "qwen3"])
def test_the_table_of_names_agrees_with_gguf_pys(family: str, tmp_path: Path) -> None:
    """Two statements of the same names, made independently."""
    source = open_source(make_family(family, tmp_path / family))
    arch = {"minimax_m2": "minimax-m2", "mixtral": "llama", "deepseek_v3": "deepseek2"}.get(
        family, family.replace("_", "")
    )
    for name, gguf_name in gguf_tensor_names(source.checkpoint.config, source.checkpoint.tensors).items():
        place = place_of(arch, gguf_name)
        assert place is not None, gguf_name
        number = name.split(".experts.")[1].split(".")[0] if place.stacked else ""
        assert place.name.format(number) == name


@pytest.mark.parametrize(
    "family",
    (
        "gemma3_text gpt_oss granitemoe llama4_text qwen3_5_moe_text exaone_moe afmoe lfm2 exaone4"
        " hunyuan_v1_dense olmo2 starcoder2 gemma2 ernie4_5_moe glm4 phi3 cohere2_moe laguna hy_v3 lfm2_moe"
        " phi hunyuan_v1_moe glm_moe_dsa"
    ).split(),
)
def test_the_tables_agree_on_families_known_by_their_config_alone(family: str, tmp_path: Path) -> None:
    config = json.loads(tiny_config(family).to_json_string())
    checkpoint = with_single_experts(described(config, family, tmp_path, name=family))
    for name, gguf_name in gguf_tensor_names(completed(config), checkpoint.tensors).items():
        place = place_of(GGUF_ARCHITECTURES[family], gguf_name)
        assert place is not None, gguf_name
        number = name.split(".experts.")[1].split(".")[0] if place.stacked else ""
        assert place.name.format(number) == name


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        # Norms plus one, minus exponentials, convolutions without their one channel, and two values for each key, which
        # llama.cpp takes key by key.
        ("qwen3_5_moe_text", {"linear_num_value_heads": 4}),
        # Queries, keys, values and gates of each head, which llama.cpp has in two matrices.
        (
            "qwen3_next",
            {
                "linear_num_value_heads": 4,
                "num_hidden_layers": 2,
                "layer_types": ["linear_attention", "full_attention"],
            },
        ),
        # Vectors of Mamba-2 that are matrices there.
        ("nemotron_h", {"layers_block_type": ["linear_attention", "moe", "full_attention"]}),
        # Matrices by rows and columns of a mixer without heads.
        ("mamba", {"num_hidden_layers": 1}),
        # Gate and up of every expert in one stack.
        ("granitemoe_swa", {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}),
        # A matrix of two halves, which llama.cpp has as two.
        ("granitemoeshared", {"num_hidden_layers": 1}),
        # A matrix of four parts, in two stacks of layers, which llama.cpp has in one.
        ("hrm_text", {"num_hidden_layers": 2}),
        # Rows that are columns.
        ("gpt2", {"num_hidden_layers": 1}),
        # Experts of which one's rows lie behind the other's, and of their last matrices the columns.
        ("dbrx", {"n_layers": 1}),
        # Queries, and the keys and values that they share.
        (
            "falcon",
            {
                "num_hidden_layers": 1,
                "new_decoder_architecture": True,
                "num_kv_heads": 2,
                "num_ln_in_parallel_attn": 1,
            },
        ),
    ],
)
def test_what_llama_cpp_holds_in_another_way_comes_back(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = every_family.make_family(family, tmp_path / "model", **changes)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    _, path = export(source, recipe("F32"), tmp_path)
    weights = GgufSubject(open_gguf(path), source).weights
    assert set(weights.names()) == set(source.checkpoint.tensors)
    changed = []
    for name, tensor in source.checkpoint.tensors.items():
        original, held = source.checkpoint.read(TensorSlice(name, 0, tensor.shape[0])), weights.read(name)
        assert weights.shape(name) == tensor.shape, name
        assert torch.equal(held, original.float()) or weights.slack(name), name
        torch.testing.assert_close(held, original.float(), rtol=0, atol=2**-20)
        changed.append(bool(weights.slack(name)))
    assert (sum(changed) > 0) == (not family.startswith(("granite", "gpt", "falcon", "dbrx", "hrm")))


@pytest.mark.parametrize("scheme", ["F32", "BF16"])
def test_multipliers_are_taken_out_of_weights(scheme: str, tmp_path: Path) -> None:
    factors = {"ssm_multipliers": [0.35, 0.25, 0.18, 0.5, 0.3], "mlp_multipliers": [0.9, 0.35], "key_multiplier": 0.4}
    factors |= {"attention_in_multiplier": 1.5, "ssm_in_multiplier": 1.25, "embedding_multiplier": 5.65}
    folder = every_family.make_family("falcon_h1", tmp_path / "model", num_hidden_layers=1, **factors)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    file = open_gguf(export(source, recipe(scheme), tmp_path)[1])
    known = GgufWeights(file, multipliers=multipliers_of("falcon-h1", source.checkpoint.config))
    unknown, multiplied = GgufWeights(file), 0
    for name, tensor in source.checkpoint.tensors.items():
        original = source.checkpoint.read(TensorSlice(name, 0, tensor.shape[0])).float()
        assert bool(((known.read(name) - original).abs() <= known.slack(name).around(original)).all()), name
        multiplied += not torch.allclose(unknown.read(name), original, rtol=0.05)
    assert multiplied == 7  # embeddings, queries, keys, values, gate, down and the mixer's input


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_permuted_and_split_matrices_come_back(family: str, tmp_path: Path) -> None:
    """Q8_0 is so exact that a row in another's place would show a hundred times over."""
    folder = make_family(family, tmp_path / family, vocab_size=2048)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    source = open_source(folder)
    (path,) = make_all(folder, tmp_path, ("gguf-q8_0",)).values()
    weights = GgufWeights(open_gguf(path))
    for name in source.checkpoint.tensors:
        original = load_file(source.checkpoint.folder / "model.safetensors")[name].float()
        error = measure(weights.read(name), original, LIMITS["Q8_0"])
        assert not error.exceeds(LIMITS["Q8_0"]), name
