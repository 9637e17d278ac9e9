"""Experts side by side against transformers' own loop over them, which rounds each one's inputs by themselves."""

from collections.abc import Callable

import pytest
import torch

from sixfold.model.source import open_source
from sixfold.runner.experts import experts_run_by
from sixfold.runner.layer_runner import LayerRunner
from tests.families import make_family
from tests.pretended_device import pretended
from verification.divergence.activations import RoundedInputs, fp8_dynamic, fp8_static, nvfp4
from verification.divergence.expert_inputs import ExpertInputs, experts_at_once
from verification.divergence.latent_inputs import Rounding

pytestmark = pytest.mark.arithmetic

TOKENS = 50

RULES: dict[str, Callable[[int], Rounding | None]] = {
    "none": lambda expert: None,
    "all alike": lambda expert: fp8_dynamic(None),
    "each its own in FP8": lambda expert: fp8_static(0.001 * (1 + expert)),
    "each its own": lambda expert: nvfp4(100.0 * (1 + expert)),
    "by all of an expert's tokens": lambda expert: nvfp4(None),
    "one of each its own": lambda expert: nvfp4(100.0) if expert == 1 else nvfp4(None),
    "some": lambda expert: fp8_dynamic(None) if expert % 2 else None,
}


@pytest.fixture(scope="module", params=["minimax_m2", "gpt_oss", "nemotron_h"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LayerRunner:
    """gpt_oss has biases, matrices that are stored transposed, and gates of its own; nemotron_h no gates."""
    source = open_source(make_family(request.param, tmp_path_factory.mktemp("models") / "tiny"))
    return LayerRunner(source, dtype=torch.float32, device=torch.device("cpu"), read_into=source.checkpoint.read_into)


@pytest.mark.parametrize("rules", RULES)
def test_outputs_and_errors_are_those_of_one_expert_after_the_other(
    runner: LayerRunner, rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verification.divergence.expert_inputs._ON_CPU", 20 * 64)  # a few experts at a time
    layer, name = next(
        (number, name)
        for number, of in enumerate(runner.layers)
        for name, module in of.named_modules()
        if name.endswith("experts") and hasattr(module, "num_experts")
    )
    module = runner.layers[layer].get_submodule(name)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, runner.model.config.hidden_size, generator=draw)
    # The last expert gets nothing, and so does nobody once.
    index = torch.rand(TOKENS, module.num_experts - 1, generator=draw).topk(2).indices
    gates = torch.rand(TOKENS, 2, generator=draw)
    of_pieces = [piece for source in runner.sources_of(layer) for piece in source.pieces if piece.expert is not None]
    given = {piece.name: rule for piece in of_pieces if (rule := RULES[rules](piece.expert)) is not None}

    def run(at_once: bool) -> tuple[torch.Tensor, dict[str, float]]:
        rounding = RoundedInputs(runner, given)
        rounding.place(layer)
        with torch.inference_mode(), rounding:
            if at_once:
                with experts_run_by(runner.model, experts_at_once(rounding.of_stack)):
                    out = module(hidden, index, gates)
            else:
                runner.model.set_experts_implementation("eager")
                out = module(hidden, index, gates)
        return out, {name: error for name, error in rounding.errors.items() if error}

    with runner.placed(layer, runner.read_layer(layer)):
        (expected, errors), (found, of_found) = run(False), run(True)
    assert bool(errors) == (rules != "none")
    assert of_found == pytest.approx(errors, rel=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("few", [1 << 10, 2, 0], ids=["all at once", "some at once", "one by one"])
def test_on_a_gpu_tokens_are_taken_in_parts(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which each is rounded where it is, and experts with few of them have their products at once."""
    monkeypatch.setattr("verification.divergence.expert_inputs._FEW", few)
    experts, width = 4, 32

    class Module(torch.nn.Module):
        has_gate, has_bias, is_transposed, num_experts, act_fn = False, False, False, experts, torch.nn.ReLU()

    draw = torch.Generator().manual_seed(0)
    module = Module()
    module.up_proj, module.down_proj = torch.randn(2, experts, width, width, generator=draw)  # type: ignore[assignment]
    chosen = torch.stack((torch.zeros(TOKENS, dtype=torch.int64), 1 + torch.arange(TOKENS) % (experts - 1)), 1)
    given = [torch.randn(TOKENS, width, generator=draw), chosen]
    given.append(torch.rand(TOKENS, 2, generator=draw))
    rules = {expert: (str(expert), fp8_dynamic(None)) for expert in range(experts)}
    inputs = ExpertInputs(rules, torch.zeros(experts, 2, dtype=torch.float64))
    expected = experts_at_once(lambda parameter: inputs)(module, *given)

    class Properties:
        total_memory = 32 * 7 * 2 * 4 * width  # of seven tokens

    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Properties)
    with pretended() as device:
        module.up_proj, module.down_proj = module.up_proj.to(device), module.down_proj.to(device)
        there = ExpertInputs(rules, torch.zeros(experts, 2, dtype=torch.float64).to(device))
        found = experts_at_once(lambda parameter: there)(module, *(of.to(device) for of in given)).cpu()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(there.squares.cpu(), inputs.squares, rtol=1e-5, atol=0)
