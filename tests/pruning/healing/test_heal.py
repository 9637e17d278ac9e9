"""A healed checkpoint: nearer to the original, equal to the pruned one but for what was refitted, resumable."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning.anatomy import dissect
from pruning.healing import heal as walk
from pruning.healing.block import adds_up
from pruning.healing.refit import Fit
from pruning.healing.refitted import check_refitted
from pruning.healing.seen import Seen
from pruning.healing.text import Text
from pruning.pruned_view import pruned_view
from pruning.run import prune, verify
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.runner.layer_runner import LayerRunner
from sixfold.runner.whole_model import load_model
from tests.moe_families import make_moe
from tests.pruning.made import plan_of, silent, some_experts

pytestmark = pytest.mark.arithmetic

VOCABULARY = 96
CPU = torch.device("cpu")


def text() -> Text:
    ids = torch.randint(0, VOCABULARY, (24, 160), generator=torch.Generator().manual_seed(3))
    return Text(ids, torch.arange(VOCABULARY))


def healed(folder: Path, out: Path) -> Any:
    """The verdict on `out`, pruned and healed."""
    source = open_source(folder)
    anatomy = dissect(source)
    plan = replace(plan_of(source, anatomy, some_experts(anatomy)), healing={"profile": {"samples": 24, "length": 160}})
    prune(source, anatomy, plan, "drop", out, threads=1, progress=silent, text=text())
    texts = {"noise": tuple(torch.randint(0, VOCABULARY, (4, 48), generator=torch.Generator().manual_seed(4)))}
    return verify(source, anatomy, plan, "drop", out, texts, progress=silent)


@pytest.fixture(scope="module")
def minimax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, and out/, which is healed."""
    root = tmp_path_factory.mktemp("healed")
    healed(make_moe("minimax_m2", root / "model"), root / "out")
    return root


@pytest.mark.parametrize(
    "model_type",
    ["minimax_m2", "deepseek_v3", "gpt_oss"],
    ids=["bias of the router", "shared experts and a dense layer", "experts stacked on disk, transposed, with biases"],
)
def test_every_block_is_nearer_to_the_original(model_type: str, minimax: Path, tmp_path: Path) -> None:
    root = minimax if model_type == "minimax_m2" else tmp_path
    if root is tmp_path:
        healed(make_moe(model_type, root / "model"), root / "out")
    verdict = json.loads((root / "out" / "verification.json").read_text())
    assert verdict["passed"]
    assert verdict["masked"]["sound"]
    record = json.loads((root / "out" / "healing.json").read_text())
    layers = [entry["layer"] for entry in record["layers"]]
    assert layers == list(dissect(open_source(root / "model")).layers)
    assert all(entry["after"] < entry["before"] for entry in record["layers"] if entry["damping"])
    assert any(entry["damping"] for entry in record["layers"])
    assert [change["layer"] for change in verdict["healed"]["layers"]] == layers
    assert verdict["cost"]["all"]["kl"] < verdict["healed"]["plain"]["all"]["kl"]
    assert json.loads((root / "out" / "manifest.json").read_text())["device"] == "cpu"


