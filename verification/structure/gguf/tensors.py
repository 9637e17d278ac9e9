"""Whether a GGUF file holds every tensor of the model, of the size that its keys and its source say, and nothing
else."""

import hashlib
import re
from collections.abc import Iterator, Set
from itertools import pairwise

from sixfold.boundary.gguf_header import GgufTensor
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.gguf.own import COMPUTED, NUMBERS, RECOMPUTED
from verification.structure.gguf.subject import GgufSubject

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_FLOAT32 = re.compile(r"(_norm\.weight|\.bias|ffn_gate_inp\.weight|exp_probs_b.*|rope_freqs\.weight)$")
_PLAIN = ("F32", "F16", "BF16")
_NAMED_BY_CONSEQUENCE = "llama.cpp stops: missing tensor"
_WITHOUT_LAST_NORM = ("hrm_text", "olmo", "qwen4exp")
"""Architectures whose norms have no weights, or whose last one is that of what joins streams."""

_SAMPLE = 4096
_SOME_LAYERS = {
    "deepseek4": ("attn_compressor", "indexer", "exp_probs_b", "ffn_gate_tid2eid"),
    "gemma4": ("attn_k", "attn_v"),
    "glm5-next": ("indexer", "nextn."),
    "hy_v4": ("indexer",),
    "qwen4exp": ("ple_",),
}
"""Beginnings of tensors that not all layers of a kind have: some read others' keys, their keys as values, or what other
layers' indexers chose, and some compress keys or look experts up."""

_MIXERS = {"minimax-01": ("attn_norm_2",)}
"""The same of those of recurrent mixers, where they are called otherwise."""

_ONE_OF_TWO = ("nemotron_h", "nemotron_h_moe")
"""Architectures whose layers are attention or a feed-forward, but those of multi-token prediction."""

_AS_THE_SOURCE = "MXFP4"
"""A type that experts are published in and keep, whatever the preset of the others."""

_STACKS = (".experts.gate_up_proj", ".experts.down_proj")


