"""verification.json of a pruned folder: what was checked, and what pruning cost by domain.

structure  {"experts": as config.json says, "layers": [{"layer", "experts", "vectors": {name: entries}}]}
masked     null where it was not run, else against the original with the pruned experts masked out of its routers:
           {"sound", "tokens", "tolerance", "layers": [{"layer", "largest", "differing"}]}
cost       {domain: {"tokens", "perplexity_before", "perplexity_after", "kl", "top1"}}, and "all"; KL per token in
           nats, of the pruned from the original, both in float32
healed     null where nothing was refitted, else
           layers   [{"layer", "tensors" that were, "mean" and "largest" of their relative change}]
           errors   [{"layer", "plain", "healed": error of the hidden states behind it, relative to the original's, on
                    the held-out texts}]
           plain    the cost without refitting, as `cost` is of the healed model; `masked` is of the model without
                    refitting, to which every tensor that was not refitted is equal
passed     whether every check that was run held
weights    digest of the hashes that manifest.json has for what was checked

`sixfold verify` checks the same folder as it checks any checkpoint; it writes checkpoint-verification.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import exp
from pathlib import Path
from typing import Any

from pruning.healing.refitted import LayerChange
from pruning.model_size import ModelSize
from pruning.proof.proof import TOLERANCE, Cost, Proof, overall
from pruning.proof.structure import Structure
from sixfold.artifact.workspace import digest_of, read_json, write_json
from sixfold.checkpoint.checkpoint import CONFIG

FILE = "verification.json"


def verdict_of(
    folder: Path,
    before: ModelSize,
    after: ModelSize,
    structure: Structure,
    proof: Proof | None,
    refitted: Sequence[LayerChange] | None,
) -> dict[str, Any]:
    """refitted: None where nothing was."""
    healing = None if proof is None else proof.healing
    return {
        "passed": proof is None or proof.sound,
        "weights": _weights(folder),
        "before": asdict(before),
        "after": asdict(after),
        "structure": {"experts": structure.config, "layers": [asdict(layer) for layer in structure.layers]},
        "masked": None
        if proof is None
        else {
            "sound": proof.sound,
            "tokens": proof.tokens,
            "tolerance": TOLERANCE,
            "layers": [asdict(layer) for layer in proof.layers],
        },
        "healed": None
        if refitted is None
        else {
            "layers": [_rounded(asdict(change)) for change in refitted],
            "errors": [] if healing is None else [_rounded(asdict(error)) for error in healing.layers],
            "plain": {} if proof is None else _costs(proof.costs),
        },
        "cost": {} if proof is None else _costs(proof.costs if healing is None else healing.costs),
    }


def write_verdict(folder: Path, verdict: dict[str, Any]) -> None:
    write_json(folder / FILE, verdict)


def current_verdict(folder: Path) -> dict[str, Any] | None:
    """What verification.json says, if it is about the present weights."""
    found = read_json(folder / FILE)
    return found if found is not None and found.get("weights") == _weights(folder) else None


def _weights(folder: Path) -> str:
    """Of the hashes that manifest.json has for the weight files and config.json."""
    files = (read_json(folder / "manifest.json") or {"files": {}})["files"]
    checked = {n: record["sha256"] for n, record in files.items() if n.endswith(".safetensors") or n == CONFIG}
    return digest_of(checked)


def _costs(costs: Mapping[str, Cost]) -> dict[str, dict[str, float]]:
    """Domains by their loss, largest first."""
    every = {**dict(sorted(costs.items(), key=lambda item: -item[1].kl)), "all": overall(costs)}
    return {name: _shown(cost) for name, cost in every.items()}


def _rounded(row: dict[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def _shown(cost: Cost) -> dict[str, float]:
    return {
        "tokens": cost.tokens,
        "perplexity_before": round(exp(cost.nll_before), 4),
        "perplexity_after": round(exp(cost.nll_after), 4),
        "kl": round(cost.kl, 5),
        "top1": round(cost.top1, 4),
    }
