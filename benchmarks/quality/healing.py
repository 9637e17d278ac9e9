"""What healing brings after pruning: KL from the original on held-out text, plain and healed, by domain; and its time.

    python -m benchmarks.quality.healing [MODEL] [--keep 12 10] [--criteria weighted-ean reap] [--texts FOLDER]
                                         [--samples 256] [--seed 0] [--heldout FOLDER] [--work FOLDER]
    python -m benchmarks.quality.healing --layer [--experts 256] [--keep 154] [--tokens 1572864]

Prunes MODEL (the bundled one by default), refits the kept experts on `samples` windows of 512 tokens (--seed: of their
draw; another draw may choose other experts), and prints Markdown tables: KL per predicted token in nats, over the
held-out texts that belong to the calibration's (--heldout) and over the built-in ones, which may be foreign to it.
Nothing is written but to --work, where a run that was stopped resumes.

With --layer, the seconds that one MoE layer of MiniMax-M2.7's size takes on a GPU, beside the two passes.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from calibration.calibrate import calibrate
from calibration.texts.corpus import BUILTIN
from calibration.texts.tokens import ordinary_ids, token_batches
from pruning.anatomy import Anatomy, dissect
from pruning.choosing.make_plan import Request, make_plan
from pruning.choosing.plan_file import PruningPlan
from pruning.healing.block import routed_outputs
from pruning.healing.heal import VERSION, heal
from pruning.healing.healed_weights import HealedWeights
from pruning.healing.refit import refit
from pruning.healing.seen import Seen
from pruning.healing.text import Text
from pruning.proof.proof import Cost, Proof, overall, prove
from pruning.pruned_view import pruned_view
from sixfold.artifact.workspace import digest_of
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration
from sixfold.texts.held_out_text import TEXTS, held_out

ROOT = Path(__file__).parents[2]
HIDDEN, INNER, TOP_K, BATCH = 3072, 1536, 8, 8192


def silent(*_: Any) -> Any:
    return nullcontext(lambda _: None)


def measured(
    source: Source, anatomy: Anatomy, plan: PruningPlan, text: Text, work: Path, texts: Mapping[str, Any]
) -> tuple[Proof, float]:
    """The proof, with costs of both, and the seconds that healing took."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    view = pruned_view(source, anatomy, plan, "drop")
    key = digest_of([plan.digest, device.type, VERSION])
    started = time.monotonic()
    found = heal(source, view, anatomy.layers, text, work / key[:12], key=key, device=device, progress=silent)
    seconds = time.monotonic() - started
    for layer, fit in found.fits.items():
        print(
            f"  layer {layer}: damping {fit.damping}, error of the block {fit.before:.3f} -> {fit.after:.3f},"
            f" on text left out {fit.held_back:.3f} of its square",
            flush=True,
        )
    healed = pruned_view(source, anatomy, plan, "drop", HealedWeights(found.folder))
    proof = prove(source, view, anatomy, plan.kept, texts, healed=healed, device=device, progress=silent)
    return proof, seconds


