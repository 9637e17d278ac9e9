import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file

from calibration.calibrate import calibrate
from exporters.awq import EXPORTER, fitting_group
from exporters.formats.autoawq import check_not_converted
from exporters.formats.module_names import unquantized_modules
from exporters.protocol import Decisions
from exporters.selection import select
from exporters.smoothing import awq_search
from exporters.smoothing.awq_search import decided
from exporters.smoothing.smoothing_groups import misfit_of
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration, Recipe
from sixfold.statistics.statistics import Statistics, layer_file
from tests.exporters.autoawq_library import packing_utils
from tests.exporters.exported import DEMO, Artifact, planned, recipe, run, silent
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

AWQ = recipe("awq", "W4A16_ASYM")
PACKED = recipe("awq", "W4A16_ASYM", options={"layout": "pack-quantized"})
MOE = "model.layers.1.block_sparse_moe"


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def statistics(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    profile = Calibration(samples=8, length=128, sample_rows=32)
    return calibrate(demo, profile, tmp_path_factory.mktemp("calibration"), progress=silent).statistics


@pytest.fixture(scope="module")
def made(demo: Source, statistics: Statistics, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(demo, AWQ, tmp_path_factory.mktemp("awq"), statistics)


@pytest.fixture(scope="module")
def decisions(demo: Source, statistics: Statistics) -> dict[int, Decisions]:
    return {layer: EXPORTER.decide(demo, AWQ, statistics, layer).tensors for layer in (0, 1)}


def weight_of(source: Source, name: str) -> torch.Tensor:
    return load_file(source.checkpoint.folder / "model.safetensors")[name + ".weight"]


def read_back(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    qweight, qzeros, scales = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
    return packing_utils.dequantize_gemm(qweight, qzeros, scales.float(), 4, 128).t()


def test_plan_and_file_agree_and_names_are_the_checkpoints_own(made: Artifact, demo: Source) -> None:
    plan, tensors = planned(demo, AWQ), made.tensors
    assert {t.name: (t.shape, t.nbytes) for t in plan.tensors} == {
        name: (tuple(tensor.shape), tensor.nbytes) for name, tensor in tensors.items()
    }
    for file in plan.files:
        assert (made.folder / file.name).stat().st_size == file.nbytes
    assert (made.folder / "config.json").read_bytes() == plan.texts["config.json"]
    assert tensors[f"{MOE}.experts.7.w3.qweight"].shape == (256, 32)
    assert tensors[f"{MOE}.e_score_correction_bias"].dtype == torch.float32
    assert not any("gate.q" in name or "lm_head.q" in name or "embed_tokens.q" in name for name in tensors)


def test_every_weight_read_by_autoawq_is_the_scaled_one_within_its_rounding(
    made: Artifact, demo: Source, decisions: dict[int, Decisions]
) -> None:
    tensors = made.tensors
    for linear in demo.architecture.linears:
        if not linear.quantizable:
            continue
        assert linear.layer is not None
        here = decisions[linear.layer]
        columns, rows = decided(here, linear.name, "in"), decided(here, linear.name, "out")
        meant = weight_of(demo, linear.name).float()
        meant = meant * (1 if columns is None else columns) / (1 if rows is None else rows[:, None])
        difference = (read_back(tensors, linear.name) - meant).view(linear.out_features, -1, 128)
        scales = tensors[f"{linear.name}.scales"].t().float()
        assert (difference.norm() / meant.norm()) < 0.13
        assert (difference.abs() / scales[..., None] < 0.51).float().mean() > 0.95  # the rest was clipped


def test_norms_and_routers_carry_the_scale_that_their_readers_got(
    made: Artifact, demo: Source, decisions: dict[int, Decisions]
) -> None:
    scale = decisions[1]["model.layers.1.post_attention_layernorm.out"]
    assert scale.max() / scale.min() > 1.05
    assert decided(decisions[1], f"{MOE}.experts.5.w1", "in") is scale
    norm, router = "model.layers.1.post_attention_layernorm", f"{MOE}.gate"
    tensors = made.tensors
    assert torch.allclose(tensors[norm + ".weight"].float() * scale, weight_of(demo, norm).float(), rtol=3e-7, atol=0)
    exact = weight_of(demo, router).float() * scale
    assert torch.equal(tensors[router + ".weight"], exact.to(tensors[router + ".weight"].dtype))
    assert 0 < decisions[1][router + ".rounding"] < 2**-8


def test_a_search_is_never_worse_than_plain_rounding(
    demo: Source, statistics: Statistics, decisions: dict[int, Decisions]
) -> None:
    unclipped = AWQ.model_copy(update={"options": {"clip": False}})
    for found in (decisions[1], EXPORTER.decide(demo, unclipped, statistics, 1).tensors):
        lost = {name: tensor for name, tensor in found.items() if name.endswith(".loss")}
        assert lost[f"{MOE}.experts.*.w3.loss"].shape == (8, 2)
        for loss in lost.values():
            plain, best = loss.unbind(-1)
            assert (best <= plain).all()
        assert sum(loss[..., 1].sum() for loss in lost.values()) < 0.99 * sum(
            loss[..., 0].sum() for loss in lost.values()
        )


def test_decisions_depend_on_neither_threads_nor_order(
    demo: Source, statistics: Statistics, decisions: dict[int, Decisions]
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = EXPORTER.decide(demo, AWQ, statistics, 1).tensors
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert again.keys() == decisions[1].keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in decisions[1].items())


def test_the_layout_of_compressed_tensors_means_the_same_model(
    made: Artifact, demo: Source, statistics: Statistics, tmp_path: Path
) -> None:
    packed = run(demo, PACKED, tmp_path, statistics)
    plan, tensors = planned(demo, PACKED), packed.tensors
    assert {t.name: t.shape for t in plan.tensors} == {name: tuple(t.shape) for name, t in tensors.items()}
    config = QuantizationConfig.model_validate(packed.config["quantization_config"])
    (scheme,) = config.config_groups.values()
    for name in (f"{MOE}.experts.2.w2", "model.layers.0.self_attn.q_proj"):
        parts = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
        state = {part: tensors[f"{name}.{part}"] for part in parts}
        assert state["weight_scale"].dtype == torch.bfloat16
        read = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
        assert torch.equal(read, read_back(made.tensors, name).bfloat16())
    ignore = packed.config["quantization_config"]["ignore"]
    assert f"{MOE}.gate" in ignore
    assert "model.layers.1.mlp.gate" in ignore
    assert "lm_head" in ignore


def starved(statistics: Statistics, folder: Path, experts: list[int]) -> Statistics:
    """The same calibration, had no token been routed to `experts` of layer 1."""
    folder.mkdir()
    for layer in (0, 1):
        tensors = load_file(statistics.folder / layer_file(layer))
        if layer == 1:
            for name, tensor in tensors.items():
                if "experts.*" in name:
                    tensor[experts] = 0
        save_file(tensors, folder / layer_file(layer))
    moe = {
        name: {**entry, "starved": experts if entry["layer"] == 1 else []}
        for name, entry in statistics.manifest["moe"].items()
    }
    return Statistics(folder, {**statistics.manifest, "moe": moe})


def test_experts_that_no_token_reached_are_searched_with_the_average_input(
    demo: Source, statistics: Statistics, decisions: dict[int, Decisions], tmp_path: Path
) -> None:
    found = EXPORTER.decide(demo, AWQ, starved(statistics, tmp_path / "starved", [2, 5]), 1)
    (note,) = found.notes
    assert note.startswith("layer 1: fewer than 32 calibration tokens reached experts 2, 5; the average")
    down = found.tensors[f"{MOE}.experts.*.w2.in"]
    assert torch.isfinite(down).all()
    assert torch.equal(down[[0, 1, 3, 4, 6, 7]], decisions[1][f"{MOE}.experts.*.w2.in"][[0, 1, 3, 4, 6, 7]])
    importance = found.tensors[f"{MOE}.experts.*.w2.importance"]
    seen = [statistics.of_linear(f"{MOE}.experts.{i}.w2") for i in (0, 1, 3, 4, 6, 7)]
    average = torch.stack([s.sum_sq for s in seen]).sum(0) / sum(s.count for s in seen)
    assert torch.allclose(importance[2], average)
    assert torch.equal(importance[2], importance[5])


def test_an_export_searches_a_layer_on_all_its_threads(
    demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer is decided where many units are encoded."""
    workers: list[int] = []

    class Recorded(ThreadPoolExecutor):
        def __init__(self, number: int) -> None:
            workers.append(number)
            super().__init__(number)

    monkeypatch.setattr(awq_search, "ThreadPoolExecutor", Recorded)
    before = torch.get_num_threads()
    run(demo, AWQ, tmp_path / "out", Statistics(tmp_path, {"sites": {}, "moe": {}, "files": {}}))
    assert workers == [2, 2]
    assert torch.get_num_threads() == before


def test_a_model_without_statistics_of_a_linear_still_gets_every_weight(demo: Source, tmp_path: Path) -> None:
    nothing = Statistics(tmp_path, {"sites": {}, "moe": {}, "files": {}})
    found = EXPORTER.decide(demo, AWQ, nothing, 0)
    assert not found.tensors
    assert any("model.layers.0.self_attn.q_proj: rounded without scaling" in note for note in found.notes)
    tensors = run(demo, AWQ, tmp_path / "out", nothing).tensors
    norm = "model.layers.0.input_layernorm"
    assert torch.equal(tensors[norm + ".weight"], weight_of(demo, norm))


def test_a_dry_run_needs_no_statistics_but_a_decision_does(demo: Source) -> None:
    assert EXPORTER.needs_statistics(AWQ)
    assert planned(demo, AWQ).nbytes > 0
    with pytest.raises(SixfoldError, match="sixfold calibrate"):
        EXPORTER.decide(demo, AWQ, None, 0)


def test_weights_that_are_not_finite_are_refused_by_name(demo: Source) -> None:
    unit = next(u for u in planned(demo, AWQ).units if u.encoding == "awq")
    with pytest.raises(SixfoldError, match=unit.inputs[0].name):
        EXPORTER.encode(unit, [torch.full((256, 256), torch.nan)], {}, AWQ)


def skipped(prefix: str, entries: list[str]) -> bool:
    """vLLM's rule for AWQ, for one name that is not fused."""
    return any(entry in prefix for entry in entries)


def test_the_config_excludes_what_is_not_quantized_under_every_name(made: Artifact) -> None:
    config = made.config["quantization_config"]
    entries = config.pop("modules_to_not_convert")
    assert config == {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 128, "zero_point": True}
    for block in ("mlp", "block_sparse_moe"):
        assert skipped(f"model.layers.0.{block}.gate", entries)
        assert not skipped(f"model.layers.0.{block}.experts", entries)
        assert not skipped(f"model.layers.0.{block}.experts.3.w1", entries)
    assert skipped("lm_head", entries)
    assert not skipped("model.layers.0.self_attn.qkv_proj", entries)


def linear(name: str, **changes: Any) -> Linear:
    layer = int(name.split(".")[2])
    known = Linear(name, name, layer, None, "mlp", name.rpartition(".")[2], 256, 256, None, name, (), True)
    return replace(known, **changes)


def test_a_router_beside_a_dense_layer_does_not_exclude_it() -> None:
    router = linear("model.layers.1.mlp.gate", role="router", quantizable=False)
    dense = [linear(f"model.layers.{i}.mlp.{part}_proj") for i in (0, 11) for part in ("gate", "up", "down")]
    quantized = frozenset(x.name for x in dense)
    entries = unquantized_modules([router, *dense], quantized, ())
    check_not_converted(entries, [router, *dense], quantized)
    assert not skipped("model.layers.11.mlp.gate_up_proj", entries)


@pytest.mark.parametrize("part", ["gate_proj", "up_proj"])
def test_a_router_whose_name_begins_a_quantized_neighbors_is_refused(part: str) -> None:
    """The trap: `mlp.gate` is part of `mlp.gate_proj`, and of `mlp.gate_up_proj` into which `up_proj` is fused."""
    router = linear("model.layers.0.mlp.gate", role="router", quantizable=False)
    dense = linear(f"model.layers.0.mlp.{part}")
    quantized = frozenset([dense.name])
    entries = unquantized_modules([router, dense], quantized, ())
    with pytest.raises(SixfoldError, match=rf"mlp\.gate'.*'model.layers.0.mlp.gate.*{dense.name} is quantized"):
        check_not_converted(entries, [router, dense], quantized)


def test_a_linear_that_no_entry_covers_is_noticed() -> None:
    kept = linear("model.layers.0.self_attn.o_proj", quantizable=False)
    with pytest.raises(SixfoldError, match="o_proj is not quantized"):
        check_not_converted(["lm_head"], [kept], frozenset())


def test_layers_that_do_not_run_are_excluded_by_their_prefix(demo: Source) -> None:
    linears = demo.architecture.linears
    quantized = select(linears, AWQ, misfit_of(128)).quantized
    entries = unquantized_modules(linears, quantized, ["model.layers.2.self_attn.q_proj.weight", "mtp.fc.weight"])
    check_not_converted(entries, linears, quantized)
    assert skipped("model.layers.2.mtp_block.mlp.experts", entries)
    assert skipped("mtp.fc", entries)
    assert not skipped("model.layers.1.mlp.experts", entries)


def test_deepseek_with_a_dense_first_layer_is_planned(tmp_path: Path) -> None:
    source = open_source(make_family("deepseek_v3", tmp_path / "ds"))
    plan = planned(source, AWQ)
    encodings = {t.name: t.encoding for t in plan.tensors}
    assert encodings["model.layers.0.mlp.gate_proj.qweight"] == "awq"
    assert encodings["model.layers.1.mlp.gate.weight"] == "awq-rescale"
    assert encodings["model.layers.1.mlp.gate.e_score_correction_bias"] == "copy"
    assert encodings["model.layers.0.self_attn.kv_a_layernorm.weight"] == "awq-rescale"


@pytest.mark.parametrize(
    ("rows", "group"), [((256, 512), 128), ((576, 1536), 64), ((576, 1504), 32), ((576, 1500), 64), ((36, 20), 128)]
)
def test_groups_are_the_largest_that_divide_every_row(rows: tuple[int, ...], group: int, demo: Source) -> None:
    """Rows that not even 32 divides stay in BF16, and have no say."""
    linears = [replace(demo.architecture.linears[0], in_features=n, quantizable=True) for n in rows]
    assert fitting_group(linears, AWQ, 128) == group
    assert fitting_group(linears, AWQ.model_copy(update={"indivisible": "fail"}), 128) == 128


@pytest.mark.parametrize("made_as", [AWQ, PACKED])
def test_a_model_of_576_channels(made_as: Recipe, tmp_path: Path) -> None:
    sizes = {"hidden_size": 192, "intermediate_size": 320, "num_attention_heads": 3, "num_key_value_heads": 1}
    source = open_source(make_family("llama", tmp_path / "awkward", **sizes))
    plan = EXPORTER.plan(source, made_as, None)
    assert plan.notes[0] == "groups of 64, since 128 does not divide rows of 192, 320"
    assert not any("in BF16 (64" in note for note in plan.notes)
    config = json.loads(plan.texts["config.json"])["quantization_config"]
    assert 64 in (config.get("group_size"), _weights_of(config).get("group_size"))


def _weights_of(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(config.get("config_groups", {"": {}}).values())).get("weights", {})
    return found
