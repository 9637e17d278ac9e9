"""Whether every Linear has exactly the tensors that its scheme in config.json requires, of the right type and size."""

import re
from collections.abc import Iterator, Mapping, Sequence

from sixfold.model.architecture import Linear
from verification.finding import EXPORT_AGAIN, Finding, Severity
from verification.reading.declared import COMPRESSED_TENSORS, METHODS, Scheme, engine_names
from verification.reading.folder import CONFIG
from verification.reading.required_tensors import Blueprint
from verification.reading.stored_parts import CACHE_SCALES, FLOATS, QUANTIZED_PARTS, Part, parts_of
from verification.reading.subject import Subject


def check_method(subject: Subject) -> Iterator[Finding]:
    method = subject.declared.method
    quantized = [m for m in subject.modules if subject.is_quantized(m)]
    if not method and quantized:
        yield from _undeclared(subject, quantized)
    elif method and method not in METHODS:
        what = f"quant_method {method!r} is not one of {', '.join(METHODS)}, so its tensors are not checked"
        yield Finding("config.quantization", CONFIG, what, "unknown here", "check it by other means", "warning")
    elif method and not quantized:
        what = f"quantization_config says {method}, but no tensor is quantized"
        yield Finding(
            "config.quantization", CONFIG, what, "engines look for scales that are not there", "remove the key"
        )


def check_compressed_tensors(subject: Subject) -> Iterator[Finding]:
    """What compressed-tensors' config says of itself: one format, and weights that are compressed."""
    config = subject.declared.config
    if subject.declared.method != COMPRESSED_TENSORS:
        return
    groups = config.get("config_groups")
    formats = {
        str(group["format"])
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and group.get("format")
    }
    stated = config.get("format")
    if (formats and stated not in (*formats, "mixed-precision")) or (len(formats) > 1 and stated != "mixed-precision"):
        what = f"quantization_config.format is {stated!r}, its groups say {' and '.join(sorted(formats))}"
        yield Finding("config.quantization", CONFIG, what, "readers unpack by one of the two", "make them agree")
    status = config.get("quantization_status", "compressed")
    if status != "compressed" and any(subject.is_quantized(module) for module in subject.modules):
        what = f"quantization_status is {status!r}, and the weights are compressed"
        yield Finding("config.quantization", CONFIG, what, "transformers takes packed bytes for weights", "correct it")


def check_cache(subject: Subject) -> Iterator[Finding]:
    """A key-value cache that is declared quantized with fixed scales has them in every layer, and no other has any."""
    scheme = subject.declared.config.get("kv_cache_scheme")
    fixed = (isinstance(scheme, Mapping) and not scheme.get("dynamic")) or (isinstance(scheme, str) and scheme)
    held = {name for name in subject.folder.tensors if name.rpartition(".")[2] in CACHE_SCALES}
    where, remedy = f"{CONFIG}: kv_cache_scheme", "remove the key, or calibrate the cache"
    if fixed and not held:
        what = "kv_cache_scheme declares a quantized key-value cache, and no k_scale or v_scale is stored"
        consequence = "vLLM quantizes keys and values with a scale of one: long answers degrade"
        yield Finding("config.kv-cache", where, what, consequence, remedy)
    beside = (subject.folder.modelopt_config or {}).get("kv_cache_quant_algo")
    if held and not scheme and beside in (None, "", "NONE") and subject.declared.method in METHODS:
        what = f"it is stored, as {len(held) - 1} more, and {where} declares no quantized key-value cache"
        yield Finding("config.kv-cache", min(held), what, "engines ignore the scales, or stop", "declare it")
    for part in sorted({name.rpartition(".")[2] for name in held}):
        places = {_LAYER.sub(".*.", name): 0 for name in held if name.endswith(f".{part}")}
        for place in places:
            layers = {found[1] for name in held if (found := _LAYER.search(name)) and _LAYER.sub(".*.", name) == place}
            for layer in sorted(_attention_layers(subject) - layers, key=int):
                name = place.replace(".*.", f".{layer}.", 1)
                what = "other layers have it, this one does not"
                yield Finding("config.kv-cache", name, what, "its cache has a scale of one", EXPORT_AGAIN)


_LAYER = re.compile(r"\.(\d+)\.")


