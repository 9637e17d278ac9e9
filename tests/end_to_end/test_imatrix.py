"""From a file of llama-imatrix to GGUF files with a card, as a user does it, and what other formats say to it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.main import run
from sixfold.artifact.workspace import sha256_of
from sixfold.model.source import open_source
from tests.calibration.test_calibrate import DEMO, entries
from tests.calibration.test_from_imatrix import matrix_of
from tests.end_to_end.test_all_formats import sixfold
from tests.exporters.ggml.gguf_tools import keys_of, tensors_of

SMALL = ("--set", "calibration.samples=4", "--set", "calibration.length=64", "--set", "calibration.sample_rows=8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """(matrix, output root, what `sixfold export` says of awq and a GGUF)."""
    root = tmp_path_factory.mktemp("artifacts")
    matrix = matrix_of(open_source(DEMO), root)
    calibrated = sixfold("calibrate", str(DEMO), "--from", str(matrix), "--out", str(root))
    assert [row["state"] for row in calibrated] == ["made"]
    arguments = ("awq", "gguf-q4_k_m", "gguf-q8_0", "--set", f"calibration.imatrix={matrix}", "--out", str(root))
    return matrix, root, sixfold("export", str(DEMO), *arguments, code=1)


def test_gguf_is_weighted_by_it(made: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    matrix, root, rows = made
    assert [row["state"] for row in rows] == ["failed", "made", "made"]
    folder = Path(rows[1]["folder"])
    keys = keys_of(folder / "minimax-m2-4.6m-Q4_K_M.gguf")
    manifest = json.loads((folder / "minimax-m2-4.6m-Q4_K_M.gguf.manifest.json").read_text())
    assert manifest["recipe"]["calibration"]["imatrix"] == str(matrix)
    kept = f"imatrix-{sha256_of(matrix)[:8]}.gguf"
    assert {key: value for key, value in keys.items() if "imatrix" in key} == {
        "quantize.imatrix.file": kept,
        "quantize.imatrix.dataset": "a.txt",
        "quantize.imatrix.entries_count": len(entries(matrix)) // 2,
        "quantize.imatrix.chunks_count": 64,
    }
    assert (folder / kept).read_bytes() == matrix.read_bytes()
    assert not any("imatrix" in key for key in keys_of(folder / "minimax-m2-4.6m-Q8_0.gguf"))
    plain = root / "plain"
    sixfold("export", str(DEMO), "gguf-q4_k_m", "--set", "options.imatrix=false", "--out", str(plain))
    unweighted = next(plain.glob("*/*/*-Q4_K_M.gguf"))
    assert tensors_of(unweighted) != tensors_of(folder / "minimax-m2-4.6m-Q4_K_M.gguf")


def test_the_card_says_whose_it_is(made: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    matrix, _, rows = made
    card = (Path(rows[1]["folder"]) / "README.md").read_text()
    assert "**Importance matrix** (Q4_K_M): made elsewhere" in card
    assert f"(`imatrix.gguf`, sha256 `{sha256_of(matrix)[:16]}`), of 64 chunks of 512 tokens, from a.txt" in card
    assert "Calibration" not in card


def test_formats_that_need_more_say_so(made: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    matrix, _, rows = made
    assert rows[0]["error"] == (
        "awq needs what a calibration pass measures, and calibration.imatrix takes only sums of squares from"
        f" {matrix}; leave calibration.imatrix out for it, or make only the gguf formats."
    )


def test_pruning_says_so_before_anything_is_read(
    made: tuple[Path, Path, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix, _, _ = made
    command = ["prune", str(DEMO), "--ratio", "0.25", "--out", str(tmp_path / "out")]
    assert run([*command, "--set", f"calibration.imatrix={matrix}"]) == 2
    message = capsys.readouterr().err
    assert f"and calibration.imatrix takes only sums of squares from {matrix}; leave calibration.imatrix out" in message
    assert not (tmp_path / "out").exists()


def test_plan_reads_the_matrix_and_predicts_no_pass(
    made: tuple[Path, Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    matrix, _, rows = made
    planned = sixfold("plan", str(DEMO), "gguf-q4_k_m", "--set", f"calibration.imatrix={matrix}")
    assert planned["calibration_memory"] == []
    assert planned["variants"][0]["bytes"] == rows[1]["bytes"]
    assert run(["plan", str(DEMO), "gguf-q4_k_m", "--set", "calibration.imatrix=nowhere.gguf"]) == 1
    assert "the importance matrix nowhere.gguf cannot be read: No such file" in capsys.readouterr().out


def test_the_same_numbers_give_the_same_bytes_whoever_summed_them(tmp_path: Path) -> None:
    """Our own imatrix.gguf, given back as somebody else's."""
    nearest = ("--set", "rounding=nearest")  # a matrix has no second moments to compensate with
    ours = sixfold("export", str(DEMO), "gguf-iq4_xs", "--out", str(tmp_path / "a"), *SMALL, *nearest)
    matrix = Path(ours[0]["folder"]) / "imatrix.gguf"
    theirs = sixfold(
        "export", str(DEMO), "gguf-iq4_xs", "--out", str(tmp_path / "b"), "--set", f"calibration.imatrix={matrix}"
    )
    first, second = (Path(rows[0]["folder"]) / "minimax-m2-4.6m-IQ4_XS.gguf" for rows in (ours, theirs))
    assert tensors_of(first) == tensors_of(second)


