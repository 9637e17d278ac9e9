from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calibration.forward_pass.batches import batched
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.observation import Observation
from calibration.forward_pass.observe import observed
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.bf16_products import fast_products
from sixfold.runner.causal_attention import fast_causal_attention
from sixfold.runner.whole_model import load_model
from tests.calibration.literal import read_inputs
from tests.calibration.silent import silent
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
CPU = torch.device("cpu")
ROWS = 16


def ids_for(source: Source, samples: int = 6, length: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, source.checkpoint.config["vocab_size"], (samples, length), generator=generator)


def observe_in(
    source: Source, ids: torch.Tensor, dtype: torch.dtype, per_batch: int, *, moments: bool = False
) -> Observation:
    model = load_model(source, dtype=dtype, device=CPU)
    ranks = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(0))
    observation = Observation(
        source.architecture.linears, ranks=ranks, rows=ROWS, device=CPU, moments=moments, length=ids.shape[1]
    )
    with torch.inference_mode(), observed(model, observation):
        for batch in ids.split(per_batch):
            model(input_ids=batch, use_cache=False)
            observation.start += batch.numel()
    return observation


def finished(observation: Observation, site: str) -> dict[str, torch.Tensor]:
    return {key.rpartition("/")[2]: t for key, t in observation.finish().items() if key.rpartition("/")[0] == site}


FAMILIES = ("demo", "qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama", "gemma2")


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_a_plain_forward(family: str, tmp_path: Path) -> None:
    folder = DEMO if family == "demo" else make_family(family, tmp_path)
    source = open_source(folder)
    ids = ids_for(source)
    observation = observe_in(source, ids, torch.float32, per_batch=4)
    literal = read_inputs(folder, source.architecture, ids)
    assert set(literal) == {linear.name for linear in source.architecture.linears}
    for linear in source.architecture.linears:
        found = finished(observation, linear.site)
        if linear.expert is not None:
            found = {key: value[linear.expert] for key, value in found.items()}
        want = literal[linear.name]
        assert found["count"] == len(want), linear.name
        torch.testing.assert_close(found["sum_sq"], want.double().square().sum(0).float(), rtol=2e-4, atol=1e-6)
        torch.testing.assert_close(found["sum_abs"], want.double().abs().sum(0).float(), rtol=2e-4, atol=1e-6)
        if len(want):
            torch.testing.assert_close(found["abs_max"], want.abs().amax(0), rtol=2e-4, atol=1e-6)
        assert found["sampled"] == min(ROWS, len(want))
        for row in found["sample"][: found["sampled"]].float():
            assert (want - row).abs().amax(1).min() <= 2**-7 * row.abs().max()
        assert not found["sample"][found["sampled"] :].any()


@pytest.mark.parametrize("family", ["demo", "deepseek_v3"])
def test_what_the_first_tokens_of_windows_read_is_kept_by_itself(family: str, tmp_path: Path) -> None:
    folder = DEMO if family == "demo" else make_family(family, tmp_path)
    source = open_source(folder)
    ids = ids_for(source)
    found = observe_in(source, ids, torch.float32, per_batch=4, moments=True).finish()
    literal = read_inputs(folder, source.architecture, ids)
    # Attention is causal: what a first token reads does not depend on what follows.
    literal_first = read_inputs(folder, source.architecture, ids[:, :1])
    for linear in source.architecture.linears:
        first, count = found[f"{linear.site}/first"], found[f"{linear.site}/first_count"]
        if linear.expert is None:
            want = literal[linear.name][:: ids.shape[1]]
        else:
            first, count = first[linear.expert], count[linear.expert]
            want = literal_first[linear.name]
        assert count == len(want)
        expected = want.mean(0) if len(want) else torch.zeros_like(first)
        torch.testing.assert_close(first, expected, rtol=2e-4, atol=1e-6)


def test_the_forward_is_the_one_that_transformers_runs(tmp_path: Path) -> None:
    for folder in (DEMO, make_family("deepseek_v3", tmp_path / "a"), make_family("gpt_oss", tmp_path / "b")):
        source = open_source(folder)
        ids = ids_for(source)
        model = load_model(source, dtype=torch.bfloat16, device=CPU)
        ranks = torch.arange(ids.numel())
        observation = Observation(source.architecture.linears, ranks=ranks, rows=ROWS, device=CPU)
        with torch.inference_mode():
            model.set_experts_implementation("eager")
            plain = model(input_ids=ids, use_cache=False).logits.float()
            with observed(model, observation):
                ours = model(input_ids=ids, use_cache=False).logits.float()
            after = model(input_ids=ids, use_cache=False).logits.float()
        error = (ours - plain).square().mean(-1) / plain.square().mean(-1)
        assert error.median() < 1e-4, folder  # BF16 rounds by 2^-9; a token that is routed otherwise may differ more
        torch.testing.assert_close(after, plain, rtol=0, atol=0)


