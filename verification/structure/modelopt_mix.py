"""Whether ModelOpt's config of a mix says the same in all its places: `quantized_layers`, which engines go by, the
groups that name the same modules, and hf_quant_config.json."""

from collections.abc import Iterator, Mapping
from typing import Any

from verification.finding import Finding
from verification.reading.declared import modelopt_layers
from verification.reading.folder import CONFIG, MODELOPT_CONFIG
from verification.structure.json_in_sentences import shown

Algorithms = Mapping[str, tuple[int, int | None]]
"""quant_algo -> bits and group of its weights."""

_WHERE = f"{CONFIG}: quantization_config"


def mix_findings(config: Mapping[str, Any], beside: Mapping[str, Any], known: Algorithms) -> Iterator[Finding]:
    """config: `quantization_config`, whose quant_algo is MIXED_PRECISION. beside: hf_quant_config.json's."""
    layers = modelopt_layers(config) or {}
    if not layers:
        what = "quant_algo is MIXED_PRECISION, and no module has an algorithm"
        yield _finding("quantized_layers", what, "vLLM refuses to load the model")
        return
    for name, algorithm in layers.items():
        held = config["quantized_layers"][name]
        bits_and_group = known.get(algorithm)
        if bits_and_group is None:
            what = f"it is {shown(held.get('quant_algo'))}, which no engine knows in a mix"
            yield _finding(f"quantized_layers.{name}.quant_algo", what, "engines take the module for a plain one")
        elif held.get("group_size") not in (None, bits_and_group[1]):
            what = f"it is {shown(held['group_size'])}, and {algorithm} has {shown(bits_and_group[1])}"
            yield _finding(f"quantized_layers.{name}.group_size", what, "engines unpack other groups")
    for name in sorted(layers.keys() & set(config.get("ignore") or ())):
        what = f"it has {layers[name]}, and `ignore` leaves it out"
        yield _finding(f"quantized_layers.{name}", what, "engines go by one or the other")
    yield from _groups(config, layers, known)
    other = beside.get("quantized_layers")
    if beside and other != config["quantized_layers"]:
        what = f"quantized_layers differs from that in {CONFIG}"
        yield Finding("config.modelopt", MODELOPT_CONFIG, what, "one of the readers is wrong", "make them agree")


def _groups(config: Mapping[str, Any], layers: Mapping[str, str], known: Algorithms) -> Iterator[Finding]:
    groups = config.get("config_groups")
    for title, group in groups.items() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        targets = group.get("targets") if isinstance(group, Mapping) else None
        for name in targets if isinstance(targets, list) else ():
            algorithm = layers.get(name, "")
            if algorithm not in known or bits not in (None, known[algorithm][0]):
                held = f"{algorithm} in quantized_layers" if algorithm else "not in quantized_layers"
                what = f"{name} is of {shown(bits)} bits here, and {held}"
                yield _finding(f"config_groups.{title}", what, "one of the readers is wrong")
                break


def _finding(key: str, what: str, consequence: str) -> Finding:
    return Finding("config.quantization", f"{_WHERE}.{key}", what, consequence, "correct it")
