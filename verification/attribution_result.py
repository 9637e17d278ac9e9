"""attribution.json and attribution.svg: what each part of an artifact costs, as table and picture, beside it.

Of a GGUF file they are called X.gguf.attribution.json and .svg.

schema    1
artifact  name, and content: digest of the files that its manifest lists ("" without one), as in verification.json
source    name and fingerprint of the checkpoint it was compared with
mean_kl   of the artifact as it is, over all held-out text, inputs rounded as its engine rounds them, nats per token
target    the largest mean KL that was asked for, or the recipe's gate; null where there is none
tokens    that the parts were measured on
parts     costliest first: part (in words), mean_kl with this part alone as the artifact holds it, saved (bytes that
          quantizing it saves), keep (the recipe's pattern that leaves it in 16 bits)
proposal  the cheapest `keep` that holds the target: keep, mean_kl as expected, extra_bytes; null where none is needed
          or none would do
"""

from pathlib import Path
from typing import Any

from sixfold.artifact.manifest import beside
from sixfold.artifact.verification_record import content_digest
from sixfold.artifact.workspace import write_atomically, write_json
from sixfold.drawing.bar_chart import Bar, bar_chart
from sixfold.model.source import Source
from sixfold.sizes import size
from verification.result import manifest_of
from verification.suggest import Suggestion

SCHEMA = 1
NAME = "attribution"


def write_attribution(path: Path, source: Source, found: Suggestion) -> tuple[Path, Path]:
    """path: the folder or the GGUF file. Returns the paths of both."""
    data, picture = (beside(path, f"{NAME}.{kind}") for kind in ("json", "svg"))
    write_json(data, as_data(path, source, found))
    write_atomically(picture, chart(path.absolute().name, found).encode())
    return data, picture


def as_data(path: Path, source: Source, found: Suggestion) -> dict[str, Any]:
    manifest, proposal = manifest_of(path), found.proposal
    return {
        "schema": SCHEMA,
        "artifact": {"name": path.absolute().name, "content": content_digest(manifest) if manifest else ""},
        "source": {"name": source.checkpoint.name, "fingerprint": source.checkpoint.fingerprint},
        "mean_kl": found.kl,
        "target": found.target,
        "tokens": found.tokens,
        "parts": [
            {"part": c.part.name, "mean_kl": c.kl, "saved": c.part.saved, "keep": c.part.keep} for c in found.costs
        ],
        "proposal": None
        if proposal is None
        else {"keep": [part.keep for part in proposal.parts], "mean_kl": proposal.kl, "extra_bytes": proposal.extra},
    }


def chart(name: str, found: Suggestion) -> str:
    """Marked are the parts that the proposal keeps in 16 bits."""
    kept = {part.name for part in found.proposal.parts} if found.proposal is not None else set()
    note = f"mean KL per token with one part quantized and the rest as the source, over {found.tokens:,} tokens"
    if kept:
        note += f"; orange: what to keep for a mean KL of {found.target:g}"
    bars = [
        Bar(
            cost.part.name,
            cost.kl,
            f"{cost.kl:.4f}, saves {size(cost.part.saved)}",
            f"{cost.part.name}: mean KL {cost.kl:.5f}; quantizing it saves {size(cost.part.saved)}",
            marked=cost.part.name in kept,
        )
        for cost in found.costs
    ]
    return bar_chart(f"What each part of {name} costs", note, bars)
