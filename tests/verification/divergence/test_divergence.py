"""Divergence against a literal computation: the whole model in memory, with hooks in place of rules."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.quality.gates import Changed
from cli import main as cli
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source
from sixfold.runner.whole_model import load_model
from sixfold.texts.held_out_text import Windows, held_out
from tests.exporters.exported import DEMO, silent
from tests.few_windows import few_windows
from tests.verification.artifacts import Artifacts
from tests.verification.damage import edit_config
from verification.divergence.activations import Rounding, fp8_dynamic
from verification.divergence.divergence import Divergence, Score, reference_of, scored, worst_layers
from verification.divergence.engine_inputs import can_collapse, folder_rules, gguf_rules
from verification.divergence.plain_run import plain_score
from verification.gates import allowed_of, check_gates
from verification.measure import plain_rules, runs_of
from verification.reading.weights import FolderWeights
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def windows(demo: Source) -> Windows:
    """A few of the held-out windows, of two lengths."""
    found = held_out(load_tokenizer(demo.checkpoint.folder))
    chosen = (0, 1, 2, len(found.ids) - 2, len(found.ids) - 1)
    return Windows(tuple(found.ids[i] for i in chosen), tuple(found.domains[i] for i in chosen), "few")


def literal(
    demo: Source, weights: FolderWeights | None, windows: Windows, rounding: Rounding | None
) -> list[torch.Tensor]:
    """Log-probabilities of every window by transformers' own model with all weights in memory."""

    def read(part: TensorSlice) -> torch.Tensor:
        if weights is None:
            return demo.checkpoint.read(part).float()
        return weights.read(part.name).reshape(demo.checkpoint.tensors[part.name].shape)

    contents = replace(demo.checkpoint.contents, read=read)
    source = Source(replace(demo.checkpoint, contents=contents), demo.architecture)
    model = load_model(source, dtype=torch.float32, device=CPU)
    if rounding is not None:
        _round_inputs(model, rounding)
    with torch.inference_mode():
        return [model(ids.unsqueeze(0), use_cache=False).logits[0].log_softmax(-1) for ids in windows.ids]


def _round_inputs(model: Any, rounded: Rounding) -> None:
    """Every attention Linear and every expert reads rounded inputs: experts computed one by one, as the definition
    says."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "self_attn" in name:
            module.register_forward_pre_hook(lambda _, arguments: (rounded(arguments[0]),))
        if name.endswith(".experts"):
            module.forward = _experts(module, rounded)


def _experts(module: Any, rounded: Any) -> Any:
    def forward(hidden: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        result = torch.zeros_like(hidden)
        for token in range(len(hidden)):
            for expert, gate in zip(chosen[token].tolist(), gates[token], strict=True):
                up = module.gate_up_proj[expert] @ rounded(hidden[token])
                a, b = up.chunk(2)
                result[token] += gate * (module.down_proj[expert] @ rounded(nn.functional.silu(a) * b))
        return result

    return forward


def bent(x: torch.Tensor) -> torch.Tensor:
    """Moves inputs about as far as FP8 does, token by token, but without a jump: what differs in the last bit before
    differs in the last bits after."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    return x + 0.01 * largest * torch.sin(40 * x / largest)


