"""Quantized sources read as BF16: against the literal formulas and against transformers' own dequantization."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from sixfold.checkpoint.checkpoint import Checkpoint, SourceTensor, open_checkpoint
from sixfold.checkpoint.storage.dequantize import fp8_blocks, mxfp4_experts
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from tests.checkpoints import save_model
from tests.exporters.library_oracle import library_quantize

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
FP8_WHOLE = {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}}
MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}


def every_byte(*shape: int) -> torch.Tensor:
    """E4M3 of all finite bit patterns, in random order."""
    generator = torch.Generator().manual_seed(7)
    bits = torch.randint(0, 254, shape, dtype=torch.uint8, generator=generator)
    return (bits + (bits >= 0x7F)).to(torch.uint8).view(torch.float8_e4m3fn)


def scales(*shape: int) -> torch.Tensor:
    """float32 over the whole range that weights' scales have, with full mantissas."""
    generator = torch.Generator().manual_seed(8)
    return torch.randn(shape, generator=generator) * 10.0 ** torch.randint(-9, 2, shape, generator=generator)


def literal(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """bfloat16(float32(weight) * float32(scale)) element by element; the last two dimensions are in blocks."""
    rows, columns = weight.shape[-2:]
    row, column = torch.arange(rows) // block[0], torch.arange(columns) // block[1]
    return (weight.float() * scale.float()[..., row[:, None], column[None, :]]).bfloat16()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype == torch.bfloat16 and torch.equal(a.view(torch.int16), b.view(torch.int16))


def opened(folder: Path, tensors: dict[str, torch.Tensor], config: Mapping[str, object]) -> Checkpoint:
    return open_checkpoint(str(save_model(folder, [tensors], config=config)))


def whole(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return checkpoint.read(TensorSlice(name, 0, checkpoint.tensors[name].shape[0]))


@pytest.mark.parametrize("shape", [(256, 384), (300, 200), (1, 1), (128, 129), (77, 512), (3000, 130)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_fp8_blocks(tmp_path: Path, shape: tuple[int, int], stored: torch.dtype) -> None:
    grid = (-(-shape[0] // 128), -(-shape[1] // 128))
    scale = scales(*grid).abs().to(stored) if stored == torch.float8_e8m0fnu else scales(*grid).to(stored)
    tensors = {"x.weight": every_byte(*shape), "x.weight_scale_inv": scale, "norm.weight": torch.ones(4).bfloat16()}
    checkpoint = opened(tmp_path / "m", tensors, FP8)
    assert checkpoint.tensors["x.weight"] == SourceTensor("x.weight", "BF16", shape, 2 * shape[0] * shape[1], "fp8")
    assert set(checkpoint.tensors) == {"x.weight", "norm.weight"}
    expected = literal(tensors["x.weight"], scale, (128, 128))
    assert same_bits(whole(checkpoint, "x.weight"), expected)
    for start in range(0, shape[0], 97):
        for stop in {start, start + 1, min(start + 130, shape[0]), shape[0]}:
            assert same_bits(checkpoint.read(TensorSlice("x.weight", start, stop)), expected[start:stop])


def test_fp8_equals_transformers(tmp_path: Path) -> None:
    tensors = {"x.weight": every_byte(256, 640), "x.weight_scale_inv": scales(2, 5)}
    ours = whole(opened(tmp_path / "m", tensors, FP8), "x.weight")
    theirs = Fp8Dequantize(None)._dequantize_one(*tensors.values(), output_dtype=torch.bfloat16)
    assert same_bits(ours, theirs)


def test_fp8_rounds_twice_as_the_formula_does() -> None:
    """1.125 times this scale lies a little above the middle of two bfloat16 numbers, and on it once it is float32."""
    scale = torch.tensor([[(1 + 2**-7 + 2**-8) / 1.125]])
    exact = 1.125 * scale.double().item()
    weight = torch.tensor([[1.125]]).to(torch.float8_e4m3fn)
    product = weight.float() * scale
    assert product.double().item() != exact
    assert same_bits(fp8_blocks(weight, scale, (128, 128)), product.bfloat16())


@pytest.mark.parametrize("scale", [0.0, -1.5, 2.0**-149, 2.0**-126, 2.0**99, 2.0**101, 2.0**127, torch.inf, torch.nan])
def test_fp8_extremes(scale: float) -> None:
    """Every byte, the two NaNs too, at scales where the fast route must give way."""
    finite = every_byte(16, 64)
    everything = torch.arange(256, dtype=torch.uint8).reshape(2, 128).view(torch.float8_e4m3fn)
    for weight in (finite, everything, everything[:1], everything[1:]):
        expected = (weight.float() * torch.tensor(scale)).bfloat16()
        result = fp8_blocks(weight, torch.tensor([[scale]]), (128, 128))
        assert torch.equal(result.isnan(), expected.isnan())
        assert torch.equal(result.nan_to_num(0.5), expected.nan_to_num(0.5))


@pytest.mark.parametrize(
    ("shape", "scale_shape", "block"),
    [
        ((40, 24), (), (40, 24)),
        ((40, 24), (1,), (40, 24)),
        ((40, 24), (40,), (1, 24)),
        ((40, 24), (40, 1), (1, 24)),
        ((3, 40, 24), (3,), (40, 24)),
        ((3, 40, 24), (3, 1, 1), (40, 24)),
        ((3, 40, 24), (3, 40, 1), (1, 24)),
        ((3, 40, 24), (3, 40), (1, 24)),
    ],
)
@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
def test_fp8_by_tensor_and_by_row(
    tmp_path: Path, shape: tuple[int, ...], scale_shape: tuple[int, ...], block: tuple[int, int], suffix: str
) -> None:
    scale = scales(*scale_shape)
    tensors = {"x.weight": every_byte(*shape), f"x.weight{suffix}": scale, "x.input_scale": torch.tensor(2.0)}
    checkpoint = opened(tmp_path / "m", tensors, FP8_WHOLE)
    assert set(checkpoint.tensors) == {"x.weight"}
    grid = (*shape[:-2], shape[-2] // block[0], shape[-1] // block[1])
    expected = literal(tensors["x.weight"], scale.reshape(grid), block)
    assert same_bits(whole(checkpoint, "x.weight"), expected)
    assert same_bits(checkpoint.read(TensorSlice("x.weight", 1, 3)), expected[1:3])
    assert same_bits(checkpoint.read(TensorSlice("x.weight", 2, 2)), expected[2:2])


def test_stacked_fp8_experts(tmp_path: Path) -> None:
    tensors = {"experts.down_proj": every_byte(5, 200, 300), "experts.down_proj_scale_inv": scales(5, 2, 3)}
    checkpoint = opened(tmp_path / "m", tensors, FP8)
    expected = literal(tensors["experts.down_proj"], tensors["experts.down_proj_scale_inv"], (128, 128))
    assert same_bits(checkpoint.read(TensorSlice("experts.down_proj", 1, 4)), expected[1:4])


def test_a_method_without_quantized_tensors_is_plain(tmp_path: Path) -> None:
    weight = torch.randn(8, 8).bfloat16()
    assert same_bits(whole(opened(tmp_path / "m", {"x.weight": weight}, FP8), "x.weight"), weight)


def test_mxfp4_equals_transformers_for_every_byte_and_exponent() -> None:
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (4, 96, 8, 16), dtype=torch.uint8, generator=generator)
    exponents = torch.arange(4 * 96 * 8).reshape(4, 96, 8).to(torch.uint8)
    ours, theirs = mxfp4_experts(blocks, exponents), convert_moe_packed_tensors(blocks.clone(), exponents.clone())
    assert same_bits(ours, theirs)


def test_fp8_and_four_bit_floats_under_deepseek_v4s_names(tmp_path: Path) -> None:
    """Scales are called `scale`, and experts' codes are signed bytes, two floats in each."""
    generator = torch.Generator().manual_seed(5)
    exponents, small = (torch.randint(97, 157, size, generator=generator) for size in ((64, 4), (2, 3)))
    codes = torch.randint(0, 256, (64, 64), dtype=torch.uint8, generator=generator)
    stored = {
        "w1.weight": codes.view(torch.int8),
        "w1.scale": exponents.to(torch.uint8).view(torch.float8_e8m0fnu),
        "wq_a.weight": every_byte(256, 384),
        "wq_a.scale": small.to(torch.uint8).view(torch.float8_e8m0fnu),
    }
    checkpoint = opened(tmp_path, stored, {"model_type": "deepseek_v4", **FP8})
    assert set(checkpoint.tensors) == {"w1.weight", "wq_a.weight"}
    values = unpack_fp4_from_uint8(codes, 64, 128, dtype=torch.float32).unflatten(1, (4, 32))
    powers = (exponents - 127.0).exp2().unsqueeze(-1)
    assert same_bits(whole(checkpoint, "w1.weight"), (values * powers).flatten(1).bfloat16())
    assert same_bits(
        whole(checkpoint, "wq_a.weight"), literal(stored["wq_a.weight"], (small - 127.0).exp2(), (128, 128))
    )
    wrong = {**stored, "w1.scale": stored["w1.scale"][:, :2].contiguous()}
    with pytest.raises(SixfoldError, match=r"w1\.scale .* does not fit four-bit floats"):
        opened(tmp_path / "wrong", wrong, {"model_type": "deepseek_v4", **FP8})


def test_mxfp4_has_the_names_and_shapes_of_a_bf16_gpt_oss(tmp_path: Path) -> None:
    config = GptOssConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_local_experts=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, vocab_size=40,
    )  # fmt: skip
    GptOssForCausalLM(config).bfloat16().save_pretrained(tmp_path / "bf16")
    plain = open_checkpoint(str(tmp_path / "bf16"))
    stored = {}
    for name, tensor in plain.tensors.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = tensor.shape
            stored[f"{name}_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            stored[f"{name}_scales"] = torch.randint(110, 130, (experts, outputs, inputs // 32), dtype=torch.uint8)
        else:
            stored[name] = whole(plain, name)
    packed = opened(tmp_path / "mxfp4", stored, {**config.to_dict(), **MXFP4})
    assert {n: (t.dtype, t.shape) for n, t in packed.tensors.items()} == {
        n: (t.dtype, t.shape) for n, t in plain.tensors.items()
    }
    name = "model.layers.0.mlp.experts.gate_up_proj"
    expected = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"])
    assert packed.tensors[name].stored_as == "mxfp4"
    assert same_bits(packed.read(TensorSlice(name, 1, 3)), expected[1:3])


E4M3, E8 = every_byte(256, 256), torch.zeros(3, 64, 2, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "config", "expected"),
    [
        (
            {"x.weight": E4M3},
            FP8,
            (
                "x.weight in model.safetensors is FP8, but its scale x.weight_scale_inv is missing;"
                " download the checkpoint again, or start from the BF16 checkpoint that it was made from."
            ),
        ),
        (
            {"x.weight": E4M3, "x.weight_scale_inv": torch.ones(2, 3)},
            FP8,
            (
                "x.weight_scale_inv in model.safetensors has shape [2, 3], but [256, 256] in blocks of [128, 128] needs"
                " [2, 2]; correct weight_block_size in config.json, or download the checkpoint again."
            ),
        ),
        (
            {"x.weight": E4M3, "x.weight_scale_inv": torch.ones(2, 2)},
            FP8_WHOLE,
            (
                "x.weight_scale_inv in model.safetensors has shape [2, 2], but [256, 256] in blocks of [1, 256] needs"
                " [256, 1]; correct weight_block_size in config.json, or download the checkpoint again."
            ),
        ),
        (
            {"x.weight": E4M3, "x.weight_scale_inv": torch.ones(2, 2).half()},
            FP8,
            (
                "x.weight_scale_inv in model.safetensors is F16; FP8 scales are F32, BF16 or UE8M0;"
                " start from the BF16 checkpoint that it was made from."
            ),
        ),
        (
            {"x.weight": E4M3[0].clone(), "x.weight_scale_inv": torch.ones(2)},
            FP8,
            (
                "x.weight in model.safetensors is FP8 of shape [256], not a matrix;"
                " start from the BF16 checkpoint that it was made from."
            ),
        ),
        (
            {"x.weight": E4M3, "x.weight_scale_inv": torch.ones(2, 2)},
            {},
            (
                "x.weight in {m} is FP8, but config.json has no quantization_config that says how it is scaled;"
                ' restore it, for example "quantization_config":'
                ' {"quant_method": "fp8", "weight_block_size": [128, 128]}.'
            ),
        ),
        (
            {"x.weight": torch.ones(2, 2), "x.weight_scale_inv": torch.ones(1, 1)},
            FP8,
            "x.weight_scale_inv in {m} is a scale without its quantized weight; download the checkpoint again.",
        ),
        (
            {"x.weight": E4M3, "x.weight_scale_inv": torch.ones(2, 2)},
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}},
            "quantization_config of {m} has a weight_block_size of [128]; it is two sizes, such as [128, 128].",
        ),
        (
            {"e_blocks": E8},
            MXFP4,
            "e_blocks in model.safetensors is MXFP4, but its e_scales is missing; download the checkpoint again.",
        ),
        (
            {"e_blocks": E8, "e_scales": torch.zeros(3, 64, 4, dtype=torch.uint8)},
            MXFP4,
            (
                "e_scales in model.safetensors is U8 [3, 64, 4], which does not fit MXFP4 blocks of shape"
                " [3, 64, 2, 16]; download the checkpoint again."
            ),
        ),
        (
            {"e_scales": E8},
            MXFP4,
            "e_scales in {m} is a scale without its quantized weight; download the checkpoint again.",
        ),
    ],
)
def test_refusals(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: Mapping[str, object], expected: str
) -> None:
    with pytest.raises(SixfoldError) as error:
        opened(tmp_path / "m", tensors, config)
    assert str(error.value) == expected.replace("{m}", str(tmp_path / "m"))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [1, 5])
def test_packed_integers_equal_compressed_tensors(tmp_path: Path, bits: int, groups: int) -> None:
    weight = torch.randn(70, 160, generator=torch.Generator().manual_seed(3)).bfloat16()
    strategy = {"strategy": "channel"} if groups == 1 else {"strategy": "group", "group_size": 160 // groups}
    stated = {"num_bits": bits, "type": "int", "symmetric": True, **strategy}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**stated))
    scale = (weight.float().view(70, groups, -1).abs().amax(-1) / 2 ** (bits - 1)).bfloat16()
    packed = PackedQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    tensors = {f"e.0.{name}": tensor for name, tensor in packed.items()}
    assert set(tensors) == {"e.0.weight_packed", "e.0.weight_scale", "e.0.weight_shape"}
    checkpoint = opened(tmp_path / "m", {**tensors, "norm.weight": torch.ones(4).bfloat16()}, int_config(stated))
    assert list(checkpoint.tensors) == ["e.0.weight", "norm.weight"]
    assert checkpoint.tensors["e.0.weight"].stored_as == f"int{bits}"
    theirs = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
    assert same_bits(whole(checkpoint, "e.0.weight"), theirs)
    assert same_bits(checkpoint.read(TensorSlice("e.0.weight", 7, 23)), theirs[7:23])


def int_config(weights: Mapping[str, object]) -> dict[str, object]:
    """As Moonshot states it: of the decoder."""
    group = {"targets": ["Linear"], "weights": dict(weights)}
    stated = {"config_groups": {"group_0": group}, "format": "pack-quantized", "quant_method": "compressed-tensors"}
    return {"text_config": {"quantization_config": stated}}


SYMMETRIC = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}