def _attention_layers(subject: Subject) -> set[str]:
    linears = subject.blueprint.architecture.linears if subject.blueprint is not None else ()
    parts = ("k_proj", "v_proj", "qkv_proj", "kv_b_proj")
    return {found[1] for lin in linears if lin.part in parts and (found := _LAYER.search(lin.name))}


def _undeclared(subject: Subject, quantized: Sequence[str]) -> Iterator[Finding]:
    """Quantized tensors that config.json does not mention: one by one if they are few, else once."""
    consequence = "engines read packed bytes as weights, or stop"
    if 2 * len(quantized) > len(subject.blueprint.linears if subject.blueprint is not None else ()):
        what = f"it has no quantization_config, but {quantized[0]} and {len(quantized) - 1} more are quantized"
        yield Finding("config.quantization", CONFIG, what, consequence, EXPORT_AGAIN)
        return
    for module in quantized:
        part = min(subject.modules[module] & QUANTIZED_PARTS, default="weight")
        what = "it is quantized, and config.json has no quantization_config"
        yield Finding("config.quantization", f"{module}.{part}", what, consequence, EXPORT_AGAIN)


def check_parts(subject: Subject) -> Iterator[Finding]:
    if subject.blueprint is None or subject.declared.method not in METHODS:
        return
    unknown: set[str] = set()
    for linear, scheme in subject.quantized():
        parts = parts_of(scheme, linear.out_features, linear.in_features)
        if parts is None:
            if scheme.format not in unknown:
                what = f"the {scheme.method} format {scheme.format!r} with these arguments is not known here"
                yield Finding("config.quantization", CONFIG, what, "unknown here", "check the arguments")
            unknown.add(scheme.format)
            continue
        yield from _parts_of_linear(subject, linear, scheme, parts)


def _parts_of_linear(subject: Subject, linear: Linear, scheme: Scheme, parts: tuple[Part, ...]) -> Iterator[Finding]:
    suffixes = subject.modules[linear.name]
    expected = {part.suffix for part in parts}
    for part in parts:
        name = f"{linear.name}.{part.suffix}"
        stored = subject.folder.tensors.get(name)
        if stored is None:
            if part.required:
                yield Finding(
                    "parts.missing",
                    name,
                    f"{scheme.format} calls for it",
                    "a missing scale loads as zero or as whatever was in memory: infinity, then pad tokens",
                    EXPORT_AGAIN,
                )
            continue
        if stored.shape not in part.shapes:
            what = f"its shape is {list(stored.shape)}, {scheme.format} of {linear.out_features} x {linear.in_features}"
            yield Finding(
                "parts.shape",
                name,
                f"{what} needs {list(part.shapes[0])}",
                "loading stops, or rows shift",
                EXPORT_AGAIN,
            )
        elif part.suffix == "weight_shape" and subject.folder.readable(name):
            held = subject.folder.read(name).tolist()
            if held != [linear.out_features, linear.in_features]:
                what = f"it says {held}, the weight is {linear.out_features} x {linear.in_features}"
                yield Finding("parts.shape", name, what, "rows shift when they are unpacked", EXPORT_AGAIN)
        if stored.dtype not in part.dtypes:
            what = f"its type is {stored.dtype}, {scheme.format} needs {' or '.join(part.dtypes)}"
            yield Finding("parts.dtype", name, what, "bytes are taken for other numbers", EXPORT_AGAIN)
    for suffix in sorted((suffixes & QUANTIZED_PARTS) - expected):
        yield Finding(
            "parts.unexpected",
            f"{linear.name}.{suffix}",
            f"{scheme.format} as config.json states it has no such tensor",
            "vLLM stops with a KeyError, or ignores it and computes something else",
            "correct the scheme in config.json, or export again",
        )


def check_plain(subject: Subject) -> Iterator[Finding]:
    """Tensors that are not quantized: shape by the architecture, type by the source (correction biases float32)."""
    blueprint = subject.blueprint
    if blueprint is None:
        return
    for name, shape in blueprint.tensors.items():
        stored = subject.folder.tensors.get(name)
        module, _, suffix = name.rpartition(".")
        if stored is None or (suffix == "weight" and subject.is_quantized(module)):
            continue
        if stored.shape != shape:
            reason = "the source has" if blueprint.source is not None else "config.json says"
            what = f"its shape is {list(stored.shape)}, {reason} {list(shape)}"
            yield Finding("plain.shape", name, what, "loading stops, or rows shift", EXPORT_AGAIN)
        yield from _plain_dtype(blueprint, name, stored.dtype)
    yield from _correction_biases(subject, blueprint)


