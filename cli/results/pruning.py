"""What pruning did: how many experts stay, whether the result is right, and what it cost."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.terminal import print_table, program
from sixfold.sizes import count

if TYPE_CHECKING:
    from pruning.choosing.plan_file import PruningPlan


def counts_of(plan: "PruningPlan") -> str:
    kept = sorted(set(plan.counts.values()))
    number = str(kept[0]) if len(kept) == 1 else f"{kept[0]} to {kept[-1]}"
    return f"{number} of {plan.layers[0].experts} experts in each of {len(plan.layers)} layers"


def print_verdict(verdict: dict[str, Any], folder: Path, model: str, artifacts: Path) -> None:
    """model: the original's folder, "" of one on the Hub."""
    before, after = verdict["before"], verdict["after"]
    click.echo(
        f"\n{count(before['parameters'])} parameters before, {count(after['parameters'])} after;"
        f" {count(after['active'])} active per token."
    )
    if verdict["masked"] is None:
        click.echo("Not run against the original (--no-proof).")
    else:
        largest = max(layer["largest"] for layer in verdict["masked"]["layers"])
        sound = "matches" if verdict["masked"]["sound"] else "DOES NOT match"
        before = ", before healing," if verdict.get("healed") else ""
        click.echo(
            f"Every layer{before} {sound} the original with the pruned experts masked"
            f" (largest difference {largest:.1e})."
        )
        plain = (verdict.get("healed") or {}).get("plain", {})
        rows = [
            (
                domain,
                c["tokens"],
                f"{c['perplexity_before']:.2f}",
                f"{c['perplexity_after']:.2f}",
                f"{c['kl']:.4f}",
                f"{c['top1']:.3f}",
                *((f"{plain[domain]['kl']:.4f}", f"{plain[domain]['top1']:.3f}") if plain else ()),
            )
            for domain, c in verdict["cost"].items()
        ]
        head = ("held-out texts", "tokens", "perplexity", "pruned", "KL", "top-1")
        print_table((*head, "KL, not healed", "top-1, not healed") if plain else head, rows)
    out = "" if artifacts == Path("artifacts") else f" --out {shlex.quote(str(artifacts))}"
    click.echo(f"Next: {program()} export {shlex.quote(str(folder))} all-formats{out}")
    if model:
        pair = f"{shlex.quote(str(folder))} --baseline {shlex.quote(model)}"
        click.echo(f"Whether its answers still end: {program()} evaluate {pair} --task answers --max-more-looping 0.02")
