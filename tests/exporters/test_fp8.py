import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from calibration.calibrate import sites_of
from exporters.numerics.fp8 import quantize_tensors
from sixfold.artifact.safetensors_layout import whole
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Recipe
from tests.exporters.exported import DEMO, calibration_of, largest_of, planned, recipe, run
from tests.exporters.library_oracle import model_free, same_bits
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

DYNAMIC, BLOCKS = recipe("fp8", "FP8_DYNAMIC"), recipe("fp8", "FP8_BLOCK")
STATIC = recipe("fp8", "FP8", options={"layout": "modelopt"})
IGNORED = ["lm_head", "re:.*embed_tokens", r"re:.*\.gate$"]


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.mark.parametrize("made", [DYNAMIC, BLOCKS], ids=lambda r: r.scheme)
def test_the_trained_model_equals_model_free_ptq_tensor_for_tensor(demo: Source, made: Recipe, tmp_path: Path) -> None:
    theirs = model_free(DEMO, tmp_path / "theirs", made.scheme, IGNORED)
    artifact = run(demo, made, tmp_path / "out")
    mine = artifact.tensors
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not same_bits(mine[name], theirs[name])] == []
    plan = planned(demo, made)
    assert {t.name: t.nbytes for t in plan.tensors} == {name: tensor.nbytes for name, tensor in mine.items()}
    assert plan.files[0].nbytes == (artifact.folder / plan.files[0].name).stat().st_size


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "mixtral", "llama"])
def test_other_families_equal_model_free_ptq(family: str, tmp_path: Path) -> None:
    folder = make_family(family, tmp_path / family)
    theirs = model_free(folder, tmp_path / "theirs", "FP8_DYNAMIC", IGNORED)
    mine = run(open_source(folder), DYNAMIC, tmp_path / "out").tensors
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not same_bits(mine[name], theirs[name])] == []


def test_block_sizes_that_engines_cannot_fuse_stay_in_bf16(tmp_path: Path) -> None:
    """vLLM allows a smaller last block of rows only where nothing follows in the same matrix."""
    source = open_source(make_family("deepseek_v3", tmp_path / "odd", moe_intermediate_size=192))
    plan = planned(source, BLOCKS)
    encodings = {t.name: t.encoding for t in plan.tensors}
    prefix = "model.layers.1"
    assert encodings[f"{prefix}.self_attn.kv_a_proj_with_mqa.weight"] == "fp8"  # 160 rows, the last of its group
    assert encodings[f"{prefix}.mlp.experts.0.gate_proj.weight"] == "copy"  # 192 rows, its up projection follows
    assert encodings[f"{prefix}.mlp.experts.0.down_proj.weight"] == "copy"  # 192 columns
    shapes = {t.name: t.shape for t in plan.tensors}
    assert shapes[f"{prefix}.self_attn.kv_a_proj_with_mqa.weight_scale"] == (2, 2)
    assert any("128 does not divide its output channels" in note for note in plan.notes)
    with pytest.raises(SixfoldError, match=r"128 does not divide .*indivisible: keep"):
        planned(source, BLOCKS.model_copy(update={"indivisible": "fail"}))


def test_weights_that_are_not_finite_stop_the_export_by_name(tmp_path: Path) -> None:
    folder = make_family("llama", tmp_path / "bad")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for made in (DYNAMIC, BLOCKS, recipe("nvfp4", "NVFP4A16")):
        with pytest.raises(SixfoldError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
            run(open_source(folder), made, tmp_path / made.scheme)


def test_modelopt_layout_for_experts_has_one_scale_a_weight_and_fixed_input_scales(
    demo: Source, tmp_path: Path
) -> None:
    largest = largest_of(demo, 3.0)
    largest["model.layers.0.block_sparse_moe.experts.*.w2"][5] = 0
    statistics = calibration_of(tmp_path / "statistics", sites_of(demo.architecture.linears), largest)
    artifact = run(demo, STATIC, tmp_path / "out", statistics)
    tensors = artifact.tensors
    for linear in demo.architecture.linears:
        weight = demo.checkpoint.read(whole(demo.checkpoint.tensors[linear.weight]))
        if not linear.quantizable:
            assert same_bits(tensors[linear.weight], weight)
            continue
        scale, inputs = tensors[f"{linear.name}.weight_scale"], tensors[f"{linear.name}.input_scale"]
        assert scale.shape == inputs.shape == ()
        assert scale.dtype == inputs.dtype == torch.float32
        assert inputs.item() == pytest.approx(3 / 448)
        group = [tensors[f"{name}.weight_scale"].item() for name in linear.fused]
        assert len(set(group)) <= 1
        back = tensors[linear.weight].float() * scale
        step = torch.maximum(weight.float().abs() / 16, scale * 2**-10)
        assert ((back - weight.float()).abs() <= step * 1.0001).all()
    assert any("experts 5;" in note for note in artifact.notes)
    config = artifact.config["quantization_config"]
    assert (config["quant_method"], config["quant_algo"]) == ("modelopt", "FP8")
    assert json.loads((artifact.folder / "hf_quant_config.json").read_text())["quantization"]["quant_algo"] == "FP8"


def test_modelopt_layout_for_dense_models_keeps_one_scale_a_channel(tmp_path: Path) -> None:
    source = open_source(make_family("llama", tmp_path / "dense"))
    plain = run(source, DYNAMIC, tmp_path / "plain").tensors
    artifact = run(source, recipe("fp8", "FP8_DYNAMIC", options={"layout": "modelopt"}), tmp_path / "modelopt")
    for name, tensor in artifact.tensors.items():
        if name.endswith(".weight_scale"):
            assert same_bits(tensor, plain[name].float().flatten())
        else:
            assert same_bits(tensor, plain[name])
    assert artifact.config["quantization_config"]["quant_algo"] == "FP8_PER_CHANNEL_PER_TOKEN"


def test_what_no_engine_reads_is_refused(demo: Source) -> None:
    with pytest.raises(UsageError, match=r"no engine reads experts with one scale per channel.*scheme: FP8"):
        planned(demo, recipe("fp8", "FP8_DYNAMIC", options={"layout": "modelopt"}))
    with pytest.raises(UsageError, match="does not make FP8 in the layout of compressed-tensors"):
        planned(demo, recipe("fp8", "FP8"))


def test_weights_per_tensor_round_once_and_survive_zeros_and_extremes() -> None:
    weights = [torch.tensor([[448.0, 17.0, -0.0, 1e-9]]).bfloat16(), torch.tensor([[-3.1, 225.0]]).bfloat16()]
    (first, second), scale = quantize_tensors(weights, ["a", "b"])
    assert scale.item() == 1
    assert torch.equal(first.float(), torch.tensor([[448.0, 16.0, 0.0, 0.0]]))  # 17 is halfway: to even
    assert torch.equal(second.float(), weights[1].to(torch.float8_e4m3fn).float())
    (zeros,), scale = quantize_tensors([torch.zeros(2, 16)], ["z"])
    assert scale.item() == 1
    assert (zeros.float() == 0).all()
    with pytest.raises(SixfoldError, match="b holds NaN"):
        quantize_tensors([torch.ones(2, 2), torch.full((2, 2), float("nan"))], ["a", "b"])