@pytest.mark.parametrize(
    ("weights", "tensors", "reason"),
    [
        ({"symmetric": False}, {}, "is already quantized"),
        ({"actorder": "group"}, {}, "is already quantized"),
        ({}, {"e.weight_scale": None}, "e.weight_scale is missing"),
        ({}, {"e.weight_scale": (4, 3)}, "does not fit INT4 values"),
        ({}, {"e.weight_scale": (3, 2)}, "does not fit INT4 values"),
        ({}, {"e.weight_packed": None}, "is a scale without its quantized weight"),
    ],
)
def test_packed_integers_that_cannot_be_read(
    tmp_path: Path, weights: dict[str, object], tensors: dict[str, tuple[int, int] | None], reason: str
) -> None:
    held = {"e.weight_packed": torch.zeros(4, 8, dtype=torch.int32), "e.weight_scale": torch.ones(4, 2).bfloat16()}
    for name, shape in tensors.items():
        del held[name]
        if shape is not None:
            held[name] = torch.ones(shape).bfloat16()
    with pytest.raises(SixfoldError, match=reason):
        opened(tmp_path / "m", held, int_config({**SYMMETRIC, **weights}))


NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FLOATS = {
    "NVFP4A16": ("nvfp4-pack-quantized", NVFP4),
    "MXFP4A16": ("mxfp4-pack-quantized", {**NVFP4, "strategy": "group", "group_size": 32}),
    "FP8_DYNAMIC": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "FP8_BLOCK": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    ),
}


