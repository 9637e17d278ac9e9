"""Does a variant hold what its recipe asks: gates relative to the model at hand, and absolute ones.

docs/gates.md says how the relative gate was chosen, and what it finds and misses.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from verification.divergence.divergence import Divergence, Score
from verification.finding import Finding

NOISE = 1e-5
"""Mean KL that no gate sees: what the order of float32 sums makes of the same weights."""

_LAYER_NOISE = 1e-4
"""The same of a relative error of hidden states."""


def allowed_of(plain: Score | None, gates: Mapping[str, Any]) -> dict[str, float | None]:
    """The largest mean KL and the smallest top-1 agreement that the gates leave; None where there is no such gate.

    plain: of the source rounded plainly to the same formats. gates: as the recipe states them
    (sixfold.recipes.recipe.Gates); what is null is no gate.
    """
    limits = [gates.get("max_mean_kl")]
    ratio = gates.get("max_kl_ratio")
    if ratio is not None and plain is not None:
        limits.append(float(f"{ratio * plain.mean_kl + NOISE:.6g}"))
    return {"max_mean_kl": min((x for x in limits if x is not None), default=None), "min_top1": gates.get("min_top1")}


def check_gates(divergence: Divergence, gates: Mapping[str, Any]) -> Iterator[Finding]:
    """gates: as of `allowed_of`."""
    held, plain = divergence.as_run, divergence.plain
    largest, smallest, ratio = (gates.get(key) for key in ("max_mean_kl", "min_top1", "max_kl_ratio"))
    if largest is not None and not held.mean_kl <= largest:
        yield _failed("gates.max_mean_kl", f"the mean KL is {held.mean_kl:.5f}, the recipe allows {largest:g}")
    if smallest is not None and not held.top1 >= smallest:
        yield _failed("gates.min_top1", f"top-1 agreement is {held.top1:.4f}, the recipe asks for {smallest:g}")
    if ratio is None or plain is None:
        return
    if not held.mean_kl <= ratio * plain.mean_kl + NOISE:
        what = (
            f"the mean KL is {held.mean_kl:.5f}, and rounding the same weights plainly to the same format costs"
            f" {plain.mean_kl:.5f}, of which {ratio:g} times are allowed"
        )
        yield _failed("gates.max_kl_ratio", what)
        return
    for layer, (error, expected) in enumerate(zip(held.layers, plain.layers, strict=True)):
        if not error <= ratio * expected + _LAYER_NOISE:
            what = (
                f"behind layer {layer} hidden states are off by {error:.4g} of their size, and plain rounding to the"
                f" same format makes it {expected:.4g}, of which {ratio:g} times are allowed"
            )
            yield _failed("gates.max_kl_ratio", what)
            return


def _failed(key: str, what: str) -> Finding:
    return Finding(
        "gate.failed",
        key,
        what,
        "answers differ more from the source's than the recipe allows",
        "look at the layer, keep more in BF16 (`keep` in the recipe), choose a larger format, or move the gate",
    )