@pytest.mark.parametrize(
    ("rounding", "share", "one", "tokens"),
    [(None, 1e-5, 1e-4, 1), (bent, 1e-5, 1e-4, 1), (fp8_dynamic(None), 0.02, 0.2, 5)],
    ids=["inputs as they are", "inputs bent", "inputs in FP8"],
)
def test_scores_are_those_of_the_whole_model(
    rounding: Rounding | None,
    share: float,
    one: float,
    tokens: int,
    artifacts: Artifacts,
    demo: Source,
    windows: Windows,
    tmp_path: Path,
) -> None:
    """share, one: how far mean KL and perplexity, and the largest KL, may be apart; tokens: how many choices.

    The two paths batch tokens and experts differently, so float32 sums differ in their last bits, and each processor
    sums in an order of its own. A score follows as smoothly as the model does: 1e-7 was seen. But an input that lies at
    a tie between two E4M3 numbers goes either way, by a whole step, 1/16 to 1/8 of it. Of the 2,500 or so inputs of a
    token one in some tens of thousands does, which changes the token's KL by about a tenth: the mean over 2,294 tokens
    by parts of a thousand, one token by much more. What a Linear should not have read moves all tokens.
    """
    subject = open_subject(artifacts["fp8"], demo)
    weights = FolderWeights(subject)
    rules = {} if rounding is None else dict.fromkeys(folder_rules(subject), rounding)
    found = scored(demo, weights, rules, windows, reference_of(demo, windows, tmp_path, silent), silent).score
    p = literal(demo, None, windows, None)
    q = literal(demo, weights, windows, rounding)
    kl = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(p, q, strict=True)])
    assert found.mean_kl == pytest.approx(float(kl.mean()), rel=share)
    assert found.max_kl == pytest.approx(float(kl.max()), rel=one)
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(p, q, strict=True)]).float().mean()
    assert found.top1 == pytest.approx(float(same), abs=(tokens + 0.5) / len(kl))
    loss = torch.cat([-b[:-1].gather(-1, w[1:, None]) for b, w in zip(q, windows.ids, strict=True)]).mean()
    assert found.perplexity == pytest.approx(float(loss.exp()), rel=share)


def test_an_fp8_artifact_has_its_inputs_rounded_to_fp8(artifacts: Artifacts, demo: Source) -> None:
    """What the test above exchanges for other functions."""
    inputs = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    for rule in folder_rules(open_subject(artifacts["fp8"], demo)).values():
        assert torch.equal(rule(inputs), fp8_dynamic(None)(inputs))


def test_the_source_does_not_diverge_from_itself(demo: Source, windows: Windows, tmp_path: Path) -> None:
    reference = reference_of(demo, windows, tmp_path, silent)
    found = scored(demo, FolderWeights(open_subject(DEMO, demo)), {}, windows, reference, silent).score
    assert (found.mean_kl, found.top1, found.top5) == (0, 1, 1)
    assert found.perplexity == found.source_perplexity
    assert set(found.layers) == {0.0}


def test_the_sources_run_is_kept(demo: Source, windows: Windows, tmp_path: Path) -> None:
    first = reference_of(demo, windows, tmp_path, silent)
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    second = reference_of(demo, windows, tmp_path, silent)
    assert torch.equal(first.final, second.final)
    assert kept.stat().st_mtime_ns == before
    assert first.final.shape == (windows.tokens, 256)


def test_more_bits_diverge_less(artifacts: Artifacts, demo: Source, windows: Windows, tmp_path: Path) -> None:
    reference = reference_of(demo, windows, tmp_path, silent)

    def mean(variant: str, *, inputs: bool = False) -> float:
        if variant.startswith("gguf"):
            file = open_gguf_subject(artifacts[variant], demo)
            return scored(
                demo, file.weights, gguf_rules(file) if inputs else {}, windows, reference, silent
            ).score.mean_kl
        subject = open_subject(artifacts[variant], demo)
        rules = folder_rules(subject) if inputs else {}
        return scored(demo, FolderWeights(subject), rules, windows, reference, silent).score.mean_kl

    assert mean("gguf-q8_0") < mean("gguf-q6_k") < mean("gguf-q4_k_m") < mean("gguf-q3_k_m")
    assert mean("fp8") < mean("nvfp4") < mean("nvfp4-gb10", inputs=True)
    assert mean("gguf-q8_0") < mean("gguf-q8_0", inputs=True)


def test_only_experts_with_fixed_scales_can_be_collapsed(artifacts: Artifacts, demo: Source) -> None:
    subject = open_subject(artifacts["nvfp4-gb10"], demo)
    assert can_collapse(subject)
    assert folder_rules(subject).keys() == folder_rules(subject, collapsed=True).keys()
    assert not can_collapse(open_subject(artifacts["nvfp4"], demo))
    assert folder_rules(open_subject(artifacts["nvfp4"], demo)) == {}


def _divergence(mean_kl: float, top1: float) -> Divergence:
    scored = Score(mean_kl, 0.0, 0.0, 0.0, top1, 1.0, 2.0, 2.0, (), {})
    return Divergence({"weights": replace(scored, mean_kl=0.0), "engine": scored}, 1, 1)