def check_offsets(subject: GgufSubject) -> Iterator[Finding]:
    """Tensors follow each other as the header lists them, each at the next multiple of the alignment."""
    alignment = subject.file.keys.get("general.alignment", 32)
    for file in subject.file.files:
        first = next((t for t in subject.file.tensors.values() if t.file == file), None)
        if first is not None and first.offset != subject.file.data[file]:
            what = f"the first tensor lies at byte {first.offset}, and the data begin at {subject.file.data[file]}"
            yield Finding("files.offsets", first.name, what, "llama.cpp refuses the file", EXPORT_AGAIN)
    for one, other in pairwise(subject.file.tensors.values()):
        expected = one.offset + -(-one.nbytes // alignment) * alignment
        if one.file == other.file and other.offset != expected:
            what = f"it lies at byte {other.offset}, and behind {one.name} comes byte {expected}"
            yield Finding("files.offsets", other.name, what, "llama.cpp refuses the file", EXPORT_AGAIN)


def check_known(subject: GgufSubject) -> Iterator[Finding]:
    if not subject.names_known:
        yield Finding(
            "names.unknown",
            "general.architecture",
            f"the names of architecture {subject.file.arch!r} are not known here, so its tensors are not checked",
            "unknown here",
            "check it with llama.cpp's own tools",
            "warning",
        )


def check_source(subject: GgufSubject) -> Iterator[Finding]:
    """Every tensor of the source that llama.cpp runs, in its shape."""
    if subject.source is None or not subject.names_known:
        return
    architecture = subject.source.architecture
    held = set(subject.weights.names())
    numbers = tuple(name.rpartition("{}")[2] for name in NUMBERS.get(subject.file.arch, {}).values()) or ("?",)
    stacks = {name for name in architecture.not_run if name.endswith(_STACKS)}  # of MTP layers, as they are on disk
    beside = set(architecture.towers) | (stacks if subject.draft_layers else set(architecture.not_run))
    for name, tensor in subject.source.checkpoint.tensors.items():
        if name in beside or RECOMPUTED.search(name) or name.endswith(numbers):
            continue
        if name not in held:
            if architecture.tied_embeddings and name.endswith("lm_head.weight"):
                continue
            what = f"the source has {name}, and no tensor of the file holds it"
            yield Finding("names.missing", name, what, _NAMED_BY_CONSEQUENCE, EXPORT_AGAIN)
        elif tuple(subject.weights.shape(name)) != tensor.shape:
            what = f"it holds {name} as {list(subject.weights.shape(name))}, the source has {list(tensor.shape)}"
            where = subject.weights.stored_as(name)
            yield Finding("plain.shape", where, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
    for name in held - set(subject.source.checkpoint.tensors):
        if any(name.startswith(stack.rpartition(".")[0]) for stack in stacks):
            continue
        where = subject.weights.stored_as(name)
        what = f"it holds {name}, which the source does not have"
        yield Finding("names.unknown", where, what, "llama.cpp stops, or ignores it", EXPORT_AGAIN)


def check_names(subject: GgufSubject) -> Iterator[Finding]:
    """Every block has the tensors of its kind, and no tensor has a name that llama.cpp does not look for."""
    file = subject.file
    if not subject.names_known:
        return
    for name in file.doubles:
        yield Finding("files.tensor-twice", name, "the file lists it twice", "llama.cpp refuses the file", EXPORT_AGAIN)
    layers: dict[int, set[str]] = {}
    for name in file.tensors:
        found = _BLOCK.fullmatch(name)
        if found:
            layers.setdefault(int(found[1]), set()).add(found[2])
        if subject.place_of(name) is None and name not in COMPUTED:
            yield Finding(
                "names.unknown",
                name,
                f"{file.arch} has no tensor of this name",
                "llama.cpp stops at a wrong number of tensors",
                EXPORT_AGAIN,
            )
    normed = "token_embd_norm.weight" in file.tensors or file.arch in _WITHOUT_LAST_NORM
    for name in ("token_embd.weight", "output_norm.weight"):
        if name not in file.tensors and (name != "output_norm.weight" or not normed):
            yield Finding("names.missing", name, "it is missing", _NAMED_BY_CONSEQUENCE, EXPORT_AGAIN)
    count = 2 * file.key("hrm.layers_per_stack") if file.arch == "hrm_text" else file.key("block_count")
    if isinstance(count, int):
        for layer in sorted(set(range(count)) - layers.keys()):
            where = f"blk.{layer}"
            what = f"block_count is {count}, and there is no tensor of this layer"
            yield Finding("names.missing", where, what, _NAMED_BY_CONSEQUENCE, EXPORT_AGAIN)
    kinds = {layer: _layer_kind(parts, file.arch) for layer, parts in layers.items()}
    for kind in set(kinds.values()):
        alike = {i: parts for i, parts in layers.items() if kinds[i] == kind}
        every = set().union(*alike.values()) if alike else set()
        for layer, parts in alike.items():
            for part in sorted(p for p in every - parts if not p.startswith(_SOME_LAYERS.get(file.arch, "nextn."))):
                where = f"blk.{layer}.{part}"
                what = "other layers of its kind have it, this one does not"
                yield Finding("names.missing", where, what, _NAMED_BY_CONSEQUENCE, EXPORT_AGAIN)


def _layer_kind(parts: Set[str], arch: str) -> tuple[bool, ...]:
    """Whether a layer has experts, whether it has a recurrent mixer in attention's place, and whether, of those that
    have one feed-forward or attention, it has the latter."""
    mixers = _MIXERS.get(arch, ("ssm_", "shortconv."))
    attends = arch in _ONE_OF_TWO and "attn_q.weight" in parts
    return any("_exps" in part for part in parts), any(part.startswith(mixers) for part in parts), attends


def check_shapes(subject: GgufSubject) -> Iterator[Finding]:
    """Against the file's own keys."""
    file = subject.file
    experts, width, vocab = (
        file.key("expert_count"),
        file.key("embedding_length"),
        file.keys.get("tokenizer.ggml.tokens"),
    )
    embeddings = file.tensors.get("token_embd.weight")
    norm = file.tensors.get("output_norm.weight")
    if embeddings is not None and norm is not None and embeddings.shape[-1] == norm.shape[-1] != width:
        what = f"it is {width}, and the embeddings and norms are {norm.shape[-1]} wide"
        where = f"{file.arch}.embedding_length"
        yield Finding("keys.value", where, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
        width = None
    for name, tensor in file.tensors.items():
        for wanted, at, held in _expected(name, tensor, experts, width, vocab):
            what = f"its shape is {list(tensor.shape)}, and {wanted} is {held} (dimension {at})"
            yield Finding("plain.shape", name, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)


def _expected(
    name: str, tensor: GgufTensor, experts: object, width: object, vocab: object
) -> Iterator[tuple[str, int, int]]:
    """(key, dimension, its value) wherever a dimension differs from it."""
    shape = tensor.shape
    if isinstance(experts, int) and ("_exps." in name or "ffn_gate_inp.weight" in name or "exp_probs_b" in name):
        wide = shape[1:] if len(shape) == 2 and shape[0] == 1 else shape  # ERNIE's correction biases are one row
        if wide and wide[0] != experts:
            yield "expert_count", 0, experts
    as_wide = name.endswith((".attn_norm.weight", "token_embd.weight", "output_norm.weight"))
    if isinstance(width, int) and as_wide and not name.startswith("per_layer_"):
        if shape and shape[-1] != width:
            yield "embedding_length", len(shape) - 1, width
    if isinstance(vocab, list) and name in ("token_embd.weight", "output.weight"):
        if shape and shape[0] != len(vocab):
            yield "the number of tokens", 0, len(vocab)


def check_types(subject: GgufSubject) -> Iterator[Finding]:
    """Norms, biases and routers are float; the preset that the file names is the type of most of it."""
    for name, tensor in subject.file.tensors.items():
        if _FLOAT32.search(name) and tensor.type_name not in _PLAIN:
            yield Finding(
                "protected.quantized",
                name,
                f"it is {tensor.type_name}; routers, norms and biases stay in float32",
                "experts are chosen by rounded scores, or llama.cpp stops",
                EXPORT_AGAIN,
            )
        elif _FLOAT32.search(name) and tensor.type_name != "F32":
            what = f"it is {tensor.type_name}; llama.cpp's converter keeps it in float32"
            yield Finding("plain.dtype", name, what, "some backends have no kernel for it", EXPORT_AGAIN, "warning")
    preset, most = _preset(subject.file.keys.get("general.file_type")), _most(subject)
    if preset and most and not preset.startswith(most) and not _falls_back(subject):
        what = f"general.file_type says {preset}, and most weights are {most}"
        yield Finding(
            "keys.file-type", "general.file_type", what, "users are told another size", EXPORT_AGAIN, "warning"
        )


def _preset(number: object) -> str:
    from gguf import LlamaFileType

    if not isinstance(number, int):
        return ""
    try:
        return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return ""


def _most(subject: GgufSubject) -> str:
    totals: dict[str, int] = {}
    for name, tensor in subject.file.tensors.items():
        if len(tensor.shape) > 1 and name.startswith("blk.") and tensor.type_name != _AS_THE_SOURCE:
            count = tensor.nbytes
            totals[tensor.type_name] = totals.get(tensor.type_name, 0) + count
    return max(totals, key=lambda kind: totals[kind], default="")


def _falls_back(subject: GgufSubject) -> bool:
    """Rows that 256 does not divide are held in other types, and mixes of three bits hold much in four."""
    mixed = _preset(subject.file.keys.get("general.file_type")).startswith(("IQ3", "IQ2", "IQ1", "Q2_K", "MXFP4"))
    return mixed or any(len(t.shape) > 1 and t.shape[-1] % 256 for t in subject.file.tensors.values())


def check_doubles(subject: GgufSubject) -> Iterator[Finding]:
    """No matrix, and no expert of a stack, is written in another one's place."""
    seen: dict[bytes, tuple[str, int]] = {}
    for name, tensor in subject.file.tensors.items():
        if len(tensor.shape) < 2 or tensor.nbytes < _SAMPLE or name in ("token_embd.weight", "output.weight"):
            continue
        pieces = tensor.shape[0] if len(tensor.shape) == 3 else 1
        size = tensor.nbytes // pieces
        for piece in range(pieces):
            data = _piece(subject, tensor, piece * size, size)
            if len(set(data)) <= 8:
                continue
            digest = hashlib.sha256(data + repr((tensor.qtype, size)).encode()).digest()
            other = seen.setdefault(digest, (name, piece))
            if other != (name, piece) and _whole(subject, other, size) == _whole(subject, (name, piece), size):
                for one, another in (((name, piece), other), (other, (name, piece))):
                    what = f"the bytes of {_shown(one, pieces)} are those of {_shown(another, pieces)}"
                    yield Finding("weights.doubled", one[0], what, "readable but damaged text", EXPORT_AGAIN)


def _shown(place: tuple[str, int], pieces: int) -> str:
    return place[0] + (f" (expert {place[1]})" if pieces > 1 else "")


def _piece(subject: GgufSubject, tensor: GgufTensor, start: int, size: int) -> bytes:
    length = min(_SAMPLE, size)
    return subject.file.weights.read(tensor.file, tensor.offset + start + (size - length) // 2, length)


def _whole(subject: GgufSubject, place: tuple[str, int], size: int) -> str:
    tensor = subject.file.tensors[place[0]]
    digest = hashlib.sha256()
    start = tensor.offset + place[1] * size
    for at in range(0, size, 1 << 24):
        digest.update(subject.file.weights.read(tensor.file, start + at, min(1 << 24, size - at)))
    return digest.hexdigest()
