"""sixfold inspect: what a checkpoint is made of."""

import re
from collections import Counter, defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cli.options import Model, experts_option, json_option, model_argument
from cli.terminal import heading, print_json, print_table
from sixfold.sizes import size

if TYPE_CHECKING:
    from sixfold.checkpoint.checkpoint import SourceTensor
    from sixfold.model.architecture import Architecture
    from sixfold.model.source import Source


@click.command(short_help="Print what a checkpoint is made of.", epilog="Example: sixfold inspect Qwen/Qwen3-30B-A3B")
@model_argument
@experts_option
@json_option
def command(model: Model, experts: int | None, as_json: bool) -> None:
    """Print what MODEL (a folder, a hub id, or a config.json alone) is made of.

    Layers, experts, Linears by role, norms and what reads them, groups that engines fuse, and what is never quantized.
    For a hub id, only the configuration and headers are fetched.
    """
    source = model.describe(experts)
    if as_json:
        print_json(as_data(source))
    else:
        show(source)


def as_data(source: "Source") -> dict[str, Any]:
    """The same as JSON, with every Linear and norm by name."""
    from sixfold.model.bare_config import config_notes

    checkpoint = source.checkpoint
    tensors = checkpoint.tensors.values()
    return {
        "name": checkpoint.name,
        "location": checkpoint.location,
        "revision": checkpoint.revision,
        "notes": list(config_notes(checkpoint)),
        "provenance": asdict(checkpoint.provenance),
        "tensors": len(tensors),
        "parameters": sum(_elements(t) for t in tensors),
        "bytes": sum(t.nbytes for t in tensors),
        "bytes_by_dtype": _bytes_by_dtype(source),
        "architecture": asdict(source.architecture),
    }


def show(source: "Source") -> None:
    from sixfold.model.bare_config import config_notes

    checkpoint, architecture = source.checkpoint, source.architecture
    tensors = checkpoint.tensors.values()
    click.echo(click.style(checkpoint.name, bold=True) + f"  {architecture.model_type}, {checkpoint.location}")
    if checkpoint.revision:
        click.echo(f"  revision {checkpoint.revision}")
    dtypes = ", ".join(f"{size(nbytes)} {dtype}" for dtype, nbytes in _bytes_by_dtype(source).items())
    click.echo(f"  {sum(_elements(t) for t in tensors):,} parameters in {len(tensors):,} tensors: {dtypes}")
    experts = f"{architecture.experts} experts, {architecture.experts_per_token} per token"
    click.echo(f"  {architecture.layers} layers, {experts if architecture.experts else 'dense'}")
    heading("Linears")
    print_table(("role", "part", "out x in", "count", "bytes", "quantized"), _linear_rows(source))
    heading("Norms, and what reads them")
    print_table(("norm", "count", "read by", "complete"), _norm_rows(architecture))
    groups = {linear.fused for linear in architecture.linears if linear.fused}
    fused = Counter(_together(tuple(_generic(name) for name in group)) for group in groups)
    if fused:
        heading("Fused by engines (one global scale)")
        print_table(("group", "count"), sorted(fused.items()))
    heading("Never quantized in Hugging Face formats")
    print_table(("tensor", "count", "bytes"), _kept_rows(source))
    notes = [f"{note[0].upper()}{note[1:]}." for note in config_notes(checkpoint)] + _notes(architecture)
    if notes:
        heading("Notes")
        for note in notes:
            click.echo(f"  {note}")


def _linear_rows(source: "Source") -> list[tuple[str | int, ...]]:
    groups: dict[tuple[str, str, str, bool], list[int]] = defaultdict(list)
    for linear in source.architecture.linears:
        shape = f"{linear.out_features} x {linear.in_features}"
        nbytes = source.checkpoint.tensors[linear.weight].nbytes
        groups[linear.role, linear.part, shape, linear.quantizable].append(nbytes)
    for name in source.architecture.stacked_experts:
        tensor = source.checkpoint.tensors[name]
        shape = " x ".join(map(str, tensor.shape))
        groups["expert", f"stacked {name.rsplit('.', 1)[-1]}", shape, len(tensor.shape) == 3].append(tensor.nbytes)
    return [
        (role, part, shape, len(sizes), size(sum(sizes)), "yes" if quantizable else "no")
        for (role, part, shape, quantizable), sizes in groups.items()
    ]


def _norm_rows(architecture: "Architecture") -> list[tuple[str | int, ...]]:
    groups = Counter(
        (
            _generic(norm.weight) + (" (1 + w)" if norm.one_plus else ""),
            _together(tuple(sorted({_generic(reader) for reader in norm.readers}))) if norm.readers else "-",
            "yes" if norm.exact else "no",
        )
        for norm in architecture.norms
    )
    return [(name, count, readers, exact) for (name, readers, exact), count in groups.items()]


def _kept_rows(source: "Source") -> list[tuple[str | int, ...]]:
    quantized = {linear.weight for linear in source.architecture.linears if linear.quantizable}
    quantized |= set(source.architecture.stacked_experts)
    groups: dict[str, list[int]] = defaultdict(list)
    for tensor in source.checkpoint.tensors.values():
        if tensor.name not in quantized:
            groups[f"{_generic(tensor.name)} ({tensor.dtype})"].append(tensor.nbytes)
    return [(name, len(sizes), size(sum(sizes))) for name, sizes in groups.items()]


def _notes(architecture: "Architecture") -> list[str]:
    notes = []
    if architecture.tied_embeddings:
        notes.append("lm_head shares the embeddings' weights.")
    if architecture.stacked_experts:
        notes.append("The experts of a layer are stored as one array that is not split here: bf16 alone is possible.")
    if architecture.towers:
        notes.append(f"{len(architecture.towers)} tensors are for pictures or sound, and are carried as they are.")
    if architecture.not_run:
        notes.append(f"{len(architecture.not_run)} tensors are not run by transformers (MTP): kept, no statistics.")
    if architecture.unobserved:
        notes.append(f"The data flow could not be traced, so no norm is rescaled: {architecture.unobserved}")
    return notes


def _generic(name: str) -> str:
    """The name with layer and expert numbers replaced by "*"."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _together(names: tuple[str, ...]) -> str:
    """Names with their common prefix written once: "a.b.{c, d}"."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    if len(names) == 1 or not shared:
        return ", ".join(names)
    return ".".join(parts[0][:shared]) + ".{" + ", ".join(".".join(p[shared:]) for p in parts) + "}"


def _bytes_by_dtype(source: "Source") -> dict[str, int]:
    """By dtype as exporters see it, with what it is stored as where that differs ("BF16 (stored as fp8)")."""
    totals: Counter[str] = Counter()
    for tensor in source.checkpoint.tensors.values():
        stored = "" if tensor.stored_as == "plain" else f" (stored as {tensor.stored_as})"
        totals[tensor.dtype + stored] += tensor.nbytes
    return dict(totals.most_common())


def _elements(tensor: "SourceTensor") -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count
