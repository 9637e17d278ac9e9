"""Whether `quantization_config` says of the tensors what they are: every field is compared with what the format, or the
tensors, make it; what is not known is named.

parts.py then holds each Linear's tensors to the scheme, so that what shapes and types decide (group sizes, strategies,
zero points) is not repeated here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sixfold.boundary.patterns import pattern
from sixfold.errors import SixfoldError
from verification.finding import Finding
from verification.reading.declared import AWQ, COMPRESSED_TENSORS, FP8, METHODS, MIXED, MODELOPT
from verification.reading.folder import CONFIG, MODELOPT_CONFIG
from verification.reading.stored_parts import CACHE_SCALES
from verification.reading.subject import Subject
from verification.structure.json_in_sentences import shown
from verification.structure.modelopt_mix import mix_findings

_WHERE = f"{CONFIG}: quantization_config"
_UNPACKS = "engines unpack the weights, or round their inputs, by something else than they were made for"

_FIELDS: Mapping[str, frozenset[str]] = {
    COMPRESSED_TENSORS: frozenset(
        "config_groups format global_compression_ratio ignore kv_cache_scheme quant_method quantization_status"
        " sparsity_config transform_config version".split()
    ),
    MODELOPT: frozenset(
        "config_groups ignore exclude_modules quant_algo quant_method producer kv_cache_scheme kv_cache_quant_algo"
        " group_size quantized_layers moe_quant_algo smoothquant_val has_zero_point pre_quant_scale".split()
    ),
    AWQ: frozenset(
        "quant_method bits w_bit group_size q_group_size version zero_point modules_to_not_convert backend do_fuse"
        " modules_to_fuse fuse_max_seq_len exllama_config checkpoint_format format meta pack_dtype sym desc_act lm_head"
        " dynamic".split()
    ),
    FP8: frozenset(
        "quant_method activation_scheme fmt scale_fmt weight_block_size modules_to_not_convert config_groups group_size"
        " ignore kv_cache_quant_algo moe_quant_algo producer quant_algo quantized_layers dequantize".split()
    ),
}
_ARGUMENTS = frozenset(
    "num_bits type symmetric group_size strategy block_structure dynamic actorder scale_dtype zp_dtype observer"
    " observer_kwargs targets".split()
)
_DEFAULTS: Mapping[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
"""compressed-tensors' own, of QuantizationArgs."""

_Rules = Mapping[str, tuple[Any, ...]]
_FP4: _Rules = {"num_bits": (4,), "type": ("float",), "symmetric": (True,)}
_FLOAT8: _Rules = {"num_bits": (8,), "type": ("float",), "symmetric": (True,)}
_INT8: _Rules = {"num_bits": (8,), "type": ("int",)}
_WEIGHTS: Mapping[str, _Rules] = {
    "nvfp4-pack-quantized": {**_FP4, "strategy": ("tensor_group",), "group_size": (16,), "dynamic": (False,)},
    "mxfp4-pack-quantized": {**_FP4, "group_size": (32,), "dynamic": (False,)},
    "pack-quantized": {"num_bits": tuple(range(1, 9)), "type": ("int",), "dynamic": (False,)},
    "float-quantized": {**_FLOAT8, "strategy": ("tensor", "channel", "block", "group"), "dynamic": (False,)},
    "int-quantized": {"num_bits": (4, 8), "type": ("int",), "dynamic": (False,)},
}
_INPUTS: Mapping[str, _Rules] = {
    "nvfp4-pack-quantized": {**_FP4, "strategy": ("tensor_group",), "group_size": (16,)},
    "mxfp4-pack-quantized": {**_FP4, "group_size": (32,)},
    "pack-quantized": _INT8,
    "float-quantized": {**_FLOAT8, "strategy": ("tensor", "token", "group", "channel")},
    "int-quantized": _INT8,
}
"""compressed-tensors' formats -> what the arguments of weights and of inputs may be."""

_EMPTY: tuple[Any, ...] = (None, {}, [], "")


def check_fields(subject: Subject) -> Iterator[Finding]:
    method, config = subject.declared.method, subject.declared.config
    if method not in METHODS:
        yield from _other_method(subject)
        return
    for key in config:
        if key not in _FIELDS[method]:
            what = f"it is {shown(config[key])}, and {method} has no such field"
            yield _finding(key, what, "unknown here", "remove it" if config[key] else "remove it, or leave it")
    if method == COMPRESSED_TENSORS:
        yield from _compressed_tensors(config)
    elif method == MODELOPT:
        yield from _modelopt(subject, config)
    elif method == FP8:
        yield from _fp8(subject, config)
    elif method == AWQ and config.get("desc_act"):
        yield _finding("desc_act", "it is true, and AWQ's layout has no order of activations", _UNPACKS)