def run_model(options: argparse.Namespace) -> None:
    source = open_source(options.model)
    anatomy = dissect(source)
    tokenizer = load_tokenizer(source.checkpoint.folder)
    profile = Calibration(texts=(options.texts,), samples=options.samples, seed=options.seed, length=512, moments=False)
    tokens = token_batches(profile, tokenizer)
    texts = {f"built-in {name}": windows for name, windows in held_out(tokenizer, TEXTS).by_domain.items()}
    if options.heldout is not None:
        texts |= {f"own {name}": windows for name, windows in held_out(tokenizer, options.heldout).by_domain.items()}
    text = Text(tokens.ids, ordinary_ids(tokenizer))
    print(f"{source.checkpoint.name}, healed on {text.ids.numel()} tokens and {text.random.numel()} random ones\n")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        statistics = calibrate(source, profile, work / "calibration", progress=silent).statistics
        rows = []
        for kept in options.keep:
            for criterion in options.criteria:
                plan = make_plan(source, anatomy, Request(kept, criterion=criterion), statistics)
                plan = replace(plan, healing={"ids_sha256": tokens.record["ids_sha256"]})
                print(f"{criterion}, {kept} of {anatomy.experts} kept", flush=True)
                proof, seconds = measured(source, anatomy, plan, text, work, texts)
                print_domains(proof)
                rows.append((kept, criterion, proof, seconds))
    print("| kept | criterion | own: pruned | healed | built-in: pruned | healed | worst domain | seconds |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for kept, criterion, proof, seconds in rows:
        cells = " | ".join(
            f"{plain:.3f} | {after:.3f}" for plain, after in (part(proof, p) for p in ("own", "built-in"))
        )
        print(f"| {kept} | {criterion} | {cells} | {100 * worst(proof):+.1f} % | {seconds:.0f} |")


def costs_of(proof: Proof) -> tuple[Mapping[str, Cost], Mapping[str, Cost]]:
    assert proof.healing is not None
    return proof.costs, proof.healing.costs


def part(proof: Proof, prefix: str) -> tuple[float, float]:
    """KL of the pruned and of the healed model over the domains of one kind; not a number where there are none."""
    chosen = [{d: c for d, c in costs.items() if d.startswith(prefix)} for costs in costs_of(proof)]
    one, two = (overall(costs).kl if costs else float("nan") for costs in chosen)
    return one, two


def worst(proof: Proof) -> float:
    """By how much the KL grows in the domain where healing does worst."""
    plain, healed = costs_of(proof)
    return max(healed[domain].kl / plain[domain].kl - 1 for domain in plain)


def print_domains(proof: Proof) -> None:
    plain, healed = costs_of(proof)
    print("\n| held-out texts | pruned | healed | |\n|---|---:|---:|---:|")
    for domain, cost in plain.items():
        after = healed[domain].kl
        print(f"| {domain} | {cost.kl:.3f} | {after:.3f} | {100 * (after / cost.kl - 1):+.1f} % |")
    print(flush=True)


def run_layer(experts: int, kept: int, tokens: int) -> None:
    """Random weights and inputs, of eight kinds; what is missing is what the experts left out gave."""
    from transformers import MiniMaxM2Config
    from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2Experts

    device = torch.device("cuda")
    config = MiniMaxM2Config(hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=kept)
    with torch.inference_mode():
        draw = torch.Generator(device).manual_seed(0)
        module = MiniMaxM2Experts(config).to(device, torch.bfloat16)
        for parameter in module.parameters():
            parameter.normal_(0, 0.02, generator=draw)
        inputs = torch.randn(tokens, HIDDEN, generator=draw, device=device).bfloat16()
        router = torch.randn(experts, HIDDEN, generator=draw, device=device).bfloat16()[:kept]
        index = torch.cat([(part @ router.T).topk(TOP_K).indices for part in inputs.split(BATCH)])
        gates = torch.full((tokens, TOP_K), 1 / TOP_K, device=device)
        kinds = torch.arange(tokens, device=device) * 8 // tokens
        missing = torch.empty(tokens, HIDDEN, device=device)
        started = time.monotonic()
        for start in range(0, tokens, BATCH):
            place = slice(start, start + BATCH)
            out = routed_outputs(module, inputs[place], index[place], gates[place])
            missing[place] = 0.3 * out.float().roll(1, 1)  # correlated with what experts read, as in a model
        torch.cuda.synchronize()
        passed = time.monotonic()
        stored = dict.fromkeys(("down_proj", "gate_up_proj"), torch.bfloat16)
        fit = refit(module, Seen(inputs, index, gates, missing, kinds), stored)
        torch.cuda.synchronize()
        done = time.monotonic()
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(f"{kept} of {experts} experts of {HIDDEN} x {INNER}, {tokens} tokens on {torch.cuda.get_device_name()}:")
    print(f"  the experts over all tokens once {passed - started:.1f} s; the refit {done - passed:.1f} s")
    print(
        f"  damping {fit.damping}, missing {fit.after / fit.before:.3f} of what it was; {peak:.1f} GB of device memory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(ROOT / "demo" / "minimax-m2-4.6m"))
    parser.add_argument("--keep", type=int, nargs="+", default=[6])
    parser.add_argument("--criteria", nargs="+", default=["weighted-ean", "reap"])
    parser.add_argument("--texts", default=BUILTIN)
    parser.add_argument("--heldout", type=Path, default=None)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--layer", action="store_true")
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=768 * 2048)
    options = parser.parse_args()
    if options.layer:
        run_layer(options.experts, options.keep[0] if options.keep != [6] else 154, options.tokens)
    else:
        run_model(options)


if __name__ == "__main__":
    main()
