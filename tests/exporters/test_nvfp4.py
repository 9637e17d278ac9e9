import json
from pathlib import Path
from statistics import median

import pytest
import torch

from calibration.calibrate import calibrate, sites_of
from exporters.numerics.nvfp4 import input_global_scale
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration
from sixfold.statistics.statistics import Statistics
from tests.exporters.exported import (
    DEMO,
    Artifact,
    calibration_of,
    largest_of,
    planned,
    recipe,
    run,
    silent,
)
from tests.exporters.library_oracle import model_free, one_shot, same_bits
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

W4A16, W4A4 = recipe("nvfp4", "NVFP4A16"), recipe("nvfp4", "NVFP4")
MODELOPT = {"layout": "modelopt"}


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def ours(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(demo, W4A16, tmp_path_factory.mktemp("ours"))


def test_the_trained_model_equals_model_free_ptq_tensor_for_tensor(ours: Artifact, tmp_path: Path) -> None:
    theirs = model_free(DEMO, tmp_path / "theirs", "NVFP4A16", ["lm_head", "re:.*embed_tokens", r"re:.*\.gate$"])
    mine = ours.tensors
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not same_bits(mine[name], theirs[name])] == []


def test_plan_and_file_agree_and_names_are_the_checkpoints_own(ours: Artifact, demo: Source) -> None:
    plan = planned(demo, W4A16)
    tensors = ours.tensors
    assert {t.name for t in plan.tensors} == set(tensors)
    for tensor in plan.tensors:
        assert tensor.nbytes == tensors[tensor.name].nbytes
        assert tensor.shape == tuple(tensors[tensor.name].shape)
    for file in plan.files:
        assert (ours.folder / file.name).stat().st_size == file.nbytes
    assert "model.layers.0.block_sparse_moe.experts.7.w3.weight_packed" in tensors
    assert tensors["model.layers.0.block_sparse_moe.e_score_correction_bias"].dtype == torch.float32


def test_fused_weights_share_a_global_scale_where_model_free_ptq_lets_them_differ(tmp_path: Path) -> None:
    folder = make_family("qwen3_moe", tmp_path / "qwen")
    theirs = model_free(folder, tmp_path / "theirs", "NVFP4A16", ["lm_head", "re:.*embed_tokens", r"re:.*\.gate$"])
    source = open_source(folder)
    mine = run(source, W4A16, tmp_path / "out").tensors
    groups = {linear.fused for linear in source.architecture.linears if linear.fused and linear.quantizable}
    assert len(groups) == 2 * (1 + 8)

    def shared(tensors: dict[str, torch.Tensor]) -> list[bool]:
        return [len({tensors[f"{name}.weight_global_scale"].item() for name in group}) == 1 for group in groups]

    assert all(shared(mine))
    assert not all(shared(theirs))
    for group in groups:  # the shared scale is the smallest: the one of the largest weight
        assert mine[f"{group[0]}.weight_global_scale"] == min(theirs[f"{n}.weight_global_scale"] for n in group)


def test_mla_projections_share_a_global_scale(tmp_path: Path) -> None:
    tensors = run(open_source(make_family("deepseek_v3", tmp_path / "ds")), W4A16, tmp_path / "out").tensors
    prefix = "model.layers.1.self_attn."
    first, second = (tensors[f"{prefix}{n}.weight_global_scale"] for n in ("q_a_proj", "kv_a_proj_with_mqa"))
    assert first == second