def _finding(key: str, what: str, consequence: str = _UNPACKS, remedy: str = "correct it") -> Finding:
    return Finding("config.quantization", f"{_WHERE}.{key}", what, consequence, remedy)


def _other_method(subject: Subject) -> Iterator[Finding]:
    """A method that is not known here, over tensors of one that is."""
    held = {suffix for suffixes in subject.modules.values() for suffix in suffixes}
    owners = {
        "weight_packed": COMPRESSED_TENSORS,
        "weight_global_scale": COMPRESSED_TENSORS,
        "weight_shape": COMPRESSED_TENSORS,
        "weight_scale_2": MODELOPT,
        "weight_scale_inv": FP8,
    }
    owner = next((owner for suffix, owner in owners.items() if suffix in held), None)
    if owner is None and "qweight" in held and "g_idx" not in held:
        owner = AWQ
    if owner is None and "weight_scale" in held:
        owner = f"{COMPRESSED_TENSORS} or {MODELOPT}"
    if owner is not None and subject.declared.method:
        what = f"it is {subject.declared.method!r}, and the tensors are {owner}'s"
        yield _finding("quant_method", what, "engines look for other tensors, and stop")


def _compressed_tensors(config: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("transform_config", "sparsity_config"):
        value = config.get(key)
        named = dict(value) if isinstance(value, Mapping) else {"": value}
        if any(one not in (*_EMPTY, "dense") for one in named.values()):
            yield _finding(key, f"it is {shown(value)}: weights so stored are not known here")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        yield _finding("config_groups", f"it is {shown(groups)}", "engines take every weight for a plain one")
        return
    for name, group in groups.items():
        where = f"config_groups.{name}"
        if not isinstance(group, Mapping):
            yield _finding(where, "it is no group")
            continue
        if group.get("output_activations") not in _EMPTY:
            yield _finding(f"{where}.output_activations", "outputs are declared quantized, which no tensor here is for")
        layout = str(group.get("format") or config.get("format"))
        weights, inputs = group.get("weights"), group.get("input_activations")
        whole = str(config.get("format"))
        if isinstance(weights, Mapping) and layout != whole and list(_against(weights, _WEIGHTS.get(layout, {}))):
            if whole in _WEIGHTS and not list(_against(weights, _WEIGHTS[whole])):
                yield _finding(f"{where}.format", f"it is {layout}, and its weights are {whole}'s")
                continue
        if isinstance(weights, Mapping):
            yield from _arguments(f"{where}.weights", weights, _WEIGHTS.get(layout, {}), layout)
            asymmetric = weights.get("symmetric", True) is False
            if layout == "pack-quantized" and asymmetric and isinstance(inputs, Mapping):
                what = "inputs are declared quantized, and no engine has integer inputs for weights with zero points"
                yield _finding(f"{where}.input_activations", what)
        if isinstance(inputs, Mapping):
            yield from _arguments(f"{where}.input_activations", inputs, _INPUTS.get(layout, {}), layout)


def _arguments(where: str, held: Mapping[str, Any], rules: _Rules, layout: str) -> Iterator[Finding]:
    for key in held:
        if key not in _ARGUMENTS:
            yield _finding(f"{where}.{key}", f"it is {shown(held[key])}, and there is no such argument")
    for key, value, allowed in _against(held, rules):
        what = f"it is {shown(value)}, and {layout} has {' or '.join(map(shown, allowed))}"
        yield _finding(f"{where}.{key}", what)


def _against(held: Mapping[str, Any], rules: _Rules) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(argument, its value, what it may be) wherever one is not as the rules have it."""
    for key, allowed in rules.items():
        value = held.get(key, _DEFAULTS.get(key))
        value = _DEFAULTS.get(key) if value is None else value
        if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            yield key, value, allowed


_ALGORITHMS: Mapping[str, tuple[int, int | None]] = {
    "FP8": (8, None),
    "FP8_PER_CHANNEL_PER_TOKEN": (8, None),
    "NVFP4": (4, 16),
    "NVFP4_AWQ": (4, 16),
    "W4A16_NVFP4": (4, 16),
}
"""quant_algo -> bits and group of its weights."""


def _modelopt(subject: Subject, config: Mapping[str, Any]) -> Iterator[Finding]:
    algorithm = str(config.get("quant_algo"))
    known = _ALGORITHMS.get(algorithm)
    beside = subject.folder.modelopt_config or {}
    if algorithm.upper() == MIXED:
        yield from mix_findings(config, beside, _ALGORITHMS)
    if known is None:
        return
    bits, group = known
    for where, part in (("", config), (MODELOPT_CONFIG, beside)):
        size = part.get("group_size")
        if size is not None and size != group and not (group is None and size == 0):
            what = f"group_size is {size}, and {algorithm} has {f'groups of {group}' if group else 'none'}"
            if where:
                yield Finding("config.modelopt", where, what, _UNPACKS, "correct it")
            else:
                yield _finding("group_size", what)
    groups = config.get("config_groups")
    for name, one in groups.items() if isinstance(groups, Mapping) else ():
        for side in ("weights", "input_activations"):
            stated = one.get(side) if isinstance(one, Mapping) else None
            for key, wanted in (("num_bits", bits), ("type", "float"), ("group_size", group)):
                value = stated.get(key) if isinstance(stated, Mapping) else None
                if value is not None and value != wanted:
                    what = f"it is {shown(value)}, and {algorithm} has {shown(wanted)}"
                    yield _finding(f"config_groups.{name}.{side}.{key}", what)
    cache = beside.get("kv_cache_quant_algo")
    scales = any(name.rpartition(".")[2] in CACHE_SCALES for name in subject.folder.tensors)
    if cache not in (None, "", "NONE") and not scales:
        what = f"kv_cache_quant_algo is {cache!r}, and no scale of a key-value cache is stored"
        yield Finding("config.kv-cache", MODELOPT_CONFIG, what, "engines quantize the cache by a scale of one", "null")


def _fp8(subject: Subject, config: Mapping[str, Any]) -> Iterator[Finding]:
    if config.get("fmt") not in (None, "e4m3", "float8_e4m3fn"):
        yield _finding("fmt", f"it is {shown(config['fmt'])}, and the tensors are E4M3")
    scheme = config.get("activation_scheme", "dynamic")
    fixed = any("input_scale" in suffixes for suffixes in subject.modules.values())
    if scheme not in ("dynamic", "static") or (scheme == "static") != fixed:
        what = f"it is {shown(scheme)}, and {'scales' if fixed else 'no scales'} of inputs are stored"
        yield _finding("activation_scheme", what)


def check_classes(subject: Subject) -> Iterator[Finding]:
    """`ignore` may name a class of modules: "Linear" there leaves out all of them."""
    declared = subject.declared
    if declared.method != COMPRESSED_TENSORS:
        return
    quantized = any(subject.is_quantized(module) for module in subject.modules)
    for entry in declared.ignore:
        if quantized and entry in ("Linear", "re:.*", "re:.*Linear.*", "re:^Linear$"):
            what = f"it leaves out {entry!r}, which is every Linear, and they are quantized"
            yield _finding("ignore", what, "engines read packed bytes as plain weights")


def check_expressions(subject: Subject) -> Iterator[Finding]:
    """Regular expressions of `ignore` and `targets` are such, and end."""
    groups = subject.declared.config.get("config_groups")
    targets = (
        [g.get("targets") for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
    )
    entries = [*subject.declared.ignore, *(t for one in targets if isinstance(one, list) for t in one)]
    for entry in dict.fromkeys(e for e in entries if isinstance(e, str) and e.startswith("re:")):
        try:
            found = pattern(entry[3:])
            for module in subject.modules:
                found.match(module)
        except (ValueError, SixfoldError) as error:
            reason = error.what if isinstance(error, SixfoldError) else f"{entry!r} is no regular expression ({error})"
            yield _finding("ignore" if entry in subject.declared.ignore else "config_groups", reason)


def check_beside(subject: Subject) -> Iterator[Finding]:
    """hf_quant_config.json makes engines take a folder for ModelOpt's."""
    if MODELOPT_CONFIG not in subject.folder.files or subject.declared.method in (MODELOPT, FP8):
        return
    if subject.source is not None and MODELOPT_CONFIG in subject.source.checkpoint.extras:
        return
    as_what = f"{subject.declared.method}'s" if subject.declared.method else "plain numbers"
    what = f"it declares ModelOpt's quantization, and the weights are {as_what}"
    yield Finding("config.modelopt", MODELOPT_CONFIG, what, "engines look for scales that are not there", "remove it")
