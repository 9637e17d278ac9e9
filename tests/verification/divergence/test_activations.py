"""Rounded inputs against the libraries that define the rounding, or the definition written out."""

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from sixfold.model.source import Source
from sixfold.runner.layer_runner import LayerRunner
from verification.divergence.activations import RoundedInputs, fp8_dynamic, fp8_static, ggml_q8_0, ggml_q8_k, nvfp4

pytestmark = pytest.mark.arithmetic


@pytest.fixture
def inputs() -> torch.Tensor:
    """Tokens of very different sizes, as a model has them; one is zero."""
    x = torch.randn(3, 5, 512, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 2, 5).unsqueeze(-1)
    x[1, 2] = 0
    return x


def test_fp8_per_token_is_compressed_tensors(inputs: torch.Tensor) -> None:
    arguments = QuantizationArgs(num_bits=8, type="float", strategy="token", dynamic=True, symmetric=True)
    scale, zero = compute_dynamic_scales_and_zp(inputs, arguments, torch.nn.Linear(1, 1))
    expected = fake_quantize(inputs, scale, zero, arguments)
    torch.testing.assert_close(fp8_dynamic(None)(inputs), expected, rtol=1e-6, atol=1e-9)


def test_fp8_in_groups_scales_each_by_itself(inputs: torch.Tensor) -> None:
    alone = torch.cat([fp8_dynamic(None)(part) for part in inputs.split(128, -1)], -1)
    assert torch.equal(fp8_dynamic(128)(inputs), alone)


def test_fixed_fp8_saturates() -> None:
    assert fp8_static(0.5)(torch.tensor([1000.0, -1000.0, 0.5])).tolist() == [224.0, -224.0, 0.5]


def test_nvfp4_is_compressed_tensors(inputs: torch.Tensor) -> None:
    arguments = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True)
    global_scale = torch.tensor([448 * 6 / float(inputs.abs().max())])
    flat = inputs.flatten(0, 1)
    largest = flat.unflatten(-1, (-1, 16)).abs().amax(-1)
    scale = (largest / 6 * global_scale).clamp(max=448).to(torch.float8_e4m3fn).float()
    expected = fake_quantize(flat, scale, torch.zeros_like(scale), arguments, global_scale=global_scale)
    expected = torch.where((scale > 0).repeat_interleave(16, -1), expected, torch.zeros_like(expected))
    torch.testing.assert_close(nvfp4(float(global_scale))(flat), expected, rtol=1e-6, atol=0)


def test_q8_0_is_ggufs(inputs: torch.Tensor) -> None:
    kind = GGMLQuantizationType.Q8_0
    expected = dequantize(quantize(inputs.numpy(), kind), kind)
    assert np.array_equal(ggml_q8_0(inputs).numpy(), expected)


def test_q8_k_by_its_definition(inputs: torch.Tensor) -> None:
    """quantize_row_q8_K_ref in ggml-quants.c, loop by loop."""
    flat = inputs.flatten().numpy()
    expected = np.zeros_like(flat)
    for start in range(0, flat.size, 256):
        block = flat[start : start + 256]
        largest = block[np.abs(block).argmax()]
        if largest == 0:
            continue
        inverse = np.float32(-127) / largest
        for i, value in enumerate(block):
            expected[start + i] = min(127, int(np.rint(inverse * value))) * (np.float32(1) / inverse)
    torch.testing.assert_close(ggml_q8_k(inputs).flatten(), torch.from_numpy(expected), rtol=1e-6, atol=0)


def test_what_is_read_again_is_rounded_once_unless_it_was_changed(demo: Source) -> None:
    """As query, key and value projections read the same."""
    calls = []

    def rule(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.clone())
        return x.round()

    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    runner = LayerRunner(demo, dtype=torch.float32, device=torch.device("cpu"))
    rounding = RoundedInputs(runner, dict.fromkeys(names, rule))
    with torch.inference_mode(), runner.placed(0, runner.read_layer(0)):
        rounding.place(0)
        attention = runner.layers[0].self_attn
        x = torch.linspace(-3, 3, 2 * 256).view(2, 256)
        with rounding:
            query, key = attention.q_proj(x), attention.k_proj(x)
            x += 0.4
            value = attention.v_proj(x)
        assert torch.equal(query, (calls[0].round()) @ attention.q_proj.weight.t())
        assert torch.equal(key, (calls[0].round()) @ attention.k_proj.weight.t())
        assert torch.equal(value, (calls[1].round()) @ attention.v_proj.weight.t())
    assert len(calls) == 2
    assert rounding.errors[names[0]] == rounding.errors[names[1]] != rounding.errors[names[2]]