def float_config(scheme: str) -> dict[str, object]:
    layout, weights = FLOATS[scheme]
    group = {"targets": ["Linear"], "weights": weights}
    stated = {"config_groups": {"group_0": group}, "format": layout, "quant_method": "compressed-tensors"}
    return {"quantization_config": stated}


@pytest.mark.parametrize("scheme", FLOATS)
def test_floats_of_compressed_tensors_are_what_the_library_scales(tmp_path: Path, scheme: str) -> None:
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(3)).bfloat16()
    stored = {f"e.0.{part}": tensor for part, tensor in library_quantize([weight], scheme)[0].items()}
    of_inputs = "input_scale" if scheme.startswith("FP8") else "input_global_scale"
    aside = {f"e.0.{of_inputs}": torch.ones(1), "self_attn.k_scale": torch.ones(1), "norm.weight": weight[0].clone()}
    checkpoint = opened(tmp_path / "m", {**stored, **aside}, float_config(scheme))
    assert set(checkpoint.tensors) == {"e.0.weight", "norm.weight"}
    assert checkpoint.tensors["e.0.weight"].stored_as == scheme.lower().partition("_")[0].removesuffix("a16")
    expected = scaled(stored)
    assert same_bits(whole(checkpoint, "e.0.weight"), expected)
    assert same_bits(checkpoint.read(TensorSlice("e.0.weight", 7, 200)), expected[7:200])
    assert float((expected.float() - weight.float()).norm() / weight.float().norm()) < 0.2