def _plain_dtype(blueprint: Blueprint, name: str, dtype: str) -> Iterator[Finding]:
    source = blueprint.dtypes.get(name)
    if source in ("I64", "BOOL") and dtype != source:
        yield Finding("plain.dtype", name, f"it is {dtype}, the source has {source}", "values change", EXPORT_AGAIN)
    elif source not in ("I64", "BOOL") and dtype not in FLOATS and blueprint.dtypes:
        yield Finding("plain.dtype", name, f"it is {dtype} without a scale", "bytes are not weights", EXPORT_AGAIN)


_IN_FLOAT32 = "e_score_correction_bias"
"""Of MiniMax, DeepSeek and GLM, all of them published in float32; others may be published in BF16."""


def _correction_biases(subject: Subject, blueprint: Blueprint) -> Iterator[Finding]:
    """Those that were rounded. Without a source, one among others in float32 was; where none is in float32, the source
    may have had them so, as models that are saved in BF16 do."""
    tensors = subject.folder.tensors
    held = {name: tensors[name].dtype for name in blueprint.architecture.correction_biases if name in tensors}
    for name, dtype in held.items():
        source = blueprint.dtypes.get(name)
        if dtype == "F32" or source not in ("F32", None):
            continue
        rounded = source == "F32" or "F32" in held.values()
        if not rounded and not name.endswith(_IN_FLOAT32):
            continue
        yield Finding(
            "plain.dtype",
            name,
            f"this correction bias is {dtype}, not F32",
            "rounded biases choose other experts",
            "copy it from the source" if rounded else "check with `--against` whether the source has it in F32",
            "error" if rounded else "warning",
        )


def check_ignore(subject: Subject) -> Iterator[Finding]:
    """What is quantized is declared so, and what is not is left out, under every name that engines ask by."""
    if subject.blueprint is None or subject.declared.method not in METHODS:
        return
    for linear in subject.blueprint.architecture.linears:
        if linear.name not in subject.modules:
            continue
        stored = subject.is_quantized(linear.name)
        if stored and not linear.quantizable:
            continue  # a finding of its own
        names = engine_names(linear)
        wrong = [name for name in names if (subject.declared.scheme_of(name) is not None) != stored]
        if not wrong:
            continue
        alias = linear.name not in wrong
        as_alias = f" as {wrong[0]}, which is its name in engines" if alias else ""
        if stored:
            what = f"it is quantized, but config.json leaves it out{as_alias}"
            consequence = "the engine reads packed bytes as plain weights, or stops"
        else:
            what = f"it is not quantized, but config.json does not leave it out{as_alias}"
            consequence = "the engine looks for scales that are not there: KeyError, or uninitialized weights"
        # NVIDIA's own ModelOpt releases name modules as on disk alone, and engines load them.
        severity: Severity = "warning" if alias and subject.declared.method == "modelopt" else "error"
        yield Finding("config.ignore", linear.name, what, consequence, "correct the ignore list", severity)


def check_ignore_of_unrun(subject: Subject) -> Iterator[Finding]:
    """Multi-token-prediction layers in BF16 that config.json does not leave out."""
    blueprint = subject.blueprint
    if blueprint is None or subject.declared.method not in METHODS:
        return
    for name, stored in subject.folder.tensors.items():
        module, _, suffix = name.rpartition(".")
        if name in blueprint.tensors and name not in blueprint.architecture.not_run:
            continue
        if not blueprint.not_run(name) or suffix != "weight" or len(stored.shape) != 2 or "norm" in module:
            continue
        if not subject.is_quantized(module) and subject.declared.scheme_of(module) is not None:
            what = "this multi-token-prediction module is not quantized, but config.json does not leave it out"
            if "embed" in module:
                continue
            yield Finding(
                "config.ignore",
                module,
                what,
                "engines that build the module look for scales that are not there",
                "add it to the ignore list",
            )
        if subject.is_quantized(module):
            yield Finding(
                "protected.quantized",
                name,
                "it belongs to a multi-token-prediction layer, which was quantized without statistics",
                "drafts are rejected",
                "export again and leave the layer in BF16",
                "warning",
            )
