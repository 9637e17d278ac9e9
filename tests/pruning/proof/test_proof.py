"""The proof of a pruned checkpoint, against plain forwards of both models, and on checkpoints that are wrong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning.anatomy import dissect
from pruning.choosing.plan_file import PruningPlan
from pruning.proof.proof import Proof, overall, prove
from pruning.proof.structure import check_structure
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.runner.whole_model import load_model
from tests.moe_families import make_moe
from tests.pruning.made import DEMO, pruned, silent

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")


def some_texts() -> dict[str, tuple[torch.Tensor, ...]]:
    draw = torch.Generator().manual_seed(5)

    def window(length: int) -> torch.Tensor:
        return torch.randint(4, 2048, (length,), generator=draw)

    return {"prose": (window(40), window(40), window(17)), "code": (window(33),)}


def proof_of(folder: Path, out: Path, plan: PruningPlan, texts: dict[str, tuple[torch.Tensor, ...]]) -> Proof:
    source = open_source(folder)
    return prove(source, open_source(out), dissect(source), plan.kept, texts, device=CPU, progress=silent)


def test_cost_is_that_of_plain_forwards(tmp_path: Path) -> None:
    plan = pruned(DEMO, tmp_path / "out")
    texts = some_texts()
    proof = proof_of(DEMO, tmp_path / "out", plan, texts)
    assert proof.sound
    assert proof.tokens == 130
    assert all(layer.largest < 1e-5 for layer in proof.layers)
    before, after = (load_model(open_source(f), dtype=torch.float32, device=CPU) for f in (DEMO, tmp_path / "out"))
    for domain, windows in texts.items():
        kl, nll, same, tokens = 0.0, 0.0, 0, 0
        for window in windows:
            with torch.inference_mode():
                p, q = (m(input_ids=window[None]).logits[0, :-1].double().log_softmax(-1) for m in (before, after))
            for token, row, other in zip(window[1:].tolist(), p, q, strict=True):
                kl += float((row.exp() * (row - other)).sum())
                nll -= float(other[token])
                same += int(row.argmax() == other.argmax())
                tokens += 1
        cost = proof.costs[domain]
        assert cost.tokens == tokens
        assert cost.kl == pytest.approx(kl / tokens, rel=1e-4)
        assert cost.nll_after == pytest.approx(nll / tokens, rel=1e-5)
        assert cost.top1 == pytest.approx(same / tokens)


def test_all_domains_together_weigh_by_tokens(tmp_path: Path) -> None:
    plan = pruned(DEMO, tmp_path / "out")
    costs = proof_of(DEMO, tmp_path / "out", plan, some_texts()).costs
    found = overall(costs)
    assert found.tokens == 94 + 32
    assert found.kl == pytest.approx((94 * costs["prose"].kl + 32 * costs["code"].kl) / 126)


@pytest.mark.parametrize(
    "tensor",
    [
        "model.layers.1.block_sparse_moe.gate.weight",
        "model.layers.0.block_sparse_moe.e_score_correction_bias",
        "model.layers.1.block_sparse_moe.experts.2.w2.weight",
    ],
)
def test_a_wrong_tensor_is_found_in_its_layer(tensor: str, tmp_path: Path) -> None:
    """Router rows, biases or an expert in another order than the plan's."""
    plan = pruned(DEMO, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    weights = load_file(path)
    if "experts" in tensor:
        weights[tensor] = weights[tensor.replace("experts.2", "experts.0")].clone()
    else:
        weights[tensor] = weights[tensor].flip(0)
    save_file(weights, path, {"format": "pt"})
    proof = proof_of(DEMO, tmp_path / "out", plan, some_texts())
    assert not proof.sound
    wrong = [layer.layer for layer in proof.layers if layer.differing]
    assert wrong == [int(tensor.split(".")[2])]


def test_dense_layers_and_groups_are_compared_as_well(tmp_path: Path) -> None:
    folder = make_moe("deepseek_v3", tmp_path / "model")
    plan = pruned(folder, tmp_path / "out")
    texts = {"noise": tuple(window % 96 for window in some_texts()["prose"])}
    proof = proof_of(folder, tmp_path / "out", plan, texts)
    assert [layer.layer for layer in proof.layers] == [0, 1, 2, 3]
    assert proof.sound


def test_structure_counts_what_is_on_disk(tmp_path: Path) -> None:
    pruned(DEMO, tmp_path / "out", {0: (0, 1, 2), 1: (0, 1, 2)})
    _, structure = check_structure(tmp_path / "out", open_source(DEMO))
    assert structure.config == 3
    for entry in structure.layers:
        block = f"model.layers.{entry.layer}.block_sparse_moe"
        assert entry.experts == 3
        assert entry.vectors == {f"{block}.gate.weight": 3, f"{block}.e_score_correction_bias": 3}


@pytest.mark.parametrize("name", ["gate.weight", "e_score_correction_bias", "experts.2.w1.weight"])
def test_a_folder_that_disagrees_with_itself_is_refused(name: str, tmp_path: Path) -> None:
    pruned(DEMO, tmp_path / "out", {0: (0, 1, 2), 1: (0, 1, 2)})
    path, full = tmp_path / "out" / "model.safetensors", f"model.layers.1.block_sparse_moe.{name}"
    weights = load_file(path)
    if "experts" in name:
        del weights[full]
    else:
        weights[full] = load_file(DEMO / "model.safetensors")[full]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(SixfoldError, match=r"model.layers.1"):
        check_structure(tmp_path / "out", open_source(DEMO))
