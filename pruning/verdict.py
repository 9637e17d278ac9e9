"""verification.json of a pruned folder: what was checked, and what pruning cost by domain.

structure  {"experts": as config.json says, "layers": [{"layer", "experts", "vectors": {name: entries}}]}
masked     null where it was not run, else against the original with the pruned experts masked out of its routers:
           {"sound", "tokens", "tolerance", "layers": [{"layer", "largest", "differing"}]}
cost       {domain: {"tokens", "perplexity_before", "perplexity_after", "kl", "top1"}}, and "all"; KL per token in
           nats, of the pruned from the original, both in float32
passed     whether every check that was run held
weights    digest of the hashes that manifest.json has for what was checked

`sixfold verify` checks the same folder as it checks any checkpoint; it writes checkpoint-verification.json.
"""

from dataclasses import asdict
from math import exp
from pathlib import Path
from typing import Any

from pruning.model_size import ModelSize
from pruning.proof import TOLERANCE, Cost, Proof, overall
from pruning.structure import Structure
from sixfold.artifact.workspace import digest_of, read_json, write_json
from sixfold.checkpoint.checkpoint import CONFIG

FILE = "verification.json"


def verdict_of(
    folder: Path, before: ModelSize, after: ModelSize, structure: Structure, proof: Proof | None
) -> dict[str, Any]:
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
        "cost": {} if proof is None else {name: _shown(cost) for name, cost in _with_all(proof).items()},
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


def _with_all(proof: Proof) -> dict[str, Cost]:
    """Domains by their loss, largest first."""
    return {**dict(sorted(proof.costs.items(), key=lambda item: -item[1].kl)), "all": overall(proof.costs)}


def _shown(cost: Cost) -> dict[str, float]:
    return {
        "tokens": cost.tokens,
        "perplexity_before": round(exp(cost.nll_before), 4),
        "perplexity_after": round(exp(cost.nll_after), 4),
        "kl": round(cost.kl, 5),
        "top1": round(cost.top1, 4),
    }