def scaled(stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """bfloat16(number * (scale / global scale)), all in float32."""
    scale, packed = stored["e.0.weight_scale"], stored.get("e.0.weight_packed")
    if packed is None:
        weight = stored["e.0.weight"].float()
        block = (weight.shape[0] // scale.shape[0], weight.shape[1] // scale.shape[1])
    else:
        weight = unpack_fp4_from_uint8(packed, 256, 384, dtype=torch.float32)
        block = (1, 384 // scale.shape[1])
    factor = torch.exp2(scale.float() - 127) if scale.dtype == torch.uint8 else scale.float()
    factor = factor / stored.get("e.0.weight_global_scale", torch.ones(1))
    return (weight * factor.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)).bfloat16()


@pytest.mark.parametrize("declared", [{"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, {}])
def test_nvfp4_of_modelopt(tmp_path: Path, declared: dict[str, object]) -> None:
    """The same numbers under its names, by its config.json or by its hf_quant_config.json alone."""
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(3)).bfloat16()
    stored = {f"e.0.{part}": tensor for part, tensor in library_quantize([weight], "NVFP4A16")[0].items()}
    second = stored["e.0.weight_global_scale"].reciprocal().reshape(())
    tensors = {"e.0.weight": stored["e.0.weight_packed"], "e.0.weight_scale": stored["e.0.weight_scale"]}
    tensors |= {"e.0.weight_scale_2": second, "e.0.input_scale": torch.tensor(1.0), "k_proj.k_scale": torch.tensor(1.0)}
    folder = save_model(tmp_path / "m", [tensors], config=declared)
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    checkpoint = open_checkpoint(str(folder))
    assert list(checkpoint.tensors) == ["e.0.weight"]
    off = whole(checkpoint, "e.0.weight").float() - scaled(stored).float()
    assert float(off.abs().max()) <= 2**-8 * float(weight.abs().max())  # the reciprocal's last bit


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"weight_scale": None}, "e.0.weight_scale is missing"),
        ({"weight_global_scale": None}, "or the scale of the whole is missing"),
        ({"weight_scale": torch.ones(256, 3).to(torch.float8_e4m3fn)}, "does not fit four-bit floats"),
        ({"weight_packed": None}, "is a scale without its quantized weight"),
        ({"pre_quant_scale": torch.ones(384)}, "scales a Linear's inputs, which no BF16 model does"),
    ],
)
def test_four_bit_floats_that_cannot_be_read(
    tmp_path: Path, parts: dict[str, torch.Tensor | None], reason: str
) -> None:
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(3)).bfloat16()
    stored = {**library_quantize([weight], "NVFP4A16")[0], **parts}
    held = {f"e.0.{part}": tensor for part, tensor in stored.items() if tensor is not None}
    with pytest.raises(SixfoldError, match=reason):
        opened(tmp_path / "m", held, float_config("NVFP4A16"))