def test_the_cost_is_that_of_the_written_weights(minimax: Path) -> None:
    cost = json.loads((minimax / "out" / "verification.json").read_text())["cost"]["noise"]
    windows = torch.randint(0, VOCABULARY, (4, 48), generator=torch.Generator().manual_seed(4))
    before, after = (
        load_model(open_source(minimax / name), dtype=torch.float32, device=CPU) for name in ("model", "out")
    )
    with torch.inference_mode():
        p, q = (m(input_ids=windows, use_cache=False).logits[:, :-1].log_softmax(-1) for m in (before, after))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    assert cost["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)


def test_a_killed_walk_ends_in_the_same_bytes(minimax: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = minimax / "model"
    refit, seen = walk.refit, []

    def dies_in_the_third_layer(*given: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return refit(*given)

    monkeypatch.setattr(walk, "refit", dies_in_the_third_layer)
    with pytest.raises(KeyboardInterrupt):
        healed(folder, tmp_path / "again")
    assert not (tmp_path / "again" / "manifest.json").exists()
    healed(folder, tmp_path / "again")
    assert len(seen) == 5, "the first two of four layers were not refitted again"
    for name in ("model.safetensors", "healing.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (minimax / "out" / name).read_bytes(), name
    assert not list((tmp_path / "again").glob(".*"))


def test_what_is_missing_is_all_that_the_layer_does_not_give(
    minimax: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of earlier layers too, which are left as they are here."""
    missing = []

    def seen(module: Any, what: Seen, stored: torch.dtype) -> Fit:
        missing.append(what.missing.clone())
        return Fit(None, 1.0, 0.0, 0.0)

    source = open_source(minimax / "model")
    anatomy = dissect(source)
    plan = plan_of(source, anatomy, some_experts(anatomy))
    prune(source, anatomy, plan, "drop", tmp_path / "out", threads=1, progress=silent)
    view = pruned_view(source, anatomy, plan, "drop")
    monkeypatch.setattr(walk, "refit", seen)
    walk.heal(source, view, anatomy.layers, text(), tmp_path / "work", key="", device=CPU, progress=silent)
    models = (load_model(s, dtype=torch.float32, device=CPU) for s in (source, open_source(tmp_path / "out")))
    ids = torch.cat([text().ids, text().random])
    with torch.inference_mode():
        layers = [{**_outputs(model, ids)} for model in models]
    for layer, found in zip(anatomy.layers, missing, strict=True):
        expected = (layers[0][layer] - layers[1][layer]).flatten(0, -2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _outputs(model: Any, ids: torch.Tensor) -> dict[int, torch.Tensor]:
    """What each decoder layer gives."""
    given = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda module, read, out, number=number: given.__setitem__(number, out))
    model(input_ids=ids, use_cache=False)
    return given


@pytest.mark.parametrize(
    ("model_type", "added"),
    [("minimax_m2", True), ("deepseek_v3", True), ("gpt_oss", True), ("granitemoe", False), ("hy_v4", False)],
    ids=["alone", "beside shared experts", "with biases", "scaled before they are added", "to several streams"],
)
def test_whether_what_experts_give_is_added_as_it_is(model_type: str, added: bool, tmp_path: Path) -> None:
    more = {"residual_multiplier": 0.22} if model_type == "granitemoe" else {}
    source = open_source(make_moe(model_type, tmp_path / "model", **more))
    runner = LayerRunner(source, dtype=torch.float32, device=CPU, ahead=False)
    with torch.inference_mode():
        with runner.outside():
            hidden = runner.start(text().ids)
        for layer, _ in runner.each_layer(0):
            if layer == dissect(source).layers[0]:
                assert adds_up(runner, layer, text().ids, hidden) == added
            hidden = runner.run(layer, text().ids, hidden)


def _other(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[name] = change(weights[name])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


BLOCK = "model.layers.1.block_sparse_moe"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other(f"{BLOCK}.gate.weight", lambda w: w.flip(0)), "gate.weight differs from the original's"),
        (_other("model.layers.1.self_attn.q_proj.weight", lambda w: -w), r"q_proj\.weight differs"),
        (_other(f"{BLOCK}.experts.2.w1.weight", lambda w: w * torch.nan), r"w1\.weight has values that are no numbers"),
        (_other(f"{BLOCK}.experts.2.w2.weight", lambda w: w * torch.nan), r"w2\.weight has values that are no numbers"),
    ],
)
def test_only_projections_of_experts_may_differ(
    damage: Callable[[Path], None], message: str, minimax: Path, tmp_path: Path
) -> None:
    source = open_source(minimax / "model")
    anatomy = dissect(source)
    plan = plan_of(source, anatomy, some_experts(anatomy))
    prune(source, anatomy, plan, "drop", tmp_path / "out", threads=1, progress=silent)
    view = pruned_view(source, anatomy, plan, "drop")
    out = open_source(tmp_path / "out")
    assert all(change.largest == 0 for change in check_refitted(out, view, dissect(out), silent))
    damage(tmp_path / "out")
    out = open_source(tmp_path / "out")
    with pytest.raises(SixfoldError, match=message):
        check_refitted(out, view, dissect(out), silent)


def test_what_was_not_refitted_is_another_checkpoint(minimax: Path, tmp_path: Path) -> None:
    shutil.copytree(minimax / "out", tmp_path / "out")
    source = open_source(minimax / "model")
    anatomy = dissect(source)
    plain = plan_of(source, anatomy, some_experts(anatomy))
    again = replace(plain, healing={"profile": {"samples": 24, "length": 160}})
    assert prune(source, anatomy, again, "drop", tmp_path / "out", threads=1, progress=silent, text=text()).skipped
    made = prune(source, anatomy, plain, "drop", tmp_path / "out", threads=1, progress=silent)
    assert not made.skipped
    assert not (tmp_path / "out" / "healing.json").exists()


def test_gates_and_ups_that_cannot_be_written_stay(minimax: Path, tmp_path: Path) -> None:
    """Tensors of two dtypes become one parameter in layer 1."""
    shutil.copytree(minimax / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: w.half() if name.startswith(BLOCK) and ".w1." in name else w for name, w in weights.items()},
        tmp_path / "model" / "model.safetensors",
        {"format": "pt"},
    )
    healed(tmp_path / "model", tmp_path / "out")
    source = open_source(tmp_path / "model")
    anatomy = dissect(source)
    view = pruned_view(source, anatomy, plan_of(source, anatomy, some_experts(anatomy)), "drop")
    plain, made = view.checkpoint.as_stored, load_file(tmp_path / "out" / "model.safetensors")
    moved = {
        name
        for name, tensor in dissect(open_source(tmp_path / "out")).tensors.items()
        if tensor.expert == 0 and not torch.equal(made[name], plain.read(TensorSlice(name, 0, len(made[name]))))
    }
    expected = {f"model.layers.{layer}.block_sparse_moe.experts.0.w{n}.weight" for layer in range(4) for n in (1, 2, 3)}
    assert moved == expected - {f"{BLOCK}.experts.0.w{n}.weight" for n in (1, 3)}
