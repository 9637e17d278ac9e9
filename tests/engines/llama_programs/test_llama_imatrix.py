"""The calibration's imatrix.gguf is llama-imatrix's of the same tokens: same names and shapes, same sums.

Run in float32, so that both compute the same model and route every token alike, sums agree closely. As it is in use, in
BF16, some tokens take another expert: then shares of counts and mean squares agree within what is stated here.
"""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration import calibrate as calibration
from calibration.calibrate import calibrate
from calibration.forward_pass import layer_pass
from calibration.texts.tokens import TokenBatches
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration
from tests.calibration.silent import silent
from tests.calibration.test_calibrate import entries
from tests.exporters.ggml.gguf_tools import (
    byte_level_tokenizer,
    export,
    keys_of,
    recipe,
    save_tokenizer,
    spread,
    tensors_of,
)
from tests.exporters.ggml.test_gguf_llama_cpp import MORE_FAMILIES
from tests.families import FAMILIES, make_family

pytestmark = pytest.mark.engines

ROOT = Path(__file__).parents[3]
TEXT = ROOT / "calibration" / "texts" / "heldout" / "english" / "austen_northanger_abbey.txt"
LENGTH, CHUNKS = 128, 24

MODELS: dict[str, dict[str, Any]] = {
    "demo": {},
    "qwen3_moe": {"norm_topk_prob": True},  # what llama.cpp takes it to be, whatever the config says
    "deepseek_v2": {},
    "deepseek_v3": {},
    "glm4_moe": {},
    "llama": {},
}


@pytest.fixture(autouse=True)
def more_families(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, sizes in MORE_FAMILIES.items():
        monkeypatch.setitem(FAMILIES, family, sizes)


def made(name: str, folder: Path) -> Source:
    if name == "demo":
        return open_source(ROOT / "demo" / "minimax-m2-4.6m")
    make_family(name, folder, **MODELS[name])
    spread(folder)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    return open_source(folder)


def windows(source: Source, text: Path, gguf: Path) -> torch.Tensor:
    """The chunks that llama-imatrix cuts: BOS, where the file wants one, takes the place of each one's first token."""
    ids = load_tokenizer(source.checkpoint.folder).encode(text.read_text(), add_special_tokens=False)
    keys = keys_of(gguf)
    bos = keys["tokenizer.ggml.bos_token_id"] if keys.get("tokenizer.ggml.add_bos_token") else None
    ids = ids if bos is None else [bos, *ids]
    found = torch.tensor(ids[: LENGTH * CHUNKS]).view(CHUNKS, LENGTH)
    if bos is not None:
        found[:, 0] = bos
    return found


def llama_imatrix(tools: Path, gguf: Path, text: Path, out: Path, *more: str) -> None:
    exact = ["--flash-attn", "off", "--cache-type-k", "f32", "--cache-type-v", "f32", "--no-ppl", "--threads", "1"]
    sizes = ["--ctx-size", str(LENGTH), "--batch-size", str(LENGTH), "--chunks", str(CHUNKS)]
    command = [tools / "llama-imatrix", "--model", gguf, "--file", text, "--output", out, *sizes, *exact, *more]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def ours(
    source: Source, ids: torch.Tensor, dtype: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, np.ndarray]:
    record = {"samples": CHUNKS, "length": LENGTH, "files": {}}
    monkeypatch.setattr(calibration, "token_batches", lambda *given: TokenBatches(ids, record))
    monkeypatch.setattr(layer_pass, "DTYPE", dtype)
    profile = Calibration(samples=CHUNKS, length=LENGTH, sample_rows=4, min_tokens=1)
    calibrate(source, profile, folder, progress=silent)
    return entries(folder / "imatrix.gguf")


@pytest.mark.parametrize("name", MODELS)
def test_imatrix(name: str, llama_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made(name, tmp_path / "model")
    _, gguf = export(source, recipe("F32"), tmp_path)
    text = tmp_path / "text.txt"
    text.write_text(TEXT.read_text()[:60_000])
    ids = windows(source, text, gguf)
    llama_imatrix(llama_tools, gguf, text, tmp_path / "theirs.gguf")
    # ggml drops dimensions of 1.
    theirs = {key: np.atleast_2d(values) for key, values in entries(tmp_path / "theirs.gguf").items()}
    exact = ours(source, ids, torch.float32, tmp_path / "float32", monkeypatch)
    assert {key: value.shape for key, value in exact.items()} == {key: value.shape for key, value in theirs.items()}
    for key, value in theirs.items():
        if key.endswith(".counts"):
            assert np.array_equal(exact[key], value), key
        else:
            np.testing.assert_allclose(exact[key], value, rtol=2e-4, err_msg=key)
    used = ours(source, ids, torch.bfloat16, tmp_path / "bfloat16", monkeypatch)
    for key in (key for key in theirs if key.endswith(".counts")):
        counts, sums = used[key], key.replace(".counts", ".in_sum2")
        assert np.abs(counts - theirs[key]).max() <= 0.02 * theirs[key].sum(), key
        mean, expected = (m[sums] / np.maximum(m[key], 1) for m in (used, theirs))
        assert np.abs(mean - expected).sum() <= 0.05 * expected.sum(), key


@pytest.mark.parametrize("name", ["demo", "deepseek_v3"])
def test_somebody_elses_matrix_weights_as_llama_quantize_does(name: str, llama_tools: Path, tmp_path: Path) -> None:
    """All tensors and all keys, of a matrix that llama-imatrix wrote, in both of its formats."""
    source = made(name, tmp_path / "model")
    _, gguf = export(source, recipe("F32"), tmp_path)
    _, bf16 = export(source, recipe("BF16"), tmp_path)
    text = tmp_path / "text.txt"
    text.write_text(TEXT.read_text()[:60_000])
    for file, extra in (("theirs.gguf", ()), ("theirs.dat", ("--output-format", "dat"))):
        llama_imatrix(llama_tools, gguf, text, tmp_path / file, *extra)
        profile = Calibration(imatrix=str(tmp_path / file))
        statistics = calibrate(source, profile, tmp_path / f"statistics-{file}", progress=silent).statistics
        for scheme in ("Q4_K_M", "IQ4_XS"):
            wanted = recipe(scheme).model_copy(update={"calibration": profile})
            plan, ours = export(source, wanted, tmp_path / f"ours-{file}", statistics)
            theirs = tmp_path / f"{scheme}-{file}.gguf"
            command = [llama_tools / "llama-quantize", "--imatrix", tmp_path / file, bf16, theirs, scheme, "1"]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace", check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            assert tensors_of(ours) == tensors_of(theirs), (scheme, file)
            found, expected = keys_of(ours), keys_of(theirs)
            # The file is named as it is kept beside ours; llama-quantize notes the path that it was given.
            assert found.pop("quantize.imatrix.file") == statistics.manifest["imatrix"]["kept_as"]
            assert expected.pop("quantize.imatrix.file").startswith(str(tmp_path)[:100])
            assert found == expected
            assert not any("without importance" in note and "blk." in note for note in plan.notes)
