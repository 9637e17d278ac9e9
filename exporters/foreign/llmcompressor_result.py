"""llmcompressor's output, corrected and checked: names, dtypes, shards, configuration.

Its files are read shard by shard and written again, since names change and lost tensors are added.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from exporters.foreign.llmcompressor_recipe import module_name
from sixfold.artifact.safetensors_layout import SHARD, carried_texts, config_text, index_text
from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.checkpoint.storage.weight_files import INDEX, SINGLE
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.model.source import Source

SUFFIXES = (
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_global_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
)
"""What compressed-tensors stores for a Linear, after its name and a dot."""

SCALES = ("weight_scale", "weight_global_scale", "input_scale", "input_global_scale")
_SHOWN = 3


def finish(source: Source, written: Path, folder: Path) -> list[str]:
    """Write the artifact into `folder` from what the tool left in `written`; returns notes.

    Raises SixfoldError where a tensor is missing, unknown, of another shape, quantized though it must not be, or where
    a scale is useless.
    """
    shards = sorted(written.glob("*.safetensors"))
    names = _names(source, shards)
    _check(source, set(names.values()))
    restored = [name for name in source.checkpoint.tensors if name not in set(names.values())]
    files: dict[str, str] = {}
    total = 0
    corrected: list[str] = []
    globals_: dict[str, float] = {}
    for number, shard in enumerate(shards):
        file = SINGLE if len(shards) == 1 else SHARD.format(number + 1, len(shards))
        tensors = _shard(source, shard, names, corrected)
        if number == len(shards) - 1:
            tensors |= {name: _read(source, name) for name in restored if _lost(source, name)}
        _check_scales(tensors)
        globals_ |= {name: float(t) for name, t in tensors.items() if name.endswith(".weight_global_scale")}
        write_tensors(folder / file, tensors, {"format": "pt"})
        files |= dict.fromkeys(tensors, file)
        total += sum(t.nbytes for t in tensors.values())
        shard.unlink()
    _check_fused(source, globals_)
    if len(shards) > 1:
        (folder / INDEX).write_bytes(index_text(files, total))
    quantization = json.loads((written / "config.json").read_text())["quantization_config"]
    quantization["ignore"] = ignored(source, files)
    (folder / "config.json").write_bytes(config_text(source, quantization))
    for name, text in carried_texts(source).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return _notes(source, names, restored, corrected)


def ignored(source: Source, written: Iterable[str]) -> list[str]:
    """Linears that are not quantized, for `quantization_config.ignore`: by on-disk name, and by transformers' own
    where that differs (engines that rename modules match the list after renaming)."""
    plain = set(written)
    kept = [linear for linear in source.architecture.linears if linear.weight in plain]
    kept = [linear for linear in kept if f"{linear.name}.weight_scale" not in plain]
    return list(dict.fromkeys(name for linear in kept for name in (linear.name, module_name(linear))))


def _names(source: Source, shards: Sequence[Path]) -> dict[str, str]:
    """The tool's tensor name -> the architecture's own name on disk, with the same suffix."""
    on_disk = _aliases(source.architecture.linears)
    names: dict[str, str] = {}
    for shard in shards:
        with safe_open(shard, "pt") as file:
            for name in file.keys():
                module, _, suffix = name.rpartition(".")
                known = on_disk.get(module) if suffix in SUFFIXES else None
                names[name] = f"{known}.{suffix}" if known else name
    taken = list(names.values())
    if len(set(taken)) != len(taken):
        twice = sorted({name for name in taken if taken.count(name) > 1})
        raise SixfoldError(f"llmcompressor wrote {_listed(twice)} twice under different names", _REPORT)
    return names


def _aliases(linears: Sequence[Linear]) -> dict[str, str]:
    """Every name that llmcompressor may save a Linear under -> its name on disk."""
    aliases: dict[str, str] = {}
    for linear in linears:
        aliases[module_name(linear)] = linear.name
        if linear.expert is not None:
            # transformers restores the path to the expert, but not what llmcompressor calls the Linear inside.
            aliases[f"{linear.name.rpartition('.')[0]}.{linear.part}_proj"] = linear.name
    return aliases | {linear.name: linear.name for linear in linears}


_REPORT = "this model is not one that llmcompressor handles well; use a native exporter"


def _check(source: Source, written: set[str]) -> None:
    """All of the source is there, nothing else is, and nothing is quantized that must not be."""
    linears = {linear.name: linear for linear in source.architecture.linears}
    stems: dict[str, set[str]] = {}
    unknown = []
    for name in sorted(written - set(source.checkpoint.tensors)):
        module, _, suffix = name.rpartition(".")
        if module not in linears or suffix not in SUFFIXES:
            unknown.append(name)
        stems.setdefault(module, set()).add(suffix)
    if unknown:
        raise SixfoldError(f"llmcompressor wrote {_listed(unknown)}, which the architecture has no name for", _REPORT)
    wrong = [name for name in stems if not linears[name].quantizable]
    if wrong:
        raise SixfoldError(
            f"llmcompressor quantized {_listed(wrong)}", "add it to `ignore` in the llmcompressor recipe"
        )
    quantized = {f"{name}.weight" for name, suffixes in stems.items() if "weight_scale" in suffixes}
    missing = [n for n in source.checkpoint.tensors if n not in written | quantized and not _lost(source, n)]
    if missing:
        raise SixfoldError(f"llmcompressor did not write {_listed(missing)}", _REPORT)
    _check_uniform(stems)


def _check_uniform(stems: Mapping[str, set[str]]) -> None:
    """Experts of one layer carry the same tensors each: a missing scale loads as zero, and zero is infinity later."""
    layers: dict[str, dict[str, set[str]]] = {}
    for name, suffixes in stems.items():
        parts = name.split(".")
        if "experts" in parts:
            index = parts.index("experts")
            key = ".".join([*parts[: index + 1], "*", *parts[index + 2 :]])
            layers.setdefault(key, {})[name] = suffixes
    for experts in layers.values():
        every = set().union(*experts.values())
        lacking = [f"{name}.{suffix}" for name, found in experts.items() for suffix in sorted(every - found)]
        if lacking:
            raise SixfoldError(
                f"llmcompressor left out {_listed(lacking)} (no calibration token reached the expert)",
                "set moe_calibrate_all_experts: true, or more calibration samples",
            )


def _lost(source: Source, name: str) -> bool:
    """Whether the tool is known to drop this tensor: transformers does not run it, or it is tied to the embeddings."""
    architecture = source.architecture
    return name in architecture.not_run or (architecture.tied_embeddings and name == "lm_head.weight")


def _shard(source: Source, shard: Path, names: Mapping[str, str], corrected: list[str]) -> dict[str, torch.Tensor]:
    """The tensors of one file under their right names; those that lost precision are taken from the source."""
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(shard, "pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            kept = source.checkpoint.tensors.get(names[name])
            if kept is not None and tensor.is_floating_point() and tensor.element_size() > 1:
                if tuple(tensor.shape) != kept.shape:
                    raise SixfoldError(
                        f"llmcompressor wrote {names[name]} as {tuple(tensor.shape)}, the source has {kept.shape}",
                        _REPORT,
                    )
                original = _read(source, names[name])
                if original.dtype != tensor.dtype and torch.equal(original.to(tensor.dtype), tensor):
                    tensor = original
                    corrected.append(names[name])
            elif kept is not None and f"{names[name]}_scale" not in names.values():
                raise SixfoldError(f"llmcompressor rounded {names[name]} without a scale", _REPORT)
            tensors[names[name]] = tensor
    return tensors


def _read(source: Source, name: str) -> torch.Tensor:
    shape = source.checkpoint.tensors[name].shape
    return source.checkpoint.read(TensorSlice(name, 0, shape[0] if shape else 1))


def _check_scales(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] in SCALES:
            values = tensor.float()
            if not bool(torch.isfinite(values).all()) or (values.numel() == 1 and float(values) <= 0):
                raise SixfoldError(
                    f"llmcompressor wrote {name} with a value that is zero, negative or not finite",
                    "set moe_calibrate_all_experts: true, or more calibration samples",
                )


def _check_fused(source: Source, scales: Mapping[str, float]) -> None:
    """Engines keep one global scale for Linears that they fuse: with two, one half of the weights is scaled wrongly."""
    for group in {linear.fused for linear in source.architecture.linears if linear.fused}:
        found = [scales[key] for name in group if (key := f"{name}.weight_global_scale") in scales]
        if found and not all(math.isclose(value, found[0]) for value in found):
            raise SixfoldError(
                f"llmcompressor gave {_listed(list(group))} different global scales, but engines keep one of them",
                "use the nvfp4 exporter, which shares it, or the oneshot entry point",
            )


def _notes(source: Source, names: Mapping[str, str], restored: Sequence[str], corrected: Sequence[str]) -> list[str]:
    renamed = sum(old != new for old, new in names.items())
    lost = [name for name in restored if _lost(source, name)]
    notes = []
    if renamed:
        notes.append(f"{renamed} tensors of llmcompressor's were given the architecture's own names")
    if corrected:
        notes.append(f"taken from the source, since llmcompressor rounded them: {_listed(list(corrected))}")
    if lost:
        notes.append(f"copied from the source, since llmcompressor drops them: {_listed(lost)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
