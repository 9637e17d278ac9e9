"""Our divergence of GGUF files is that of `llama-perplexity --kl-divergence`, over the very same tokens.

llama-perplexity cuts one text into windows, and scores the positions LENGTH / 2 to LENGTH - 2 of each. Every layer
looks back only, so sums over these are sums over longer windows less those over shorter ones, and `score` is held
as it is. Its base is a F32 GGUF, which llama.cpp computes without rounding inputs. What is left of a difference are
16 bits for each of the base's log-probabilities, and sums in another order, after which some inputs round to the
neighboring step.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from exporters.mix.gguf_mix import AUTO
from sixfold.model.source import Source, open_source
from sixfold.recipes.budget import Budget
from sixfold.texts.held_out_text import TEXTS, Windows
from tests.engines.dense_model import decide
from tests.exporters.exported import DEMO, silent
from tests.exporters.ggml.gguf_tools import (
    byte_level_tokenizer,
    export,
    keys_of,
    random_statistics,
    recipe,
    save_tokenizer,
    spread,
)
from tests.families import make_family
from verification.divergence.divergence import Score, reference_of, scored
from verification.divergence.engine_inputs import gguf_rules
from verification.structure.gguf.structure import open_gguf_subject

pytestmark = pytest.mark.engines

LENGTH, CHUNKS, CHARACTERS = 512, 16, 10_000
MIXED = 5.2
"""Bits a weight of mixes."""
SCHEMES = ("Q8_0", "Q6_K", "Q4_K_M", "IQ4_XS", "Q3_K_M")
TOLERANCE = {"llama": 0.02, "qwen3_moe": 0.03, "glm4_moe": 0.1, "deepseek_v3": 0.1}
"""Of the mean KL, relative; 0.03 for the bundled model. Routers of random weights decide by less than those of trained
ones, so that a few tokens of these small texts take another expert."""
CLOSE_CALLS = {("deepseek_v3", "Q8_0"): 0.25}
"""In place of that: the less is lost in rounding, the more of the divergence such tokens are. llama.cpp multiplies keys
and values of DeepSeek's attention in another order than transformers, and a random router's groups follow the sums."""


@dataclass(frozen=True)
class Means:
    """Over the positions that llama-perplexity scores. perplexity: of the quantized file; base: of the source."""

    kl: float
    top1: float
    perplexity: float
    base: float


def llama(tools: Path, gguf: Path, base: Path, last: str, *more: str | Path) -> str:
    """What llama-perplexity prints, with `last` (a regular expression) in it: its log is written by a thread, and last
    lines are lost now and then as the program ends. As exact as it can be: no flash attention, a float32 cache."""
    exact = ["--flash-attn", "off", "--cache-type-k", "f32", "--cache-type-v", "f32", "--threads", "1"]
    sizes = ["--ctx-size", str(LENGTH), "--batch-size", str(LENGTH), "--chunks", str(CHUNKS)]
    command = [tools / "llama-perplexity", "--model", gguf, "--kl-divergence-base", base, *sizes, *exact, *more]
    for _ in range(10):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        if re.search(last, done.stdout):
            return done.stdout
    raise AssertionError(f"no {last} in {done.stdout[-3000:]}")


def theirs(tools: Path, gguf: Path, base: Path, perplexity: float) -> Means:
    printed = llama(tools, gguf, base, r"Same top p *: *[\d.]+", "--kl-divergence")

    def number(label: str) -> float:
        found = re.search(rf"^{re.escape(label)} *: +(-?[\d.]+)", printed, re.MULTILINE)
        assert found is not None, printed[-3000:]
        return float(found[1])

    return Means(number("Mean    KLD"), number("Same top p") / 100, number("Mean PPL(Q)"), perplexity)


def windows_of(base: Path, gguf: Path) -> torch.Tensor:
    """int64 [CHUNKS, LENGTH], as the file of the base's logits records them; BOS, where the model wants one, takes the
    place of each window's first token."""
    content = np.fromfile(base, np.int32, 3 + 2 + CHUNKS * LENGTH)
    assert content[:2].tobytes() == b"_logits_"
    assert (content[2], content[4]) == (LENGTH, CHUNKS)
    ids = torch.from_numpy(content[5:].astype(np.int64)).view(CHUNKS, LENGTH)
    keys = keys_of(gguf)
    if keys.get("tokenizer.ggml.add_bos_token"):
        ids[:, 0] = keys["tokenizer.ggml.bos_token_id"]
    return ids


