"""What config.json says is quantized, read as engines read it.

compressed-tensors: `config_groups` with `targets` (a class, a name, or `re:` and an expression that must match at the
beginning); `ignore` in the same words goes before them. ModelOpt: everything but `ignore`/`exclude_modules`, which are
shell patterns that vLLM also takes as substrings; where `quant_algo` is MIXED_PRECISION, what `quantized_layers` has an
entry for, its own or that of a module around it (all experts of a layer). AutoAWQ: everything but what has an entry of
`modules_to_not_convert` anywhere in its name. FP8 of the transformers kind (`quant_method: fp8`): the same with
`modules_to_not_convert`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from sixfold.boundary.patterns import pattern
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear

COMPRESSED_TENSORS = "compressed-tensors"
MODELOPT = "modelopt"
AWQ = "awq"
FP8 = "fp8"
METHODS = (COMPRESSED_TENSORS, MODELOPT, AWQ, FP8)
MIXED = "MIXED_PRECISION"
"""ModelOpt's `quant_algo` of a mix."""

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.([^.]+)")
_ON_DISK, _IN_VLLM = ".block_sparse_moe.", ".mlp."
_PARTS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


@dataclass(frozen=True)
class Scheme:
    """How a Linear is stored by the config's word.

    format: compressed-tensors' format, ModelOpt's quant_algo, "awq" or "fp8".
    weights, inputs: compressed-tensors' arguments, or their equivalent; inputs None where they stay as is.
    """

    method: str
    format: str
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None


@dataclass(frozen=True)
class Declared:
    """`quantization_config`, and the method that it names ("" where there is none)."""

    method: str
    config: Mapping[str, Any]

    @cached_property
    def ignore(self) -> tuple[str, ...]:
        keys = ("ignore", "exclude_modules", "modules_to_not_convert")
        entries = next((self.config[k] for k in keys if self.config.get(k)), ())
        return tuple(e for e in entries if isinstance(e, str)) if isinstance(entries, (list, tuple)) else ()

    def scheme_of(self, name: str) -> Scheme | None:
        """What an engine that knows a Linear as `name` takes it for; None for plain weights."""
        if name not in self._known:
            self._known[name] = self._scheme_of(name)
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, Scheme | None]:
        """Checks ask for the same tens of thousands of names again and again."""
        return {}

    @cached_property
    def _whole_names(self) -> frozenset[str]:
        return frozenset(self.ignore)

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        """Entries that are not compared whole."""
        exact = self.method == COMPRESSED_TENSORS
        return tuple(entry for entry in self.ignore if not exact or entry.startswith("re:"))

    def _scheme_of(self, name: str) -> Scheme | None:
        if not self.method or name in self._whole_names or any(self.hits(entry, name) for entry in self._patterns):
            return None
        if self.method == AWQ:
            return Scheme(AWQ, AWQ, self.config, None)
        if self.method == FP8:
            return Scheme(FP8, FP8, self.config, self.config)
        if self.method == MODELOPT:
            return _modelopt_scheme(self.config, name)
        group = self._group(name)
        if group is None or not isinstance(group.get("weights"), Mapping):
            return None
        layout = group.get("format") or self.config.get("format") or ""
        return Scheme(COMPRESSED_TENSORS, str(layout), group["weights"], group.get("input_activations"))

    def hits(self, entry: str, name: str) -> bool:
        """Whether an entry of `ignore` leaves `name` out, by the method's own rule."""
        if self.method == COMPRESSED_TENSORS:
            return _names(entry, name)
        if self.method == MODELOPT:
            return fnmatchcase(name, entry) or ("*" not in entry and _whole_parts(entry, name))
        return entry in name

    def _group(self, name: str) -> Mapping[str, Any] | None:
        """A group that names the Linear goes before one that targets its class."""
        groups = self.config.get("config_groups")
        found = [g for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
        for group in found:
            if any(target != "Linear" and _names(target, name) for target in _targets(group)):
                return group
        return next((group for group in found if "Linear" in _targets(group)), None)


def declared(config: Mapping[str, Any]) -> Declared:
    """From a whole config.json."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            found = part.get(key)
            if isinstance(found, Mapping) and found:
                return Declared(str(found.get("quant_method", "")), found)
    return Declared("", {})


def engine_names(linear: Linear) -> tuple[str, ...]:
    """Every module name under which an engine asks whether this Linear is quantized; the name on disk comes first.

    vLLM gives MoE blocks one name (`.mlp`), builds the experts of a layer as one module and asks for its
    `experts.N.gate_proj`, `up_proj` and `down_proj`. transformers asks under its own modules' names.
    """
    names = [linear.name]
    expert = _EXPERT.fullmatch(linear.name)
    if expert:
        names.append(f"{expert[1]}.{expert[2]}.{_PARTS.get(linear.part, expert[3])}")
    else:
        names.append(linear.module)
    names += [name.replace(_ON_DISK, _IN_VLLM) for name in names]
    return tuple(dict.fromkeys(names))


def _targets(group: Mapping[str, Any]) -> Sequence[str]:
    targets = group.get("targets")
    return [t for t in targets if isinstance(t, str)] if isinstance(targets, list) else ["Linear"]


def _names(entry: str, name: str) -> bool:
    """compressed-tensors' rule: `re:` matches at the beginning, anything else is the whole name."""
    if not entry.startswith("re:"):
        return entry == name
    try:
        return pattern(entry[3:]).match(name)
    except (ValueError, SixfoldError):  # which has a finding of its own
        return False


def _whole_parts(entry: str, name: str) -> bool:
    """Substring, as vLLM takes it, but at whole parts of the name: `layers.1` is not in `layers.10`."""
    return f".{entry.strip('.')}." in f".{name}."


def modelopt_layers(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Module -> its own `quant_algo`, of a mix; None of a config that has one for all."""
    if str(config.get("quant_algo") or "").upper() != MIXED:
        return None
    layers = config.get("quantized_layers")
    found = layers.items() if isinstance(layers, Mapping) else ()
    return {str(n): str(of.get("quant_algo") or "").upper() for n, of in found if isinstance(of, Mapping)}


def _modelopt_scheme(config: Mapping[str, Any], name: str) -> Scheme | None:
    algorithm, layers = str(config.get("quant_algo") or ""), modelopt_layers(config)
    if layers is not None:
        parts = name.split(".")
        around = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        algorithm = next((layers[one] for one in around if one in layers), "")
        if not algorithm:
            return None
    fixed = algorithm in ("FP8", "NVFP4")
    weights = {"group_size": 16} if "NVFP4" in algorithm else {}
    return Scheme(MODELOPT, algorithm, weights, {"dynamic": False} if fixed else None)