@pytest.mark.parametrize(
    ("gates", "failed"),
    [
        ({"max_mean_kl": 0.2, "min_top1": 0.7}, []),
        ({"max_mean_kl": 0.05, "min_top1": 0.7}, ["gates.max_mean_kl"]),
        ({"max_mean_kl": 0.05, "min_top1": 0.95}, ["gates.max_mean_kl", "gates.min_top1"]),
        ({"max_mean_kl": None, "min_top1": None}, []),
    ],
)
def test_gates_hold_what_a_user_gets(gates: Mapping[str, Any], failed: list[str]) -> None:
    assert [finding.where for finding in check_gates(_divergence(0.1, 0.9), gates)] == failed


def test_a_relative_gate_follows_what_plain_rounding_costs() -> None:
    held = _divergence(0.1, 0.9)
    plain = replace(held.as_run, mean_kl=0.09)
    assert list(check_gates(replace(held, plain=plain), {"max_kl_ratio": 1.25})) == []
    assert allowed_of(plain, {"max_kl_ratio": 1.25})["max_mean_kl"] == pytest.approx(0.11251)
    assert allowed_of(plain, {"max_kl_ratio": 1.25, "max_mean_kl": 0.1})["max_mean_kl"] == 0.1
    plain = replace(plain, mean_kl=0.07)
    (finding,) = check_gates(replace(held, plain=plain), {"max_kl_ratio": 1.25})
    assert (finding.where, "0.10000" in finding.what, "0.07000" in finding.what) == ("gates.max_kl_ratio", True, True)


def test_a_layer_that_is_worse_than_plain_rounding_is_named() -> None:
    held = _divergence(0.1, 0.9)
    held = replace(held, scores={**held.scores, "engine": replace(held.as_run, layers=(0.02, 0.1))})
    plain = replace(held.as_run, layers=(0.02, 0.07))
    (finding,) = check_gates(replace(held, plain=plain), {"max_kl_ratio": 1.25})
    assert "behind layer 1" in finding.what


@pytest.mark.parametrize("variant", ["fp8", "gguf-q4_k_m"])
def test_exchanged_experts_fail_the_gate_and_sound_ones_pass(
    variant: str, artifacts: Artifacts, demo: Source, windows: Windows, tmp_path: Path
) -> None:
    """Made where the weights are read, so that no check but the answers can tell."""
    weights, runs = runs_of(artifacts[variant], demo)
    reference = reference_of(demo, windows, tmp_path, silent)
    rules = plain_rules(artifacts[variant], demo)
    plain = plain_score(demo, weights, rules, windows, reference, tmp_path, silent)
    one, other = (f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight" for expert in (2, 5))
    exchanged = Changed(weights, {one: lambda read: read(other), other: lambda read: read(one)})
    for held, stopped in ((weights, False), (exchanged, True)):
        score = scored(demo, held, runs["engine"], windows, reference, silent).score
        divergence = Divergence({"weights": score}, 1, 1, plain)
        assert any(check_gates(divergence, {"max_kl_ratio": 1.25})) == stopped


def test_what_plain_rounding_costs_is_measured_once(
    artifacts: Artifacts, demo: Source, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = runs_of(artifacts["nvfp4"], demo)
    reference = reference_of(demo, windows, tmp_path, silent)
    first = plain_score(demo, weights, {}, windows, reference, tmp_path, silent)
    monkeypatch.setattr("verification.divergence.plain_run.scored", None)
    assert plain_score(demo, weights, {}, windows, reference, tmp_path, silent) == first


def test_no_number_passes_a_gate() -> None:
    assert len(list(check_gates(_divergence(float("nan"), float("nan")), {"max_mean_kl": 1.0, "min_top1": 0.1}))) == 2


def test_a_failed_gate_is_exit_code_3(artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    folder = tmp_path / "artifacts" / "gated"
    shutil.copytree(artifacts["fp8"], folder)
    edit_config(folder, lambda m: m["recipe"].update(gates={"max_mean_kl": 0.001, "min_top1": None}), "manifest.json")
    with few_windows("verification.measure.held_out"):
        assert cli.run(["verify", str(folder), "--against", str(DEMO)]) == 3
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "failed: gates.max_mean_kl: the mean KL is 0.0" in last


def test_layers_by_what_they_add() -> None:
    assert worst_layers([0.1, 0.15, 0.5]) == [(2, pytest.approx(0.35)), (0, 0.1), (1, pytest.approx(0.05))]