def ours(source: Source, gguf: Path, ids: torch.Tensor, kept: Path) -> Means:
    subject = open_gguf_subject(gguf, source)
    rules = gguf_rules(subject)

    @cache
    def of_windows(length: int) -> Score:
        windows = Windows(tuple(ids[:, :length]), ("text",) * CHUNKS, f"{CHUNKS} x {length}")
        reference = reference_of(source, windows, kept, silent)
        return scored(source, subject.weights, rules, windows, reference, silent).score

    half = LENGTH // 2

    def later(value: Callable[[Score], float], long: int, short: int, lost: int = 0) -> float:
        """lost: positions of a window that have no value."""
        total = value(of_windows(long)) * (long - lost) - value(of_windows(short)) * (short - lost)
        return total / (LENGTH - 1 - half)

    loss = (LENGTH, half + 1, 1)  # a loss takes the token behind it
    return Means(
        later(lambda s: s.mean_kl, LENGTH - 1, half),
        later(lambda s: s.top1, LENGTH - 1, half),
        float(np.exp(later(lambda s: float(np.log(s.perplexity)), *loss))),
        float(np.exp(later(lambda s: float(np.log(s.source_perplexity)), *loss))),
    )


def joined(folder: Path) -> Path:
    """A piece of every kind of text."""
    pieces = [path.read_text(encoding="utf-8")[:CHARACTERS] for path in sorted(TEXTS.glob("*/*.txt"))[::4]]
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text("\n".join(pieces), encoding="utf-8")
    return folder / "text.txt"


def compare(source: Source, schemes: Mapping[str, Any], tools: Path, folder: Path, tolerance: float) -> None:
    """schemes: scheme -> statistics for it, or None. Prints the fields of Means, llama-perplexity's before ours."""
    _, exact = export(source, recipe("F32"), folder / "f32")
    base = folder / "base.logits"
    last = rf"\[{CHUNKS}\]([\d.]+),"
    (perplexity,) = re.findall(last, llama(tools, exact, base, last, "--file", joined(folder)))
    ids = windows_of(base, exact)
    for scheme, statistics in schemes.items():
        made = recipe(scheme, imatrix=statistics is not None)
        made = made.model_copy(update={"budget": Budget(bits=MIXED)}) if scheme == AUTO else made
        _, gguf = export(source, made, folder / scheme, statistics)
        expected, found = theirs(tools, gguf, base, float(perplexity)), ours(source, gguf, ids, folder / "kept")
        pairs = (f"{a:.5f} {b:.5f}" for a, b in zip(astuple(expected), astuple(found), strict=True))
        sys.stdout.write("  ".join([f"{source.checkpoint.name:17} {scheme:7}", *pairs]) + "\n")
        rel = CLOSE_CALLS.get((source.checkpoint.name, scheme), tolerance)
        assert found.kl == pytest.approx(expected.kl, rel=rel), scheme
        assert found.top1 == pytest.approx(expected.top1, abs=0.008), scheme
        assert found.perplexity == pytest.approx(expected.perplexity, rel=5e-3), scheme
        assert found.base == pytest.approx(expected.base, rel=1e-5), scheme


def test_the_bundled_model(llama_tools: Path, tmp_path: Path) -> None:
    source = open_source(DEMO)
    statistics = random_statistics(source, tmp_path / "statistics")
    compare(source, {**dict.fromkeys(SCHEMES), "IQ4_XS": statistics, AUTO: statistics}, llama_tools, tmp_path, 0.03)


@pytest.mark.parametrize("family", TOLERANCE)
def test_other_families(family: str, llama_tools: Path, tmp_path: Path) -> None:
    """With BOS, which llama-perplexity puts in the place of each window's first token."""
    more = {"norm_topk_prob": True} if family == "qwen3_moe" else {}
    folder = make_family(family, tmp_path / family, max_position_embeddings=LENGTH, **more)
    spread(folder)
    decide(folder)
    save_tokenizer(byte_level_tokenizer([], size=300), folder, add_bos_token=True)
    compare(open_source(folder), dict.fromkeys(("Q8_0", "Q4_K_M")), llama_tools, tmp_path, TOLERANCE[family])


def test_a_mix_of_small_blocks(llama_tools: Path, tmp_path: Path) -> None:
    """Of a model whose rows 256 does not divide."""
    sizes = {"hidden_size": 192, "intermediate_size": 320, "max_position_embeddings": LENGTH}
    folder = make_family("llama", tmp_path / "llama", **sizes)
    spread(folder)
    decide(folder)
    save_tokenizer(byte_level_tokenizer([], size=300), folder, add_bos_token=True)
    source = open_source(folder)
    compare(source, {AUTO: random_statistics(source, tmp_path / "statistics")}, llama_tools, tmp_path, 0.02)
    types = {
        tensor.tensor_type.name for path in tmp_path.rglob(f"*{AUTO}*.gguf") for tensor in GGUFReader(path).tensors
    }
    assert {"Q5_0", "Q5_1", "Q4_0", "Q4_1"} & types, types
