"""From a checkpoint's tensors to those of a projector's file, and the types that these are kept in."""

import re
from collections.abc import Iterator, Mapping

from gguf import MODEL_ARCH, GGMLQuantizationType, get_tensor_name_map

from exporters.ggml.projector.arranging import whole
from exporters.ggml.projector.entry import NotRun, Projector, Seeing, Step, Value
from exporters.ggml.projector.header import LAYERS, looked_up
from exporters.ggml.tensors import Tensor
from sixfold.checkpoint.checkpoint import SourceTensor
from sixfold.errors import SixfoldError

_KINDS = (".weight", ".bias", ".input_max", ".input_min", ".output_max", ".output_min")
_POSITIONS = ("v.position_embd.weight", "a.position_embd.weight")
_CONVOLVED = (".patch_embd.weight", ".patch_merger.weight")
"""Parts of names of what llama.cpp convolves pictures with, which it cannot do in BF16."""

_MOST_NUMBERED = 8
"""Of a projector's own modules, which gguf-py's table numbers as it does blocks."""


def held_by(entry: Projector, sources: Mapping[str, SourceTensor]) -> list[str]:
    """Names on disk of the tower and the projector; [] of a checkpoint without them."""
    return [name for name in sources if re.search(entry.holds, name)]


def projector_tensors(
    entry: Projector, seeing: Seeing, sources: Mapping[str, SourceTensor], preset: str
) -> list[tuple[Tensor, GGMLQuantizationType]]:
    """All tensors of the file, each with its type. preset: the file's, F16 or BF16.

    Raises NotRun for a tensor that llama.cpp has no name for, and SixfoldError for a layer that has none.
    """
    blocks = max(next((int(part[key]) for key in LAYERS if part.get(key)), 0) for part in (seeing.tower, seeing.ear))
    mapping = get_tensor_name_map(MODEL_ARCH.MMPROJ, max(blocks, _MOST_NUMBERED))
    own, layers = looked_up(entry.own, seeing), looked_up(entry.layers, seeing)
    found: list[tuple[Tensor, GGMLQuantizationType]] = []
    for name, known in _named(entry, sources):
        module, _, kind = known.rpartition(".")
        gguf_name = f"{own[module]}.{kind}" if module in own else own.get(known)
        gguf_name = gguf_name or mapping.get_name(known, try_suffixes=_KINDS)
        if gguf_name is None:
            gguf_name = next((held for pattern, held in entry.beside if re.search(pattern, known)), None)
        if gguf_name is not None and layers is not None and _layer(gguf_name) >= layers:
            continue
        if gguf_name is None:
            raise NotRun(f"llama.cpp has no name for {name} in a projector of the kind {entry.kind}")
        step = next((step for pattern, step in entry.steps if re.search(pattern, known)), whole)
        parts = looked_up(_arranged(step, gguf_name, sources[name]), seeing)
        found += [(tensor, _type(entry, known, tensor, preset)) for tensor in parts]
    _check(found, seeing, layers)
    return found


def _layer(name: str) -> int:
    """Of a tower; -1 of what is none's."""
    return int(name.split(".")[2]) if name.startswith("v.blk.") else -1


def _arranged(step: Step, name: str, part: SourceTensor) -> Value:
    return lambda seeing: step(seeing, name, part)


def _named(entry: Projector, sources: Mapping[str, SourceTensor]) -> Iterator[tuple[str, str]]:
    """Names on disk, each with that by which gguf-py's table knows it."""
    for name in held_by(entry, sources):
        known = name
        for pattern, replacement in entry.renamed:
            known = re.sub(pattern, replacement, known)
        if not re.search(entry.left_out, known):
            yield name, known
    for pattern, _ in entry.beside:
        yield from ((name, name) for name in sources if re.search(pattern, name))


def _type(entry: Projector, known: str, tensor: Tensor, preset: str) -> GGMLQuantizationType:
    """As llama.cpp's converter chooses it."""
    norm = tensor.name.endswith("_norm.weight")
    if len(tensor.shape) < 2 or norm or re.search(entry.float32, known) or tensor.name in _POSITIONS:
        return GGMLQuantizationType.F32
    if re.search(entry.float16, known):
        return GGMLQuantizationType.F16
    if any(part in tensor.name for part in _CONVOLVED) or re.search(entry.convolved, known):
        return GGMLQuantizationType.F16 if preset == "F16" else GGMLQuantizationType.F32
    return GGMLQuantizationType[preset] if tensor.name.endswith(".weight") else GGMLQuantizationType.F32


def _check(found: list[tuple[Tensor, GGMLQuantizationType]], seeing: Seeing, layers: int | None) -> None:
    """Raises SixfoldError where layers that config.json speaks of have no tensors, as in a tower that was cut."""
    for letter, part in (("v", seeing.tower), ("a", seeing.ear)):
        held = {int(tensor.name.split(".")[2]) for tensor, _ in found if tensor.name.startswith(f"{letter}.blk.")}
        count = next((int(part[key]) for key in LAYERS if part.get(key)), 0)
        count = layers if letter == "v" and layers is not None else count
        missing = sorted(set(range(count)) - held) if held else []
        if missing:
            raise SixfoldError(
                f"config.json speaks of {count} layers that see or hear, and layer {missing[0]} has no tensors",
                "download the checkpoint again, or set options.projector=none for the language model alone",
            )
    names = [tensor.name for tensor, _ in found]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise SixfoldError(
            f"two tensors of the checkpoint are both {doubled} to llama.cpp",
            "set options.projector=none for a GGUF of the language model alone",
        )
