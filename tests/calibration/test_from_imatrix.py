"""Somebody else's importance matrix in place of a pass: what is taken over, and what is refused."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from calibration.calibrate import Calibrated, calibrate
from calibration.imatrix import write_imatrix
from sixfold.errors import SixfoldError
from sixfold.model.gguf.tensor_names import gguf_tensor_names
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration
from tests.calibration.silent import silent
from tests.calibration.test_calibrate import DEMO, entries
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, random_statistics, recipe, save_tokenizer
from tests.families import make_family

Entries = Mapping[str, np.ndarray]


def matrix_of(source: Source, folder: Path) -> Path:
    """As a calibration elsewhere would have left it; the last expert of every layer saw what the others did."""
    write_imatrix(random_statistics(source, folder / "elsewhere"), source, folder / "imatrix.gguf")
    return folder / "imatrix.gguf"


def rewritten(path: Path, change: Callable[[dict[str, np.ndarray]], Entries]) -> Path:
    """The same file with other entries."""
    found = {name: np.atleast_2d(values) for name, values in entries(path).items()}
    target = path.with_name("changed.gguf")
    writer = gguf.GGUFWriter(target, "imatrix")
    for name, values in change(found).items():
        writer.add_tensor(name, np.array(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def take(source: Source, matrix: Path, folder: Path) -> Calibrated:
    return calibrate(source, Calibration(imatrix=str(matrix)), folder, progress=silent)


@pytest.mark.parametrize("family", ["demo", "deepseek_v3"])
def test_every_weight_has_the_matrix_own_numbers_under_our_names(family: str, tmp_path: Path) -> None:
    source = open_source(DEMO if family == "demo" else make_family(family, tmp_path / "model"))
    matrix = matrix_of(source, tmp_path)
    done = take(source, matrix, tmp_path / "out")
    stored = {name: np.atleast_2d(values) for name, values in entries(matrix).items()}
    linears = {linear.weight: linear for linear in source.architecture.linears if linear.layer is not None}
    seen = set()
    for weight, name in gguf_tensor_names(source.checkpoint.config, linears).items():
        linear = linears[weight]
        if linear.part == "kv_b_proj":
            for gguf_name, half in (("attn_k_b", "query"), ("attn_v_b", "attended")):
                key = name.replace("attn_kv_b", gguf_name)
                found = done.statistics.head_inputs(linear.name, linear.layer or 0, half)
                assert found is not None
                assert np.array_equal(found.sum_sq.reshape(1, -1), stored[f"{key}.in_sum2"])
                assert found.count == stored[f"{key}.counts"]
                seen.add(key)
            continue
        site, expert = done.statistics.place_of(linear.name)
        found = done.statistics.site(site, ("sum_sq", "count"))
        row = expert if expert is not None else 0
        assert np.array_equal(found["sum_sq"].view(-1, linear.in_features)[row], stored[f"{name}.in_sum2"][row])
        assert int(found["count"].view(-1)[row]) == int(stored[f"{name}.counts"][row, 0])
        seen.add(name)
    assert {f"{name}.{part}" for name in seen for part in ("in_sum2", "counts")} == set(stored)
    manifest = done.statistics.manifest
    assert manifest["imatrix"]["chunks"] == 64
    assert manifest["imatrix"]["file"] == "imatrix.gguf"
    assert "tokens" not in manifest
    assert manifest["without_statistics"] == ["lm_head.weight"]
    counts = stored["blk.1.ffn_down_exps.weight.counts"].reshape(-1)
    assert done.coverage[-1].layer == 1
    assert done.coverage[-1].tokens == tuple(int(n) for n in counts)


def test_it_is_taken_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    source = open_source(DEMO)
    matrix = matrix_of(source, tmp_path)
    first = take(source, matrix, tmp_path / "out")
    assert not first.skipped
    kept = tmp_path / "out" / str(first.statistics.manifest["imatrix"]["kept_as"])
    assert kept.read_bytes() == matrix.read_bytes()
    assert take(source, matrix, tmp_path / "out").skipped
    site, _ = first.statistics.place_of("model.layers.0.self_attn.q_proj")
    once = first.statistics.site(site, ("sum_sq",))["sum_sq"]
    key = "blk.0.attn_q.weight.in_sum2"
    shutil.copy(rewritten(matrix, lambda found: {**found, key: found[key] * 2}), matrix)
    changed = take(source, matrix, tmp_path / "out")
    assert not changed.skipped
    assert "imatrix.sha256 changed" in changed.reasons
    assert not kept.exists()
    assert torch.equal(changed.statistics.site(site, ("sum_sq",))["sum_sq"], 2 * once)
    assert changed.statistics.digest != first.statistics.digest


def test_a_matrix_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    source = open_source(DEMO)
    matrix = matrix_of(source, tmp_path)

    def refused(change: Callable[[dict[str, np.ndarray]], Entries], message: str) -> None:
        with pytest.raises(SixfoldError, match=message) as caught:
            take(source, rewritten(matrix, change), tmp_path / "out")
        assert "take one that llama-imatrix made from this model's own GGUF" in caught.value.remedy
        assert not (tmp_path / "out" / "manifest.json").exists()

    refused(lambda e: {k: v for k, v in e.items() if "blk.1.attn_q" not in k}, r"has none for blk\.1\.attn_q\.weight;")
    refused(
        lambda e: {k.replace("blk.1.", "blk.2."): v for k, v in e.items()},
        r"has entries that no tensor of minimax-m2-4.6m has: blk\.2\.attn_k\.weight, .* 5 more and none for blk\.1\.",
    )
    for part, wrong in (("in_sum2", np.ones((16, 256))), ("counts", np.ones((16, 1)))):
        other = "counts" if part == "in_sum2" else "in_sum2"
        refused(
            lambda e, part=part, wrong=wrong, other=other: {
                **e,
                f"blk.0.ffn_down_exps.weight.{part}": wrong,
                f"blk.0.ffn_down_exps.weight.{other}": np.ones((16, 1 if other == "counts" else 256)),
            },
            r"has 4096 sums and 16 counts for blk\.0\.ffn_down_exps\.weight, where minimax.* has 8 matrices of 256",
        )
    refused(
        lambda e: {**e, "blk.0.attn_output.weight.in_sum2": np.ones((1, 128))},
        r"has 128 sums and 1 counts for blk\.0\.attn_output\.weight, where .* has 1 matrix of 256 columns",
    )


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    source = open_source(DEMO)
    matrix = rewritten(
        matrix_of(source, tmp_path), lambda e: {**e, "blk.0.attn_q.weight.in_sum2": np.full((1, 256), np.nan)}
    )
    with pytest.raises(SixfoldError, match=r"blk\.0\.attn_q\.weight are negative, or not finite"):
        take(source, matrix, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_llama_cpp_records_besides_and_routers_may_be_there_or_not(tmp_path: Path) -> None:
    source = open_source(DEMO)
    matrix = matrix_of(source, tmp_path)
    more = {"output.weight.in_sum2": np.ones((1, 256)), "output.weight.counts": np.full((1, 1), 9.0)}
    done = take(source, rewritten(matrix, lambda e: {**e, **more}), tmp_path / "a")
    assert done.statistics.has("lm_head")
    assert done.statistics.manifest["without_statistics"] == []
    done = take(
        source, rewritten(matrix, lambda e: {k: v for k, v in e.items() if "gate_inp" not in k}), tmp_path / "b"
    )
    assert len(done.statistics.manifest["without_statistics"]) == 3
    assert not done.statistics.has("model.layers.0.block_sparse_moe.gate")


def test_halves_of_kv_b_that_an_old_matrix_lacks_are_rounded_without_and_noted(tmp_path: Path) -> None:
    """llama-imatrix recorded kv_b_proj as a whole before llama.cpp split it; llama-quantize finds nothing then."""
    make_family("deepseek_v3", tmp_path / "model", vocab_size=320)
    save_tokenizer(byte_level_tokenizer([], size=300), tmp_path / "model")
    source = open_source(tmp_path / "model")
    matrix = matrix_of(source, tmp_path)
    whole = {"blk.0.attn_kv_b.weight.in_sum2": np.ones((1, 128)), "blk.0.attn_kv_b.weight.counts": np.ones((1, 1))}
    old = rewritten(matrix, lambda e: {**{k: v for k, v in e.items() if "_b.weight" not in k or "q_b" in k}, **whole})
    profile = Calibration(imatrix=str(old))
    made = recipe("Q4_K_M").model_copy(update={"calibration": profile})
    statistics = calibrate(source, profile, tmp_path / "out", progress=silent).statistics
    plan, _ = export(source, made, tmp_path / "gguf", statistics)
    notes = [note for note in plan.notes if note.startswith("rounded without importance, as there are no statistics")]
    assert len(notes) == 1
    assert notes[0].endswith("read: blk.0.attn_k_b.weight, blk.0.attn_v_b.weight, blk.1.attn_k_b.weight and 1 more")
    unweighted = [unit.outputs[0].name for unit in plan.units if unit.layer is None]
    assert {"blk.0.attn_k_b.weight", "blk.1.attn_v_b.weight"} <= set(unweighted)


def test_what_only_a_pass_measures_is_refused_with_the_remedy(tmp_path: Path) -> None:
    source = open_source(DEMO)
    statistics = take(source, matrix_of(source, tmp_path), tmp_path / "out").statistics
    asked: dict[str, Callable[[], object]] = {
        "samples": lambda: statistics.of_linear("model.layers.0.self_attn.q_proj"),
        "abs_max": lambda: statistics.site("model.layers.0.self_attn.q_proj", ("count", "abs_max")),
        "the experts' outputs": lambda: statistics.experts_of(0),
    }
    for what, ask in asked.items():
        with pytest.raises(SixfoldError, match=f"holds sums of squares and not {what}") as caught:
            ask()
        assert caught.value.remedy == "leave calibration.imatrix out, so that a calibration pass is run"
    with pytest.raises(SixfoldError, match="not the experts' outputs"):
        statistics.moe_layers()