def test_coverage_is_told_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", str(DEMO), "--out", str(tmp_path), *SMALL, "--set", "calibration.min_tokens=60"]
    (told,) = sixfold(*arguments)
    coverage = json.loads((Path(told["folder"]) / "manifest.json").read_text())["coverage"]
    for row, layer in zip(told["coverage"], coverage, strict=True):
        tokens = np.array(layer["tokens"])
        assert row["layer"] == layer["layer"]
        assert (row["least"], row["median"], row["most"]) == (tokens.min(), np.median(tokens), tokens.max())
        assert row["starved"] == {str(e): int(n) for e, n in enumerate(tokens) if n < 60}
    assert any(row["starved"] for row in told["coverage"])
    assert Path(told["coverage_map"]).is_file()
    assert run(arguments) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "layer experts least median most starved (tokens)" in lines
    for row in told["coverage"]:
        assert any(line.startswith(f"{row['layer']} 8 {row['least']} {round(row['median'])} ") for line in lines)


def test_layers_that_transformers_does_not_run_are_told_of_by_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A multi-token prediction layer behind the last: kept where the format can hold it, left out of GGUF."""
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    for name in [name for name in weights if name.startswith("model.layers.1.")]:
        weights[name.replace("layers.1.", "layers.2.")] = weights[name].clone()
    weights["model.layers.2.eh_proj.weight"] = torch.zeros(256, 512, dtype=torch.bfloat16)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    behind = sum(name.startswith("model.layers.2.") for name in weights)
    out = ("--out", str(tmp_path / "out"), *SMALL)
    (told,) = sixfold("calibrate", str(model), *out)
    assert len(told["without_statistics"]) == behind
    assert told["notes"][-1] == (
        f"no statistics for model.layers.2 ({behind}), which transformers does not run or no format rounds: formats in"
        " safetensors keep them as they are, and gguf formats leave them out"
    )
    assert run(["calibrate", str(model), *out]) == 0
    assert f"Note: no statistics for model.layers.2 ({behind})" in capsys.readouterr().out
    kept = f"kept as they are (transformers does not run them, so there are no statistics): model.layers.2 ({behind})"
    left = f"left out, as llama.cpp does not run them or computes them itself: model.layers.2 ({behind})"
    for recipe in ("fp8", "nvfp4", "nvfp4-gb10", "awq"):
        (variant,) = sixfold("plan", str(model), recipe)["variants"]
        assert kept in variant["notes"], recipe
        dtypes = {t["name"]: t["encoding"] for t in variant["tensors"] if t["name"].startswith("model.layers.2.")}
        assert len(dtypes) == behind
        assert set(dtypes.values()) == {"copy"}
    (row,) = sixfold("export", str(model), "gguf-q4_k_m", *out)
    assert left in row["notes"]
    assert left[1:] in (Path(row["folder"]) / "README.md").read_text()
    assert not any(name.startswith("blk.2.") for name in tensors_of(next(Path(row["folder"]).glob("*.gguf"))))
