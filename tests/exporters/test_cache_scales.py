"""Scales of FP8 caches against the caches that transformers itself fills, and an engine's answers with them."""

import json
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from calibration.calibrate import calibrate
from calibration.texts.tokens import token_batches
from exporters.export.planning import plan_of, prepare
from exporters.export.run import export
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration, Recipe, load_recipes
from sixfold.statistics.statistics import Statistics
from tests.engines.reader import reader_logits
from tests.exporters.exported import DEMO, silent
from tests.families import make_family
from tests.few_windows import few_windows
from verification.judge import judge

pytestmark = pytest.mark.arithmetic

PROFILE = Calibration(samples=4, length=64, sample_rows=16)
LAYERS = 2


def recipe(name: str, *overrides: str) -> Recipe:
    (found,) = load_recipes(name, ["rounding=nearest", "options.kv_cache=fp8", *overrides])
    return found.model_copy(update={"calibration": PROFILE})


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def ids(demo: Source) -> torch.Tensor:
    return token_batches(PROFILE, load_tokenizer(demo.checkpoint.folder)).ids


@pytest.fixture(scope="module")
def statistics(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    return calibrate(demo, PROFILE, tmp_path_factory.mktemp("calibration"), progress=silent).statistics


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)


def made(demo: Source, of: Recipe, statistics: Statistics, ids: torch.Tensor, root: Path) -> Path:
    prepare(demo, of, statistics, lambda: ids, silent)
    return export(demo, of, Workspace(root, "m"), statistics, threads=1, progress=silent).folder


@pytest.mark.parametrize(
    ("name", "layout", "names", "shape"),
    [
        ("fp8", "compressed-tensors", ("k_scale", "v_scale"), (1,)),
        ("nvfp4", "modelopt", ("k_proj.k_scale", "v_proj.v_scale"), ()),
    ],
)
def test_scales_reach_to_twice_the_largest_that_transformers_caches_or_more(
    name: str,
    layout: str,
    names: tuple[str, str],
    shape: tuple[int, ...],
    demo: Source,
    statistics: Statistics,
    ids: torch.Tensor,
    model: Any,
    tmp_path: Path,
) -> None:
    folder = made(demo, recipe(name, f"options.layout={layout}"), statistics, ids, tmp_path)
    stored = load_file(folder / "model.safetensors")
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    for layer in range(LAYERS):
        for scale, cached in zip(names, (cache.layers[layer].keys, cache.layers[layer].values), strict=True):
            found = stored[f"model.layers.{layer}.self_attn.{scale}"]
            assert found.shape == shape
            assert 2 <= float(found) * 448 / float(cached.abs().max()) < 4
            assert log2(float(found)).is_integer()


class _Fp8Cache(DynamicCache):
    """What an engine holds: E4M3 under the artifact's scales, read back before attention."""

    def __init__(self, config: Any, scales: dict[str, torch.Tensor]) -> None:
        super().__init__(config=config)
        self._scales = scales

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *others: Any, **more: Any) -> Any:
        held = []
        for states, name in ((key_states, "k_scale"), (value_states, "v_scale")):
            scale = self._scales[f"model.layers.{layer_idx}.self_attn.{name}"]
            held.append((states / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale)
        return super().update(*held, layer_idx, *others, **more)


def test_attention_with_rounded_caches_is_that_with_an_fp8_cache(
    demo: Source, statistics: Statistics, ids: torch.Tensor, model: Any, tmp_path: Path
) -> None:
    """Of the source's own weights but for o_proj, whose inputs are left alone here."""
    of = recipe("fp8", "keep=['block_sparse_moe', 'q_proj|k_proj|v_proj']")
    folder = made(demo, of, statistics, ids, tmp_path)
    stored = load_file(folder / "model.safetensors")
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.o_proj.weight"
        weight = stored[name].float() * stored[f"{name}_scale"].float()
        model.get_parameter(name).data.copy_(weight)
    try:
        with torch.inference_mode():
            expected = model(input_ids=ids, past_key_values=_Fp8Cache(model.config, stored), use_cache=True).logits
    finally:
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).state_dict())
    off = [
        float((reader_logits(folder, demo, ids, run, exact="o_proj") - expected).abs().mean())
        for run in ("engine", "engine-16-bit-cache")
    ]
    assert off[0] < off[1] / 20, off


def test_a_cache_costs_something_and_plain_rounding_of_it_as_much(
    demo: Source, statistics: Statistics, ids: torch.Tensor, tmp_path: Path
) -> None:
    folder = made(demo, recipe("fp8"), statistics, ids, tmp_path)
    with few_windows("verification.measure.held_out"):
        checked = judge(folder, demo, silent)
    assert checked.passed, [str(finding) for finding in checked.findings]
    assert checked.divergence is not None
    scores, plain = checked.divergence.scores, checked.divergence.plain
    assert plain is not None
    assert scores["weights"].mean_kl < scores["engine-16-bit-cache"].mean_kl < scores["engine"].mean_kl
    assert plain.mean_kl == pytest.approx(scores["engine"].mean_kl, rel=0.1)


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
@pytest.mark.parametrize("name", ["fp8", "nvfp4", "nvfp4-auto"])
def test_configs_declare_the_cache(name: str, layout: str, demo: Source) -> None:
    overrides = ["scheme=FP8"] if (name, layout) == ("fp8", "modelopt") else []
    plan = plan_of(demo, recipe(name, f"options.layout={layout}", *overrides), None)
    assert plan is not None
    config = json.loads(plan.texts["config.json"])["quantization_config"]
    assert config["kv_cache_scheme"]["num_bits"] == 8
    if layout == "modelopt":
        assert json.loads(plan.texts["hf_quant_config.json"])["quantization"]["kv_cache_quant_algo"] == "FP8"
    else:
        parsed = QuantizationConfig.model_validate({k: v for k, v in config.items() if k != "version"})
        assert parsed.kv_cache_scheme is not None
        assert str(parsed.kv_cache_scheme.strategy) == "tensor"
        assert not parsed.kv_cache_scheme.dynamic
    scales = [tensor.name for tensor in plan.tensors if tensor.name.endswith((".k_scale", ".v_scale"))]
    assert len(scales) == 2 * LAYERS


def test_latents_have_no_such_scales(tmp_path: Path) -> None:
    source = open_source(make_family("deepseek_v3", tmp_path / "m"))
    with pytest.raises(SixfoldError, match="engines have FP8 scales for what k_proj and v_proj give, and attention of"):
        plan_of(source, recipe("fp8"), None)


def test_formats_that_engines_read_no_such_scales_of_have_no_such_option() -> None:
    with pytest.raises(UsageError, match="no exporter here has this option"):
        load_recipes("awq", ["options.kv_cache=fp8"], lambda _: __import__("exporters.awq", fromlist=["x"]).Options)
