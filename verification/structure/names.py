"""Whether every tensor of the model is there under its name, and nothing else."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.required_tensors import Blueprint
from verification.reading.stored_parts import CACHE_SCALES, OTHERS, QUANTIZED_PARTS
from verification.reading.subject import Subject

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(.+)")
_WEIGHTS = ("weight_packed", "qweight")
_HEAD = "lm_head.weight"
_PROTECTED = re.compile(
    r"(^|\.)(lm_head|embed_tokens|wte|embed_in|gate|router|shared_expert_gate|[^.]*norm[^.]*|mtp[^.]*)$"
    r"|correction_bias$|expert_bias$"
)
"""Modules that no format here quantizes, by their names: a second opinion beside the architecture's own roles."""


def check_missing(subject: Subject) -> Iterator[Finding]:
    """Every tensor of the model, plain or as the weight of a quantized Linear."""
    blueprint = subject.blueprint
    if blueprint is None:
        return
    experts = _experts(subject.folder.tensors)
    for name in blueprint.tensors:
        if name in subject.folder.tensors or name in blueprint.optional:
            continue
        module, _, suffix = name.rpartition(".")
        if suffix == "weight" and any(part in subject.modules.get(module, ()) for part in _WEIGHTS):
            continue
        left = sorted(subject.modules.get(module, set()) & QUANTIZED_PARTS)
        what = f"it is missing{_beside(blueprint, experts, name)}" + (f"; its {left[0]} is there" if left else "")
        yield Finding(
            "names.missing",
            name,
            what,
            "the engine keeps whatever was in memory, or stops with a KeyError",
            EXPORT_AGAIN,
        )


def _experts(names: Iterable[str]) -> dict[str, dict[int, list[str]]]:
    """The experts' module of each layer -> the number of each expert -> what the folder holds of it."""
    found: dict[str, dict[int, list[str]]] = {}
    for name in names:
        matched = _EXPERT.fullmatch(name)
        if matched:
            found.setdefault(matched[1], {}).setdefault(int(matched[2]), []).append(matched[3])
    return found


def _beside(blueprint: Blueprint, experts: Mapping[str, Mapping[int, Sequence[str]]], name: str) -> str:
    """For an expert's projection: what the expert has instead, or how many experts there are."""
    found = _EXPERT.fullmatch(name)
    if not found:
        return ""
    number, held = int(found[2]), experts.get(found[1], {})
    if number not in held:
        return f": expert {number} of {blueprint.architecture.experts} is not there, the files hold {len(held)}"
    prefix = f"{found[1]}.{number}."
    others = sorted(part for part in held[number] if prefix + part not in blueprint.tensors)
    return f" (expert {number} has {prefix}{others[0]})" if others else ""


def check_unknown(subject: Subject) -> Iterator[Finding]:
    """No tensor that the engine has no place for."""
    blueprint = subject.blueprint
    if blueprint is None:
        return
    for name in subject.folder.tensors:
        module, _, suffix = name.rpartition(".")
        if name in blueprint.tensors or blueprint.not_run(name):
            continue
        if suffix in QUANTIZED_PARTS and f"{module}.weight" in blueprint.tensors:
            continue  # the checks of parts look at these
        if suffix in CACHE_SCALES and any(n.startswith(f"{module.rpartition('.')[0]}.") for n in blueprint.tensors):
            continue
        tied = blueprint.architecture.tied_embeddings and name.startswith("lm_head.")
        if tied:
            continue
        yield Finding(
            "names.unknown",
            name,
            "the architecture has no tensor of this name",
            "engines ignore it silently, or stop with a KeyError; the weight that it should be stays uninitialized",
            "give it the architecture's own name (transformers' save_pretrained shows it), or remove it",
        )


def check_tied(subject: Subject) -> Iterator[Finding]:
    """A head that config.json ties to the embeddings is not in the files, or is the same."""
    blueprint, folder = subject.blueprint, subject.folder
    if blueprint is None or not blueprint.architecture.tied_embeddings or not folder.readable(_HEAD):
        return
    embeddings = next((name for name in folder.tensors if name.endswith("embed_tokens.weight")), None)
    if embeddings is None or not folder.readable(embeddings):
        return
    if not torch.equal(folder.read(_HEAD).float(), folder.read(embeddings).float()):
        yield Finding(
            "names.tied",
            _HEAD,
            f"config.json ties it to {embeddings}, and the files hold another",
            "transformers answers by this head, vLLM and SGLang by the embeddings",
            "set tie_word_embeddings to false, or remove it",
        )


def check_protected(subject: Subject) -> Iterator[Finding]:
    """Routers, norms, embeddings, heads and correction biases stay in the source's precision."""
    linears = subject.blueprint.linears if subject.blueprint is not None else {}
    for module, suffixes in subject.modules.items():
        linear = linears.get(module)
        protected = not linear.quantizable if linear is not None else bool(_PROTECTED.search(module))
        protected = protected or bool(_PROTECTED.search(module))
        if not protected:
            continue
        parts = sorted(suffixes & QUANTIZED_PARTS)
        stored = subject.folder.tensors.get(f"{module}.weight")
        if not parts and stored is not None and stored.dtype in ("F8_E4M3", "U8", "I8", "I32"):
            parts = ["weight"]
        for part in parts:
            role = linear.role if linear is not None else "module that is never quantized"
            yield Finding(
                "protected.quantized",
                f"{module}.{part}",
                f"{module} is a {role}, and has been quantized",
                "vLLM stops with a KeyError at the scale; an engine that reads it routes or answers by rounded scores",
                "export again with this module in the ignore list",
            )


def check_experts(subject: Subject) -> Iterator[Finding]:
    """Every expert of a layer carries the same parts; numbers run from 0 without a hole."""
    optional = {part for part in OTHERS if part.endswith("g_idx")}
    for layer, experts in _experts(subject.folder.tensors).items():
        every = {part for parts in experts.values() for part in parts}
        for number in range(max(experts) + 1):
            lacking = sorted(p for p in every - set(experts.get(number, ())) if p.rpartition(".")[2] not in optional)
            if subject.blueprint is not None:  # experts that only hand their inputs on (LongCat) are whole without
                known = subject.blueprint.tensors
                lacking = [p for p in lacking if f"{layer}.{number}.{p.partition('.')[0]}.weight" in known]
            if number not in experts:
                lacking = lacking[:1]
            for part in lacking:
                weight = f"{layer}.{number}.{part.rpartition('.')[0]}.weight"
                if subject.blueprint is not None and weight not in subject.blueprint.tensors:
                    continue  # LongCat's zero experts compute nothing, and lack a projection in every checkpoint
                yield Finding(
                    "experts.incomplete",
                    f"{layer}.{number}.{part}",
                    "other experts of the layer have it, this one does not",
                    "the missing scale loads as zero in vLLM: infinity, then pad tokens",
                    EXPORT_AGAIN,
                )
