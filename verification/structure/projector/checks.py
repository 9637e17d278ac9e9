"""Whether llama.cpp sees with a projector's file what the source sees with."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Any

import torch

from sixfold.boundary.json_text import read_json_file
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.meta_model import completed
from verification.finding import EXPORT_AGAIN, Finding, run_checks
from verification.reading.gguf_file import Gguf, open_gguf
from verification.reading.held_source import HeldSource
from verification.structure.projector.arithmetic import as_held
from verification.structure.projector.expected import expected_keys, tower_heads
from verification.structure.projector.kinds import KINDS, Kind
from verification.structure.projector.names import Origin, origin_of, parts_of

ARCHITECTURE = "clip"
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK = re.compile(r"([va])\.blk\.(\d+)\.(.+)")
_FLOAT32 = re.compile(r"(norm|norm[_.]\d|ln\d|pre_ln|post_ln)\.weight$|\.bias$|position_embd")
_SEES_OTHERWISE = "pictures or sounds are read wrongly, and text about them is made up"
_REFUSED = "llama.cpp refuses the file"
_ROWS = 1 << 24
"""Values that are read of a tensor at a time to look for what is no number."""


@dataclass(frozen=True)
class Projector:
    """held: the source, None without --against."""

    file: Gguf
    held: HeldSource | None

    @property
    def kind_name(self) -> str:
        stated = self.file.keys.get("clip.projector_type") or self.file.keys.get("clip.vision.projector_type")
        return str(stated)

    @property
    def kind(self) -> Kind | None:
        return KINDS.get(self.kind_name)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The source's config.json with transformers' defaults; {} without a source."""
        return {} if self.held is None else completed(self.held.source.checkpoint.config)

    @cached_property
    def processor(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        if self.held is not None:
            for name, inner in (("preprocessor_config", "media_proc_cfg"), ("processor_config", "image_processor")):
                path = self.held.source.checkpoint.folder / f"{name}.json"
                said = read_json_file(path) if path.is_file() else {}
                found |= {**said, **(said.get(inner) or {})}
        return found

    @cached_property
    def deepstack(self) -> Sequence[int]:
        taken = (self.config.get("vision_config") or {}).get("deepstack_visual_indexes")
        if taken is not None:
            return [int(layer) for layer in taken]
        stated = self.file.keys.get("clip.vision.is_deepstack_layers") or []
        return [layer for layer, is_taken in enumerate(stated) if is_taken]

    def origin(self, name: str) -> Origin | None:
        return None if self.kind is None else origin_of(self.kind, name, self.deepstack)


def check_projector(path: Path, held: HeldSource | None) -> list[Finding]:
    """Everything that is wrong with one file."""
    try:
        file = open_gguf(path)
    except SixfoldError as error:
        return [Finding("files.header", path.name, error.what, _REFUSED, error.remedy or EXPORT_AGAIN)]
    return run_checks(CHECKS, Projector(file, held))


def check_kind(projector: Projector) -> Iterator[Finding]:
    if projector.file.arch != ARCHITECTURE:
        what = f"its architecture is {projector.file.arch}, and what llama.cpp sees with is {ARCHITECTURE}"
        yield Finding("keys.value", projector.file.path.name, what, _REFUSED, EXPORT_AGAIN)
    elif projector.kind is None:
        what = f"projectors of the kind {projector.kind_name} are not known here, so its tensors are not checked"
        where = projector.file.path.name
        yield Finding("names.unknown", where, what, "unknown here", "check it with llama.cpp's own tools", "warning")


def check_names(projector: Projector) -> Iterator[Finding]:
    """Tensors that llama.cpp looks for, in every layer alike."""
    file = projector.file
    if projector.kind is None:
        return
    for name in file.doubles:
        yield Finding("files.tensor-twice", name, "the file lists it twice", _REFUSED, EXPORT_AGAIN)
    layers: dict[tuple[str, int], set[str]] = {}
    for name in file.tensors:
        if found := _BLOCK.fullmatch(name):
            layers.setdefault((found[1], int(found[2])), set()).add(found[3])
        if projector.origin(name) is None:
            what = f"a projector of the kind {projector.kind_name} has no tensor of this name"
            yield Finding("names.unknown", name, what, "llama.cpp ignores it", EXPORT_AGAIN)
    for letter, sense in (("v", "vision"), ("a", "audio")):
        mine = {number: parts for (of, number), parts in layers.items() if of == letter}
        count = file.keys.get(f"clip.{sense}.block_count", 0)
        every = set().union(*mine.values()) if mine else set()
        for number in range(count if isinstance(count, int) and count < 10_000 else 0):
            for part in sorted(every - mine.get(number, set())) or ([] if every else ["*"]):
                where = f"{letter}.blk.{number}.{part}"
                yield Finding("names.missing", where, "it is missing", _REFUSED, EXPORT_AGAIN)


def check_layout(projector: Projector) -> Iterator[Finding]:
    """Tensors follow each other, and are of types that a cast makes."""
    file = projector.file
    alignment = file.keys.get("general.alignment", 32)
    ordered = list(file.tensors.values())
    if ordered and ordered[0].offset != file.data[ordered[0].file]:
        where = ordered[0].name
        yield Finding("files.offsets", where, "it does not lie where the data begin", _REFUSED, EXPORT_AGAIN)
    for one, other in pairwise(ordered):
        wanted = one.offset + -(-one.nbytes // alignment) * alignment
        if other.offset != wanted:
            what = f"it lies at byte {other.offset}, and behind {one.name} comes byte {wanted}"
            yield Finding("files.offsets", other.name, what, _REFUSED, EXPORT_AGAIN)
    for name, tensor in file.tensors.items():
        if _FLOAT32.search(name) and tensor.type_name != "F32":
            what = f"it is {tensor.type_name}; llama.cpp adds and multiplies it in float32"
            yield Finding(
                "plain.dtype", name, what, "llama.cpp stops where its backend has no such kernel", EXPORT_AGAIN
            )
        convolved = () if projector.kind is None else projector.kind.convolved
        convolves = ".patch_embd.weight" in name or name.removesuffix(".weight") in convolved
        if convolves and tensor.type_name not in ("F32", "F16"):
            what = f"it is {tensor.type_name}, in which llama.cpp does not convolve"
            yield Finding("plain.dtype", name, what, "llama.cpp stops", EXPORT_AGAIN)


def check_numbers(projector: Projector) -> Iterator[Finding]:
    for name, tensor in projector.file.tensors.items():
        if tensor.type_name not in _PLAIN or not tensor.nbytes:
            continue
        step = max(1, _ROWS * (tensor.shape[0] if tensor.shape else 1) // tensor.nbytes)
        rows = tensor.shape[0] if tensor.shape else 1
        if not all(
            torch.isfinite(_values(projector.file, name, start, min(start + step, rows))).all()
            for start in range(0, rows, step)
        ):
            what = "it has values that are infinite or not a number"
            yield Finding("weights.numbers", name, what, _SEES_OTHERWISE, EXPORT_AGAIN)


def check_keys(projector: Projector) -> Iterator[Finding]:
    """Against the source's own files."""
    if projector.held is None or projector.kind is None:
        return
    for key, wanted in expected_keys(projector.kind_name, projector.config, projector.processor).items():
        stated = projector.file.keys.get(key)
        if not _same(stated, wanted):
            what = f"it is {'missing' if stated is None else stated}, the source's is {wanted}"
            yield Finding("keys.value", key, what, _SEES_OTHERWISE, EXPORT_AGAIN)


def check_source(projector: Projector) -> Iterator[Finding]:
    """Every tensor of the source's tower and projector is there, and its values are the source's, cast."""
    held, kind = projector.held, projector.kind
    if held is None or kind is None:
        return
    unread = kind.unread
    if kind.last_unread:
        unread += rf"|\.layers\.{int(projector.file.keys.get('clip.vision.block_count', 0))}\."
    towers = [name for name in held.source.architecture.towers if not re.search(unread, name)]
    names = [*towers, *(name for name in held.source.checkpoint.tensors if name.endswith("embed_tokens.weight"))]
    heads, seen = tower_heads(projector.config), dict.fromkeys(towers, 0)
    for name in projector.file.tensors:
        origin = projector.origin(name)
        if origin is None:
            continue
        found = origin.among(names)
        if found is None:
            what = f"the source has no {' or '.join(source for source, _ in origin.sources)}"
            yield Finding("names.unknown", name, what, _SEES_OTHERWISE, EXPORT_AGAIN)
            continue
        source, done = found
        seen[source] = seen.get(source, 0) + 1
        yield from _compared(projector, name, source, _expected(held, source, done, heads))
    for name, count in seen.items():
        parts = parts_of(kind, name)
        if count < parts:
            held_by = "no tensor of the file holds it" if not count else f"the file holds {count} of its {parts} parts"
            yield Finding("names.missing", name, f"the source has it, and {held_by}", _SEES_OTHERWISE, EXPORT_AGAIN)


CHECKS = (check_kind, check_names, check_layout, check_numbers, check_keys, check_source)


def _expected(held: HeldSource, source: str, done: str, heads: int) -> torch.Tensor:
    if done.startswith("row "):
        tokenizer = load_tokenizer(held.source.checkpoint.folder)
        number = int(tokenizer.convert_tokens_to_ids(done.removeprefix("row ")))
        return held.read(source, number, number + 1)[0].float()
    return as_held(held.read(source).cpu(), done, heads)


def _compared(projector: Projector, name: str, source: str, wanted: torch.Tensor) -> Iterator[Finding]:
    tensor = projector.file.tensors[name]
    if tuple(tensor.shape) != tuple(wanted.shape):
        what = f"its shape is {list(tensor.shape)}, and {source} makes it {list(wanted.shape)}"
        yield Finding("plain.shape", name, what, _REFUSED, EXPORT_AGAIN)
        return
    if tensor.type_name not in _PLAIN:
        what = f"it is {tensor.type_name}, which is not compared with the source here"
        yield Finding("weights.not-compared", name, what, "unknown here", "export it in BF16 or F16", "warning")
        return
    held = _values(projector.file, name).view(wanted.shape)
    cast = wanted.to(_PLAIN[tensor.type_name])
    differ = int((held != cast).sum())
    if differ:
        what = f"{differ:,} of its {held.numel():,} values are not those of {source}"
        yield Finding("weights.differ", name, what, _SEES_OTHERWISE, EXPORT_AGAIN)


def _values(file: Gguf, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """In the type of the file, flat."""
    return file.stored(name, start, stop).flatten().view(_PLAIN[file.tensors[name].type_name])


def _same(stated: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        return isinstance(stated, list | tuple) and len(stated) == len(wanted) and all(map(_same, stated, wanted))
    if isinstance(wanted, bool) or isinstance(stated, bool):
        return stated is wanted
    with suppress(TypeError, ValueError):
        return isclose(float(stated), float(wanted), rel_tol=1e-6, abs_tol=1e-12)
    return bool(stated == wanted)
