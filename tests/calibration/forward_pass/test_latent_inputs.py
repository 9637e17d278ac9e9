"""What the halves of latent attention's kv_b_proj read, against transformers' own attention weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from calibration.forward_pass.observation import Observation
from calibration.forward_pass.observe import observed
from sixfold.model.latent_attention import LatentHeads, latent_linears
from sixfold.model.source import Source, open_source
from sixfold.runner.whole_model import load_model
from tests.calibration.forward_pass.test_observe import ids_for
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")
HEADS = LatentHeads(heads=4, key=64, latent=160)


def deepseek(folder: Path) -> Source:
    """Random queries are too small for attention to be more than an average, and heads would hardly differ."""
    make_family("deepseek_v3", folder, kv_lora_rank=160)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith(("q_b_proj.weight", "kv_a_proj_with_mqa.weight")):
            weights[name] *= 40
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return open_source(folder)


def literal(source: Source, ids: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """kv_b_proj's name -> rows [tokens, heads, channels] of queries and of attended latents, in float32."""
    from transformers import AutoModelForCausalLM

    folder = source.checkpoint.folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith((".q_b_proj", ".kv_a_layernorm")):
            module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    with torch.no_grad():
        attention = model(input_ids=ids, use_cache=False, output_attentions=True).attentions
    found = {}
    for layer in range(2):
        at = f"model.layers.{layer}.self_attn"
        query = seen[f"{at}.q_b_proj"].view(*ids.shape, 4, 96)[..., :64]
        attended = torch.einsum("bhqk,bkc->bqhc", attention[layer], seen[f"{at}.kv_a_layernorm"])
        found[f"{at}.kv_b_proj"] = (query.flatten(0, 1), attended.flatten(0, 1))
    return found


@pytest.mark.parametrize("counted", [None, "every third token left out"])
def test_both_halves_are_those_of_a_plain_forward(counted: str | None, tmp_path: Path) -> None:
    source = deepseek(tmp_path / "model")
    latents = latent_linears(source)
    assert latents == {f"model.layers.{layer}.self_attn.kv_b_proj": HEADS for layer in (0, 1)}
    ids = ids_for(source)
    kept = torch.ones(ids.numel(), dtype=torch.bool) if counted is None else torch.arange(ids.numel()) % 3 > 0
    observation = Observation(
        source.architecture.linears,
        ranks=torch.randperm(ids.numel()),
        rows=4,
        device=CPU,
        counted=None if counted is None else kept,
        latents=latents,
    )
    model = load_model(source, dtype=torch.float32, device=CPU)
    with torch.inference_mode(), observed(model, observation):
        for batch in ids.split(4):
            model(input_ids=batch, use_cache=False)
            observation.start += batch.numel()
    found = observation.finish()
    for name, halves in literal(source, ids).items():
        for half, rows in zip(("query", "attended"), halves, strict=True):
            want = rows[kept].double().square().sum(0).float()
            assert found[f"{name}/{half}_count"] == kept.sum()
            torch.testing.assert_close(found[f"{name}/{half}_sq"], want, rtol=2e-4, atol=1e-6)
            assert (want / want.mean(0)).std() > 0.05  # heads and channels differ: an average would not pass


def test_the_forward_stays_what_it_was(tmp_path: Path) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    source = deepseek(tmp_path / "model")
    ids = ids_for(source, samples=2)
    model = load_model(source, dtype=torch.bfloat16, device=CPU)
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    observation = Observation(
        source.architecture.linears, ranks=torch.arange(64), rows=4, device=CPU, latents=latent_linears(source)
    )
    unseen = Observation(source.architecture.linears, ranks=torch.arange(64), rows=4, device=CPU)
    with torch.inference_mode():
        with observed(model, unseen):
            plain = model(input_ids=ids).logits
        with observed(model, observation):
            watched = model(input_ids=ids).logits
    assert torch.equal(plain, watched)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
    assert observation.latents
    assert not unseen.latents
