"""The sizes that were published of ten variants of a pruned MiniMax-M2.7, beside what `sixfold plan` computes.

    python -m benchmarks.soundness.article_sizes config.json [--experts 154]

config.json is the published model's; no weights are needed. The published figures have no unit that holds for all of
them, so each is compared with four readings of the exact size: GB (10^9 bytes) and GiB (2^30 bytes), of all files and
of the quantized tensors alone (with their scales; embeddings, head, routers and norms left out). A reading agrees where
it rounds to the published figure. GGUF sizes are without the tokenizer, of which a config knows nothing (a few MB).
"""

import argparse
from collections.abc import Mapping

from exporters.export.planning import plan_of
from exporters.registry import exporter_named
from sixfold.artifact.plan import ExportPlan
from sixfold.model.source import describe_source
from sixfold.recipes.recipe import Recipe, load_recipes

PUBLISHED = {
    "bf16": 278,
    "fp8": 140,
    "nvfp4": 72,
    "nvfp4-gb10": 72,
    "awq": 74,
    "gguf-q3_k_m": 62,
    "gguf-iq4_xs": 69,
    "gguf-q4_k_m": 84,
    "gguf-q6_k": 106,
    "gguf-q8_0": 138,
}
_AS_THEY_ARE = ("copy", "cast", "awq-rescale")


def readings(plan: ExportPlan) -> dict[str, float]:
    """What one size can be called. Of GGUF and BF16 files all tensors count: no part is left as it is, or all are."""
    sizes = {"all files": plan.nbytes}
    rounded = sum(tensor.nbytes for tensor in plan.tensors if tensor.encoding not in _AS_THEY_ARE)
    if rounded and plan.files[0].name.endswith(".safetensors"):
        sizes["quantized tensors"] = rounded
    return {
        f"{unit}, {what}": nbytes / size
        for what, nbytes in sizes.items()
        for unit, size in (("GB", 1e9), ("GiB", 2**30))
    }


def agreeing(published: int, found: Mapping[str, float]) -> tuple[str, ...]:
    """The readings that round to the published figure."""
    return tuple(name for name, value in found.items() if round(value) == published)


def variants() -> list[tuple[str, int, Recipe]]:
    """(row, published figure, recipe); FP8 also with one scale for each block of 128 x 128, as DeepSeek stores it."""
    rows = [(name, figure, _recipe(name)) for name, figure in PUBLISHED.items()]
    at = 1 + list(PUBLISHED).index("fp8")
    return [*rows[:at], ("fp8, a scale per block", PUBLISHED["fp8"], _recipe("fp8", "scheme=FP8_BLOCK")), *rows[at:]]


def _recipe(name: str, *overrides: str) -> Recipe:
    (recipe,) = load_recipes(name, overrides, lambda exporter: exporter_named(exporter).Options)
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--experts", type=int, default=154)
    options = parser.parse_args()
    source = describe_source(options.config, experts=options.experts)
    names = [f"{unit}, {what}" for what in ("all files", "quantized tensors") for unit in ("GB", "GiB")]
    print(f"| variant | published | bytes | {' | '.join(names)} | published in |\n|---|---:|---:|{'---:|' * 4}---|")
    for row, figure, recipe in variants():
        plan = plan_of(source, recipe, None)
        assert plan is not None
        found = readings(plan)
        shown = " | ".join(f"{found[name]:.2f}" if name in found else "-" for name in names)
        print(f"| `{row}` | {figure} | {plan.nbytes:,} | {shown} | {'; '.join(agreeing(figure, found)) or 'none'} |")


if __name__ == "__main__":
    main()
