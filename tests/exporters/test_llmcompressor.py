"""llmcompressor run through its traps: what comes out has the architecture's names, and is refused where it is unsound.

The bundled checkpoint is real and trained; the other families are tiny and random.
"""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from exporters.foreign import llmcompressor_result
from exporters.foreign.llmcompressor_recipe import awq_mappings, group_sizes, guarded, module_name, read_recipe
from exporters.llmcompressor import EXPORTER, Options
from exporters.registry import exporter_named
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Recipe, load_recipes
from tests.families import make_family

DEMO = Path("demo/minimax-m2-4.6m")
AWQ = {
    "default_stage": {
        "default_modifiers": {
            "AWQModifier": {"n_grid": 4},
            "QuantizationModifier": {"targets": ["Linear"], "scheme": "W4A16_ASYM"},
        }
    }
}


def export(source: Source, folder: Path, scheme: str, tokens: int = 256, **options: Any) -> list[str]:
    recipe = Recipe(
        name="x",
        suffix="X",
        title="x",
        exporter="llmcompressor",
        scheme=scheme,
        calibration={"samples": 4, "length": tokens // 4},
        options=options,
    )
    folder.mkdir()
    ids = torch.randint(0, source.checkpoint.config["vocab_size"], (4, tokens // 4), generator=torch.Generator())
    return list(EXPORTER.run(source, recipe, lambda: ids, folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def quantization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def assert_names_are_the_architectures(source: Source, tensors: Mapping[str, torch.Tensor]) -> None:
    """Every source tensor is there, whole or as what its Linear was made into, and nothing else is."""
    stems = {linear.name for linear in source.architecture.linears if linear.quantizable}
    for name in tensors:
        assert name in source.checkpoint.tensors or name.rpartition(".")[0] in stems, name
    for name, tensor in source.checkpoint.tensors.items():
        stem = name.removesuffix(".weight")
        if stem in stems:
            assert f"{stem}.weight_scale" in tensors, name
        else:
            assert tuple(tensors[name].shape) == tensor.shape, name


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def fp8(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp8") / "out"
    export(demo, folder, "FP8_DYNAMIC", entrypoint="model_free_ptq")
    return folder


@pytest.fixture(scope="module")
def nvfp4(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("nvfp4") / "out"
    return folder, export(demo, folder, "NVFP4", moe_calibrate_all_experts=False)


def test_model_free_leaves_routers_embeddings_and_head_alone(demo: Source, fp8: Path) -> None:
    tensors, original = weights(fp8), weights(DEMO)
    assert_names_are_the_architectures(demo, tensors)
    kept = [name for name in original if f"{name}_scale" not in tensors]
    assert "model.layers.0.block_sparse_moe.gate.weight" in kept
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(kept)
    assert all(torch.equal(tensors[name], original[name]) for name in kept)
    assert all(tensors[name].dtype == original[name].dtype for name in kept)


def test_the_saved_configuration_ignores_what_is_not_quantized_under_both_prefixes(fp8: Path) -> None:
    ignore = quantization(fp8)["ignore"]
    assert {"lm_head", "model.layers.1.block_sparse_moe.gate", "model.layers.1.mlp.gate"} <= set(ignore)
    assert not any("experts" in name or "self_attn" in name for name in ignore)


def test_the_configuration_keeps_fields_that_transformers_drops(fp8: Path, nvfp4: tuple[Path, list[str]]) -> None:
    source = json.loads((DEMO / "config.json").read_text())
    for folder in (fp8, nvfp4[0]):
        config = json.loads((folder / "config.json").read_text())
        assert config.pop("quantization_config")["quant_method"] == "compressed-tensors"
        assert config == source
        assert {"scoring_func", "rotary_dim"} <= config.keys()


def test_everyone_may_read_the_files_and_the_tools_own_folder_is_gone(fp8: Path, nvfp4: tuple[Path, list[str]]) -> None:
    for folder in (fp8, nvfp4[0]):
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444 for path in folder.iterdir())
        assert {path.name for path in folder.iterdir()} == {
            "LICENSE",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }


def test_transformers_reloads_fp8_without_a_missing_tensor_and_close_to_the_source(fp8: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded, report = AutoModelForCausalLM.from_pretrained(fp8, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    original = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    ids = torch.arange(4, 132).reshape(1, -1)
    with torch.no_grad():
        p, q = (model(ids).logits.log_softmax(-1) for model in (original, loaded))
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 0.03


def test_oneshot_gets_the_architectures_names_and_a_float32_bias(demo: Source, nvfp4: tuple[Path, list[str]]) -> None:
    folder, notes = nvfp4
    tensors, original = weights(folder), weights(DEMO)
    assert_names_are_the_architectures(demo, tensors)
    # 2 layers x 8 experts x 3 Linears x 4 tensors
    assert "192 tensors of llmcompressor's were given the architecture's own names" in notes
    bias = "model.layers.0.block_sparse_moe.e_score_correction_bias"
    assert tensors[bias].dtype == torch.float32
    assert torch.equal(tensors[bias], original[bias])


def test_oneshot_weights_are_the_experts_they_claim_to_be(nvfp4: tuple[Path, list[str]]) -> None:
    """A swapped gate and up would still load: unpack NVFP4 by its definition and compare with the source."""
    tensors, original = weights(nvfp4[0]), weights(DEMO)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for part in ("w1", "w2", "w3"):
        stem = f"model.layers.1.block_sparse_moe.experts.5.{part}"
        packed = tensors[f"{stem}.weight_packed"]
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).long()
        values = torch.where(codes > 7, -1.0, 1.0) * grid[codes & 7]
        scale = tensors[f"{stem}.weight_scale"].float() / tensors[f"{stem}.weight_global_scale"]
        weight = (values.reshape(256, -1, 16) * scale[..., None]).reshape(256, 256)
        source = original[f"{stem}.weight"].float()
        assert float((weight - source).norm() / source.norm()) < 0.15


def test_awq_rescales_the_router_together_with_the_experts(demo: Source, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export(demo, folder, "W4A16_ASYM", recipe=AWQ)
    tensors, original = weights(folder), weights(DEMO)
    assert_names_are_the_architectures(demo, tensors)
    for layer in range(2):
        norm = f"model.layers.{layer}.post_attention_layernorm.weight"
        gate = f"model.layers.{layer}.block_sparse_moe.gate.weight"
        assert not torch.equal(tensors[norm], original[norm])
        ours, theirs = (t[gate].float() * t[norm].float() for t in (tensors, original))
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-4)


def test_the_gptq_recipe_of_the_documentation(demo: Source, tmp_path: Path) -> None:
    """Every expert's weights are packed, and the router is the source's."""
    (text,) = (part for part in Path("docs/recipes.md").read_text().split("```yaml\n") if part.startswith("name: gptq"))
    stated = yaml.safe_load(text.partition("```")[0])
    export(demo, tmp_path / "out", stated["scheme"], **stated["options"])
    tensors = weights(tmp_path / "out")
    experts = [linear.name for linear in demo.architecture.linears if linear.role == "expert"]
    assert all(f"{name}.weight_packed" in tensors for name in experts)
    router = "model.layers.1.block_sparse_moe.gate.weight"
    assert torch.equal(tensors[router], load_file(DEMO / "model.safetensors")[router])


def test_experts_that_no_token_reached_are_refused_not_shipped(demo: Source, tmp_path: Path) -> None:
    with pytest.raises(SixfoldError, match=r"input_global_scale.*set moe_calibrate_all_experts: true"):
        export(demo, tmp_path / "out", "NVFP4", tokens=4, moe_calibrate_all_experts=False)


def test_two_global_scales_in_a_fused_pair_are_refused(tmp_path: Path) -> None:
    source = open_source(make_family("qwen3_moe", tmp_path / "model", num_experts=16))
    with pytest.raises(SixfoldError, match=r"different global scales.*use the nvfp4 exporter"):
        export(source, tmp_path / "out", "NVFP4A16", entrypoint="model_free_ptq")


@pytest.mark.engines
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama", "qwen3"])
@pytest.mark.parametrize(("scheme", "recipe"), [("W4A16", None), ("W4A16_ASYM", AWQ)], ids=["rounded", "awq"])
def test_every_family_comes_out_under_its_own_names(
    family: str, scheme: str, recipe: dict[str, Any] | None, tmp_path: Path
) -> None:
    source = open_source(make_family(family, tmp_path / "model"))
    export(source, tmp_path / "out", scheme, recipe=recipe)
    assert_names_are_the_architectures(source, weights(tmp_path / "out"))


def test_rows_that_do_not_divide_stay_in_bf16_and_are_named(tmp_path: Path) -> None:
    source = open_source(make_family("llama", tmp_path / "model", intermediate_size=320))
    notes = export(source, tmp_path / "out", "W4A16")
    tensors = weights(tmp_path / "out")
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
    assert "model.layers.0.mlp.up_proj.weight_packed" in tensors
    assert "model.layers.0.mlp.down_proj" in quantization(tmp_path / "out")["ignore"]
    assert any("rows of 320 do not divide into groups of 128" in note for note in notes)


def test_tensors_that_transformers_does_not_run_are_copied(tmp_path: Path) -> None:
    folder = make_family("glm4_moe", tmp_path / "model")
    extra = {"model.layers.2.eh_proj.weight": torch.randn(256, 512).bfloat16()}
    save_file(load_file(folder / "model.safetensors") | extra, folder / "model.safetensors", metadata={"format": "pt"})
    source = open_source(folder)
    assert source.architecture.not_run == tuple(extra)
    notes = export(source, tmp_path / "out", "W4A16")
    assert torch.equal(weights(tmp_path / "out")["model.layers.2.eh_proj.weight"], *extra.values())
    assert "copied from the source, since llmcompressor drops them: model.layers.2.eh_proj.weight" in notes


def test_a_failing_tool_is_one_sentence(demo: Source, tmp_path: Path) -> None:
    recipe = {"default_stage": {"default_modifiers": {"QuantizationModifier": {"scheme": "W4A16", "nonsense": 1}}}}
    with pytest.raises(SixfoldError, match=r"x: llmcompressor failed with .*nonsense"):
        export(demo, tmp_path / "out", "W4A16", recipe=recipe)


def test_model_free_takes_no_recipe(demo: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model_free_ptq takes no llmcompressor recipe"):
        export(demo, tmp_path / "out", "FP8_DYNAMIC", entrypoint="model_free_ptq", recipe=AWQ)


def test_smoothing_that_forgets_the_router_is_refused(demo: Source) -> None:
    recipe = {"a_stage": {"b_modifiers": {"SmoothQuantModifier": {}}}}
    with pytest.raises(UsageError, match="SmoothQuantModifier rescales norms without their routers"):
        guarded(recipe, demo.architecture, [])


def test_ignore_lists_are_added_to_and_the_given_recipe_is_not_changed(demo: Source) -> None:
    recipe = {"a_stage": {"b_modifiers": {"GPTQModifier": {"ignore": ["mine"], "scheme": "W4A16"}}}}
    completed = guarded(recipe, demo.architecture, ["lm_head", "mine"])
    assert completed["a_stage"]["b_modifiers"]["GPTQModifier"]["ignore"] == ["mine", "lm_head"]
    assert recipe["a_stage"]["b_modifiers"]["GPTQModifier"]["ignore"] == ["mine"]


def test_awq_mappings_hold_every_reader_of_a_norm(demo: Source, tmp_path: Path) -> None:
    (norm,) = [m for m in awq_mappings(demo.architecture) if "post_attention" in m["smooth_layer"]]
    assert norm["balance_layers"][0] == r"re:^model\.layers\.(0|1)\.mlp\.gate$"
    assert len(norm["balance_layers"]) == 3
    deepseek = open_source(make_family("deepseek_v3", tmp_path / "model")).architecture
    by_layer = [m for m in awq_mappings(deepseek) if "post_attention" in m["smooth_layer"]]
    assert [len(m["balance_layers"]) for m in by_layer] == [2, 5]
    named = {module_name(linear) for linear in deepseek.linears}
    assert "model.layers.1.mlp.experts.7.down_proj" in named


def test_options_take_a_recipe_file_and_record_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "awq.yaml").write_text("s_stage:\n  m_modifiers:\n    QuantizationModifier: {scheme: W4A16}\n")
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\nsuffix: OWN\ntitle: Own\nexporter: llmcompressor\nscheme: W4A16\n"
        f"options: {{recipe: {tmp_path / 'awq.yaml'}}}\n"
    )
    (recipe,) = load_recipes(str(own), (), lambda name: exporter_named(name).Options)
    assert recipe.options["recipe"] == {"s_stage": {"m_modifiers": {"QuantizationModifier": {"scheme": "W4A16"}}}}
    assert recipe.options["moe_calibrate_all_experts"] is True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere.yaml", "there is no llmcompressor recipe /nowhere.yaml"),
        ("QuantizationModifier:\n  scheme: W4A16\n", "no modifier found"),
        ({"stage": {"modifiers": {}}}, "no modifier found"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_recipes_in_which_llmcompressor_would_find_nothing_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(given)
    with pytest.raises(ValueError, match=message):
        Options(recipe=given)


def test_what_a_tool_loses_or_invents_is_refused(demo: Source, tmp_path: Path) -> None:
    original = weights(DEMO)
    router = "model.layers.0.block_sparse_moe.gate"
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        ({k: v for k, v in original.items() if k != "model.norm.weight"}, "did not write model.norm.weight"),
        (original | {"model.extra.weight": torch.ones(1)}, "wrote model.extra.weight, which"),
        (original | {f"{router}.weight_scale": torch.ones(8, 1)}, f"quantized {router}"),
        (original | {"model.norm.weight": torch.ones(3, dtype=torch.bfloat16)}, r"wrote model.norm.weight as \(3,\)"),
        (original | {"lm_head.weight": original["lm_head.weight"].to(torch.float8_e4m3fn)}, "without a scale"),
    ]
    for number, (tensors, message) in enumerate(cases):
        written, folder = tmp_path / f"w{number}", tmp_path / f"o{number}"
        written.mkdir()
        folder.mkdir()
        save_file(tensors, written / "model.safetensors")
        with pytest.raises(SixfoldError, match=message):
            llmcompressor_result.finish(demo, written, folder)


def test_several_shards_get_an_index_that_agrees(demo: Source, tmp_path: Path) -> None:
    written, folder = tmp_path / "written", tmp_path / "out"
    written.mkdir()
    folder.mkdir()
    names = sorted(weights(DEMO))
    half = len(names) // 2
    for number, part in enumerate((names[:half], names[half:])):
        save_file({name: weights(DEMO)[name] for name in part}, written / f"part-{number}.safetensors")
    (written / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "compressed-tensors"}}))
    llmcompressor_result.finish(demo, written, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(names)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights(DEMO).values())
    for name, file in index["weight_map"].items():
        assert name in load_file(folder / file)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ({"scheme": "W4A16"}, {128}),
        ({"scheme": "NVFP4"}, {16}),
        ({"scheme": "FP8_DYNAMIC"}, set()),
        ({"config_groups": {"g": {"weights": {"group_size": 32}}, "h": {"weights": {"group_size": -1}}}}, {32}),
    ],
)
def test_group_sizes_are_those_of_the_schemes(arguments: dict[str, Any], sizes: set[int]) -> None:
    assert group_sizes({"s_stage": {"m_modifiers": {"QuantizationModifier": arguments}}}) == sizes
