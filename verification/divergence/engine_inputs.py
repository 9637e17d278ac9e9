"""Which inputs an artifact's engine rounds, and how: rules for activations.py, by on-disk tensor name."""

import re
from collections.abc import Iterator, Mapping

import torch

from sixfold.model.latent_attention import latent_linears
from verification.divergence.activations import (
    Rule,
    fp8_dynamic,
    fp8_static,
    ggml_q8_0,
    ggml_q8_k,
    nvfp4,
)
from verification.divergence.cache_rounding import CacheRounding
from verification.divergence.latent_inputs import LatentRounding, Rounding
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.declared import Scheme
from verification.reading.stored_parts import is_nvfp4
from verification.reading.subject import Subject
from verification.structure.gguf.subject import GgufSubject

_EXPERTS = re.compile(r"(.*\.experts)\.\d+\.([^.]+)$")
_INPUT_SCALES = ("input_global_scale", "input_scale")
_INPUTS_FP8, _INPUTS_NVFP4 = 0.2, 0.35
"""How far fixed scales may move inputs; sound ones of the bundled models stay below 0.08 and 0.11."""

_WITH_Q8_0 = ("Q8_0", "Q5_0", "Q4_0", "Q5_1", "Q4_1", "IQ4_NL", "MXFP4")


def folder_rules(subject: Subject, *, collapsed: bool = False, fixed: bool = True) -> dict[str, Rounding]:
    """Of every Linear whose inputs the scheme quantizes. fixed: by the scales that the artifact holds, where it does;
    else by the inputs' own.

    collapsed: the experts of a layer share the smallest of their global input scales (the largest range), as several of
    vLLM's NVFP4 backends make them; gate and up projections together, down projections together.
    """
    rules: dict[str, Rounding] = {}
    scales: dict[str, float] = {}
    for linear, scheme in subject.quantized():
        if scheme.inputs is None:
            continue
        if not fixed:
            rules[linear.weight] = _from_inputs(scheme)
        elif is_nvfp4(scheme):
            scales[linear.name] = _input_global_scale(subject, linear.name)
        elif scheme.inputs.get("dynamic"):
            group = scheme.inputs.get("group_size")
            rules[linear.weight] = fp8_dynamic(group if isinstance(group, int) and group > 0 else None)
        elif subject.folder.readable(f"{linear.name}.input_scale"):
            rules[linear.weight] = fp8_static(_scalar(subject, f"{linear.name}.input_scale"))
    shared = _shared(subject, scales) if collapsed else {}
    return rules | {f"{name}.weight": nvfp4(shared.get(name, scale)) for name, scale in scales.items() if scale > 0}


def cache_rules(subject: Subject, *, fixed: bool = True) -> dict[str, Rule]:
    """By the name of each k_proj whose keys are cached in FP8. fixed: by scales that the artifact holds; else by the
    largest of the keys, and of the values."""
    found: dict[str, Rule] = {}
    linears = subject.blueprint.architecture.linears if subject.blueprint is not None else ()
    for linear in linears:
        if linear.part != "k_proj":
            continue
        attention = linear.name.removesuffix(".k_proj")
        scales = [
            next((name for name in names if subject.folder.readable(name)), None)
            for names in (
                (f"{attention}.k_scale", f"{attention}.k_proj.k_scale"),
                (f"{attention}.v_scale", f"{attention}.v_proj.v_scale"),
            )
        ]
        if scales[0] is not None and scales[1] is not None:
            keys, values = (_scalar(subject, name) for name in scales if name is not None)
            if not fixed:
                found[linear.name] = CacheRounding(fp8_static(None), fp8_static(None))
            elif keys > 0 and values > 0:
                found[linear.name] = CacheRounding(fp8_static(keys), fp8_static(values))
    return found


def _from_inputs(scheme: Scheme) -> Rounding:
    group = (scheme.inputs or {}).get("group_size")
    if is_nvfp4(scheme):
        return nvfp4(None)
    if not (scheme.inputs or {}).get("dynamic"):
        return fp8_static(None)
    return fp8_dynamic(group if isinstance(group, int) and group > 0 else None)


def check_inputs(subject: Subject, errors: Mapping[str, float]) -> Iterator[Finding]:
    """Fixed input scales that inputs of held-out text do not fit under. errors: relative, by tensor name, as
    verification.divergence.activations measures them."""
    for linear, scheme in subject.quantized():
        error = errors.get(linear.weight, 0.0)
        suffix = next((s for s in _INPUT_SCALES if f"{linear.name}.{s}" in subject.folder.tensors), None)
        limit = _INPUTS_NVFP4 if is_nvfp4(scheme) else _INPUTS_FP8
        if suffix is not None and not error <= limit:
            name = f"{linear.name}.{suffix}"
            what = (
                f"it is {_scalar(subject, name):.4g}, and rounding under it moves the inputs of held-out text by"
                f" {error:.3g} of their size, where {limit:g} is allowed: they are cut off at its range, or vanish"
            )
            yield Finding("inputs.scale", name, what, "every token loses most of what this Linear reads", EXPORT_AGAIN)


def can_collapse(subject: Subject) -> bool:
    """Whether experts have NVFP4 input scales of their own."""
    return any(
        linear.expert is not None and is_nvfp4(scheme) and scheme.inputs is not None
        for linear, scheme in subject.quantized()
    )


def gguf_rules(subject: GgufSubject) -> dict[str, Rule]:
    """By the type of each tensor: ggml multiplies quantized rows with inputs in blocks of eight bits."""
    rules: dict[str, Rule] = {}
    latents = latent_linears(subject.source) if subject.source is not None else {}
    for name in subject.weights.names():
        heads, halves = latents.get(name.removesuffix(".weight")), subject.weights.halves(name)
        if halves is not None and heads is not None:
            query, attended = (_of_ggml(kind) or _as_it_is for kind in halves)
            rules[name] = LatentRounding(heads, query, attended)
            continue
        rule = _of_ggml(subject.weights.encoding(name))
        if rule is not None and len(subject.weights.shape(name)) == 2:
            rules[name] = rule
    return rules


def _of_ggml(kind: str) -> Rounding | None:
    """kind: ggml's name of a type, "" or that of floats for none."""
    if kind in ("", "F32", "F16", "BF16"):
        return None
    return ggml_q8_0 if kind in _WITH_Q8_0 else ggml_q8_k


def _as_it_is(x: torch.Tensor) -> torch.Tensor:
    return x


def _input_global_scale(subject: Subject, name: str) -> float:
    if subject.folder.readable(f"{name}.input_global_scale"):
        return _scalar(subject, f"{name}.input_global_scale")
    if subject.folder.readable(f"{name}.input_scale"):
        return 1 / _scalar(subject, f"{name}.input_scale")
    return 0.0


def _scalar(subject: Subject, name: str) -> float:
    return float(subject.folder.read(name).float().flatten()[0])


def _shared(subject: Subject, scales: dict[str, float]) -> dict[str, float]:
    linears = subject.blueprint.linears if subject.blueprint is not None else {}
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in scales:
        found = _EXPERTS.fullmatch(name)
        if found:
            groups.setdefault((found[1], linears[name].part == "down"), []).append(name)
    return {name: min(scales[n] for n in names) for names in groups.values() for name in names}