@pytest.fixture(scope="module")
def statistics(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    profile = Calibration(samples=8, length=128, sample_rows=4)
    return calibrate(demo, profile, tmp_path_factory.mktemp("calibration"), progress=silent).statistics


def test_w4a4_equals_oneshot_on_the_same_tokens(
    demo: Source, ours: Artifact, statistics: Statistics, tmp_path: Path
) -> None:
    mine = run(demo, W4A4, tmp_path / "out", statistics)
    theirs = one_shot(DEMO, statistics.manifest["profile"], tmp_path / "theirs")
    tensors = mine.tensors
    ratios = []
    for linear in demo.architecture.linears:
        if not linear.quantizable:
            continue
        for part in ("weight_packed", "weight_scale", "weight_global_scale"):
            assert same_bits(tensors[f"{linear.name}.{part}"], theirs.tensors[f"{linear.name}.{part}"]), linear.name
            assert same_bits(tensors[f"{linear.name}.{part}"], ours.tensors[f"{linear.name}.{part}"]), linear.name
        scale = tensors[f"{linear.name}.input_global_scale"]
        assert scale.dtype == torch.float32
        assert scale.shape == (1,)
        assert statistics.of_linear(linear.name).count > 0
        ratios.append(scale.item() / theirs.tensors[f"{linear.name}.input_global_scale"].item())
    # Activations are BF16 (a step is 2^-8 to 2^-7), and oneshot runs experts and sequences one by one: sums differ in
    # their last bits, and the input of a down projection is a product of two such sums. A token whose scores tie may go
    # to another expert, and may be the one with an expert's largest input.
    apart = sorted(abs(ratio - 1) for ratio in ratios)
    assert apart[len(apart) * 9 // 10] < 3 * 2**-7
    assert apart[-1] < 1
    assert abs(median(ratios) - 1) < 2**-8
    (group,) = theirs.config["config_groups"].values()
    assert group == mine.config["quantization_config"]["config_groups"]["NVFP4"]


def test_experts_that_no_token_reached_get_the_layers_largest_input(demo: Source, tmp_path: Path) -> None:
    sites = sites_of(demo.architecture.linears)
    largest = largest_of(demo, 1.0)
    gate = "model.layers.1.block_sparse_moe.experts.*.w1"
    largest[gate][2, 17] = 5.0
    largest[gate][3] = 0
    largest[gate][6] = 0
    artifact = run(demo, W4A4, tmp_path / "out", calibration_of(tmp_path / "statistics", sites, largest))
    tensors = artifact.tensors

    def scale(expert: int, part: str) -> float:
        return tensors[f"model.layers.1.block_sparse_moe.experts.{expert}.{part}.input_global_scale"].item()

    assert scale(0, "w1") == scale(0, "w3") == 2688
    assert scale(2, "w1") == scale(3, "w1") == scale(3, "w3") == scale(6, "w1") == input_global_scale(torch.tensor(5.0))
    assert scale(3, "w2") == 2688  # its down projection was reached: only what is missing is filled in
    note = next(note for note in artifact.notes if "calibration tokens reached" in note)
    assert note.startswith("layer 1: ")
    assert "experts 3, 6;" in note
    scales = [t for name, t in tensors.items() if name.endswith("input_global_scale")]
    assert len(scales) == sum(linear.quantizable for linear in demo.architecture.linears)
    assert all(t.isfinite().all() and (t > 0).all() for t in scales)


def test_calibration_that_reached_no_expert_or_overflowed_is_refused(demo: Source, tmp_path: Path) -> None:
    sites = sites_of(demo.architecture.linears)
    gate = "model.layers.1.block_sparse_moe.experts.*.w1"
    for name, value, message in ((gate, 0.0, "reached no expert of layer 1"), (gate, float("inf"), "infinite or NaN")):
        largest = largest_of(demo, 1.0)
        largest[name][:] = value
        folder = tmp_path / message.split()[0]
        with pytest.raises(SixfoldError, match=message):
            run(demo, W4A4, folder, calibration_of(tmp_path / f"{folder.name}-statistics", sites, largest))


def test_w4a4_without_calibration_is_refused(demo: Source, tmp_path: Path) -> None:
    with pytest.raises(SixfoldError, match="needs calibration statistics; run `sixfold calibrate"):
        run(demo, W4A4, tmp_path)


def test_modelopt_layout_holds_the_same_numbers_under_its_names(
    demo: Source, ours: Artifact, statistics: Statistics, tmp_path: Path
) -> None:
    plain = run(demo, W4A4, tmp_path / "plain", statistics).tensors
    artifact = run(demo, W4A4.model_copy(update={"options": MODELOPT}), tmp_path / "modelopt", statistics)
    tensors = artifact.tensors
    for linear in demo.architecture.linears:
        if not linear.quantizable:
            assert same_bits(tensors[linear.weight], plain[linear.weight])
            continue
        assert same_bits(tensors[linear.weight], plain[f"{linear.name}.weight_packed"])
        assert same_bits(tensors[f"{linear.name}.weight_scale"], plain[f"{linear.name}.weight_scale"])
        for theirs, mine in (("weight_scale_2", "weight_global_scale"), ("input_scale", "input_global_scale")):
            scalar = tensors[f"{linear.name}.{theirs}"]
            assert scalar.shape == ()
            assert scalar.item() * plain[f"{linear.name}.{mine}"].item() == pytest.approx(1, rel=1e-6)
    assert artifact.config["quantization_config"]["quant_algo"] == "NVFP4"
    quantization = json.loads((artifact.folder / "hf_quant_config.json").read_text())["quantization"]
    assert quantization["group_size"] == 16


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_sizes_that_16_does_not_divide_stay_in_bf16_or_fail(family: str, tmp_path: Path) -> None:
    source = open_source(make_family(family, tmp_path / "odd", intermediate_size=328))
    plan = planned(source, W4A16)
    encodings = {t.name: t.encoding for t in plan.tensors}
    if family == "llama":  # only the down projection reads 328 channels
        assert encodings["model.layers.0.mlp.down_proj.weight"] == "copy"
        assert encodings["model.layers.0.mlp.gate_proj.weight_packed"] == "nvfp4"
    else:  # engines give the experts of a layer one scheme
        assert encodings["model.layers.0.block_sparse_moe.experts.0.w2.weight"] == "copy"
        assert encodings["model.layers.0.block_sparse_moe.experts.0.w1.weight"] == "copy"
        assert any("together with one that is kept" in note for note in plan.notes)
    assert any("16 does not divide its input channels" in note for note in plan.notes)
    with pytest.raises(SixfoldError, match=r"x 328, and 16 does not divide .*indivisible: keep"):
        planned(source, W4A16.model_copy(update={"indivisible": "fail"}))


def test_keep_patterns_keep_whole_fused_groups(demo: Source) -> None:
    plan = planned(demo, W4A16.model_copy(update={"keep": (r"layers\.1\.self_attn\.q_proj",)}))
    encodings = {t.name: t.encoding for t in plan.tensors}
    assert encodings["model.layers.1.self_attn.v_proj.weight"] == "copy"
    assert encodings["model.layers.1.self_attn.o_proj.weight_packed"] == "nvfp4"
    assert encodings["model.layers.0.self_attn.v_proj.weight_packed"] == "nvfp4"


def test_other_schemes_and_stacked_experts_are_refused(demo: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not make MXFP4; set `scheme` to NVFP4A16 or NVFP4"):
        planned(demo, recipe("nvfp4", "MXFP4"))
    with pytest.raises(SixfoldError, match="as one array"):
        planned(open_source(make_family("jetmoe", tmp_path / "jetmoe")), W4A16)