def test_experts_see_what_grouped_mm_computes() -> None:
    source = open_source(DEMO)
    model = load_model(source, dtype=torch.bfloat16, device=CPU)
    experts = model.model.layers[0].mlp.experts
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, experts.hidden_dim, generator=generator).bfloat16()
    index = torch.rand(200, experts.num_experts, generator=generator).topk(2).indices
    weights = torch.rand(200, 2, generator=generator)
    observation = Observation(source.architecture.linears, ranks=torch.arange(200), rows=1, device=CPU)
    with torch.inference_mode():
        model.set_experts_implementation("grouped_mm")
        theirs = experts(hidden, index, weights).float()
        with observed(model, observation):
            ours = experts(hidden, index, weights).float()
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7 * float(theirs.abs().max()))


def test_products_in_float32_round_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator).bfloat16() for shape in ((64, 256), (128, 256)))
    exact = x.double() @ w.double().T
    with fast_products(CPU):
        found = torch.nn.functional.linear(x, weight=w)
    assert found.dtype is torch.bfloat16
    assert bool(((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4).all())


def test_correction_biases_keep_their_float32_values() -> None:
    source = open_source(DEMO)
    model = load_model(source, dtype=torch.bfloat16, device=CPU)
    for layer, name in enumerate(source.architecture.correction_biases):
        loaded = model.model.layers[layer].mlp.e_score_correction_bias
        stored = source.checkpoint.read(TensorSlice(name, 0, source.checkpoint.tensors[name].shape[0]))
        assert loaded.dtype is torch.float32
        assert torch.equal(loaded.cpu(), stored)
        assert not torch.equal(stored.bfloat16().float(), stored)  # rounding would have shown
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_sampled_tokens_do_not_depend_on_the_batches() -> None:
    source = open_source(DEMO)
    ids = ids_for(source)
    one, all_at_once = (observe_in(source, ids, torch.float32, n) for n in (1, len(ids)))
    for site in one.sites:
        a, b = finished(one, site), finished(all_at_once, site)
        assert torch.equal(a["count"], b["count"])
        assert torch.equal(a["sampled"], b["sampled"])
        torch.testing.assert_close(a["sample"].float(), b["sample"].float(), rtol=2**-6, atol=1e-3)


def pass_over(source: Source, ids: torch.Tensor, work: Path) -> dict[str, torch.Tensor]:
    """Everything that the pass writes, by key."""
    profile = Calibration(samples=len(ids), length=ids.shape[1], sample_rows=ROWS)
    reached = run_pass(source, batched(ids, 0), profile, work, key="", device=CPU, progress=silent)
    return {key: tensor for name in reached.files for key, tensor in load_file(work / name).items()}


@pytest.mark.parametrize("family", ["demo", "qwen3_moe", "mixtral", "glm4_moe", "gemma2"])
def test_the_pass_measures_what_the_whole_model_does(family: str, tmp_path: Path) -> None:
    """Bit for bit, layer by layer or with all weights in memory, in the same batches."""
    source = open_source(DEMO if family == "demo" else make_family(family, tmp_path / "model"))
    ids = ids_for(source)
    found = pass_over(source, ids, tmp_path / "work")
    with fast_products(CPU), fast_causal_attention(CPU):
        whole = observe_in(source, ids, torch.bfloat16, per_batch=len(ids), moments=True).finish()
    assert found.keys() == whole.keys()
    for key, tensor in whole.items():
        assert torch.equal(found[key], tensor), key


def test_every_site_counts_each_token_once(tmp_path: Path) -> None:
    for folder, top_k in (
        (DEMO, 2),
        (make_family("qwen3", tmp_path / "a"), 0),
        (make_family("gemma2", tmp_path / "b"), 0),
    ):
        source = open_source(folder)
        ids = ids_for(source, samples=2)
        found = pass_over(source, ids, tmp_path / "work" / source.checkpoint.name)
        for linear in source.architecture.linears:
            times = top_k if linear.expert is not None else 1
            assert int(found[f"{linear.site}/count"].sum()) == ids.numel() * times, linear.name


def test_ids_of_another_model_are_refused(tmp_path: Path) -> None:
    source = open_source(DEMO)
    ids = torch.full((1, 8), source.checkpoint.config["vocab_size"])
    with pytest.raises(SixfoldError, match="makes token 2048, but the model has 2048 embeddings"):
        pass_over(source, ids, tmp_path)


def test_experts_that_cannot_be_observed_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(DEMO)
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.set_experts_implementation", lambda *_: None)
    with pytest.raises(SixfoldError, match=r"0 of 16 calibration tokens were seen at .*experts"):
        pass_over(source, ids_for(source, 1, 16), tmp_path)
