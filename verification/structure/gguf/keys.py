"""Whether a GGUF file's keys agree with its tensors, its source and what llama.cpp needs."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from sixfold.artifact.manifest import damaged_files
from sixfold.artifact.workspace import read_json
from sixfold.checkpoint.tensor_slice import TensorSlice
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.gguf.own import NUMBERS
from verification.structure.gguf.expected import (
    ARCHITECTURE_OF,
    KINDS,
    NEUTRAL,
    STRING,
    U32,
    architecture_of,
    common_keys,
    expected_keys,
    listed_type,
)
from verification.structure.gguf.subject import GgufSubject
from verification.structure.gguf.tokenizer import TOKENIZER_TYPES

_REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_GATED_BY_SIGMOID = ("minimax-m2",)
"""Architectures that llama.cpp aborts on without `expert_gating_func`."""

_STOPS = "llama.cpp stops: key not found"
_WRONG = "llama.cpp computes another model than the weights are of"
_GENERAL_TYPES = {"architecture": STRING, "name": STRING, "type": STRING}
_GENERAL_TYPES |= dict.fromkeys(("alignment", "file_type", "quantization_version"), U32)


def check_required(subject: GgufSubject) -> Iterator[Finding]:
    file = subject.file
    for key in _REQUIRED:
        other = key.replace("_rms_epsilon", "_epsilon")  # of norms that subtract the mean
        if file.key(key) is None and file.key(other) is None:
            yield Finding("keys.missing", f"{file.arch}.{key}", "it is missing", _STOPS, EXPORT_AGAIN)
    moe = any("_exps." in name for name in file.tensors)
    for key in ("expert_count", "expert_used_count") if moe else ():
        if not file.key(key):
            yield Finding("keys.missing", f"{file.arch}.{key}", "it is missing or zero", _STOPS, EXPORT_AGAIN)
    if moe and file.arch in _GATED_BY_SIGMOID and file.key("expert_gating_func") is None:
        what = "it is missing: config.json had no scoring_func when the file was made"
        where = f"{file.arch}.expert_gating_func"
        yield Finding("keys.gating", where, what, "llama.cpp aborts when the context is made", EXPORT_AGAIN)
    used, count = file.key("expert_used_count"), file.key("expert_count")
    if isinstance(used, int) and isinstance(count, int) and used > count:
        what = f"{used} experts are used of {count}"
        yield Finding("keys.value", f"{file.arch}.expert_used_count", what, "llama.cpp stops", EXPORT_AGAIN)
    quantized = any(t.type_name not in ("F32", "F16", "BF16") for t in file.tensors.values())
    if quantized and file.keys.get("general.quantization_version") != 2:
        what = f"it is {file.keys.get('general.quantization_version')}, and the file is quantized"
        yield Finding("keys.value", "general.quantization_version", what, "llama.cpp refuses the file", EXPORT_AGAIN)


def check_tensors(subject: GgufSubject) -> Iterator[Finding]:
    """Keys against the sizes of tensors."""
    file = subject.file
    layers = {int(name.split(".")[1]) for name in file.tensors if name.startswith("blk.")}
    count = file.key("block_count")
    if isinstance(count, int) and layers and max(layers) + 1 > count:
        what = f"it is {count}, and the file holds tensors of layer {max(layers)}"
        yield Finding("keys.value", f"{file.arch}.block_count", what, "layers are left out", EXPORT_AGAIN)
    length = _length_of_heads(subject)
    if length is not None:
        stated = _of_first_layer(subject, "key_length")
        what = f"it is {stated}, and the rows of queries and keys are for heads of {length}"
        where = f"{file.arch}.attention.key_length"
        yield Finding("keys.value", where, what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)
    for key, tensor, size in _products(subject):
        if length is not None and key in ("attention.head_count", "attention.head_count_kv"):
            continue
        found = file.tensors.get(tensor)
        if found is not None and size is not None and found.shape[-2] != size:
            what = f"it makes {size} rows of {tensor}, which has {found.shape[-2]}"
            yield Finding("keys.value", f"{file.arch}.{key}", what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)


def _length_of_heads(subject: GgufSubject) -> int | None:
    """What queries and keys agree on, where attention.key_length says otherwise."""
    file = subject.file
    stated = _of_first_layer(subject, "key_length")
    found = set()
    for key, name in (("head_count", "blk.0.attn_q.weight"), ("head_count_kv", "blk.0.attn_k.weight")):
        heads, tensor = file.key(f"attention.{key}"), file.tensors.get(name)
        if not isinstance(heads, int) or tensor is None or not heads or tensor.shape[-2] % heads:
            return None
        found.add(tensor.shape[-2] // heads)
    return found.pop() if stated is not None and len(found) == 1 and stated not in found else None


def _of_first_layer(subject: GgufSubject, key: str) -> int | None:
    """A size of heads, of which layers with windows may have another (Gemma 4)."""
    pattern = subject.file.key("attention.sliding_window_pattern")
    windowed = subject.file.key(f"attention.{key}_swa") if isinstance(pattern, list) and pattern[:1] == [True] else None
    value = subject.file.key(f"attention.{key}") if windowed is None else windowed
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _products(subject: GgufSubject) -> Iterator[tuple[str, str, int | None]]:
    """(key, tensor, rows that it should have by the keys)."""
    file = subject.file

    def of(key: str) -> int | None:
        value = file.key(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def times(*sizes: int | None) -> int | None:
        return None if None in sizes else prod(size for size in sizes if size is not None)

    width, heads = of("embedding_length"), of("attention.head_count")
    usual = width // heads if width and heads else None
    if file.key("attention.kv_lora_rank") is None:
        several = isinstance(file.key("attention.head_count_kv"), list)  # one number for each layer
        groups = of("attention.head_count_kv") or (None if several else heads)
        key_size, value_size = (_of_first_layer(subject, f"{part}_length") or usual for part in ("key", "value"))
        yield "attention.head_count", "blk.0.attn_q.weight", times(heads, key_size)
        yield "attention.head_count_kv", "blk.0.attn_k.weight", times(groups, key_size)
        yield "attention.value_length", "blk.0.attn_v.weight", times(groups, value_size)
    else:
        rank = of("attention.kv_lora_rank")
        rope = of("rope.dimension_count")
        whole = rank + rope if rank is not None and rope is not None else None
        yield "attention.q_lora_rank", "blk.0.attn_q_a.weight", of("attention.q_lora_rank")
        yield "attention.kv_lora_rank", "blk.0.attn_kv_a_mqa.weight", whole
        if "blk.0.attn_v_b.weight" in file.tensors:
            yield "attention.value_length_mla", "blk.0.attn_v_b.weight", of("attention.value_length_mla")
            yield "attention.key_length", "blk.0.attn_kv_a_mqa.weight", of("attention.key_length")
        latent = ("blk.0.attn_q_b.weight", "blk.0.attn_q.weight") if "blk.0.ssm_beta.weight" not in file.tensors else ()
        for name in latent:
            key = "attention.key_length_mla" if of("attention.key_length_mla") else "attention.key_length"
            yield key, name, times(heads, of(key))
    experts = of("expert_feed_forward_length")
    for layer in sorted({n.split(".")[1] for n in file.tensors if n.startswith("blk.")}):
        yield "expert_feed_forward_length", f"blk.{layer}.ffn_gate_exps.weight", experts or of("feed_forward_length")
        yield "feed_forward_length", f"blk.{layer}.ffn_gate.weight", of("feed_forward_length")
        shared = of("expert_shared_feed_forward_length") or times(experts, of("expert_shared_count"))
        yield "expert_shared_count", f"blk.{layer}.ffn_gate_shexp.weight", shared


def check_sense(subject: GgufSubject) -> Iterator[Finding]:
    """Values that no decoder of these architectures has."""
    file = subject.file
    if file.arch not in ARCHITECTURE_OF.values():
        return

    def bad(key: str, what: str, consequence: str = _WRONG) -> Finding:
        return Finding("keys.value", f"{file.arch}.{key}", f"it is {file.key(key)}, {what}", consequence, EXPORT_AGAIN)

    if file.key("attention.causal") is False:
        yield bad("attention.causal", "and a language model is causal")
    eps, base = file.key("attention.layer_norm_rms_epsilon"), file.key("rope.freq_base")
    if isinstance(eps, float) and not 0 < eps < 0.01:
        yield bad("attention.layer_norm_rms_epsilon", "no epsilon of a norm")
    if isinstance(base, float) and not 1 < base < 1e12:
        yield bad("rope.freq_base", "no base of rotary frequencies")
    kind, factor = file.key("rope.scaling.type"), file.key("rope.scaling.factor")
    if kind in (None, "none") and factor not in (None, 0.0, 1.0):
        yield bad("rope.scaling.factor", "and no scaling is named: llama.cpp scales linearly")
    if kind not in (None, "none", "linear", "yarn", "longrope"):
        yield bad("rope.scaling.type", "which llama.cpp does not know", "llama.cpp aborts")
    attn = file.key("rope.scaling.attn_factor")
    if attn not in (None, 1.0) and kind not in ("yarn", "longrope"):
        yield bad("rope.scaling.attn_factor", "and no scaling is named that has one")
    if file.key("expert_gating_func") not in (None, 1, 2, 3, 4):
        yield bad("expert_gating_func", "which llama.cpp does not know", "llama.cpp aborts")
    groups, experts = file.key("expert_group_count"), file.key("expert_count")
    if isinstance(groups, int) and groups > 1 and isinstance(experts, int):
        used = file.key("expert_group_used_count")
        if experts % groups or groups >= experts:
            yield bad("expert_group_count", f"of {experts} experts", "llama.cpp aborts")
        if not isinstance(used, int) or not 0 < used < groups:
            yield bad("expert_group_used_count", f"of {groups} groups", "llama.cpp aborts")
    turned, head = file.key("rope.dimension_count"), file.key("attention.key_length")
    if isinstance(turned, int) and (turned < 2 or turned % 2 or (isinstance(head, int) and turned > head)):
        yield bad("rope.dimension_count", "no part of a head")
    dense = file.key("leading_dense_block_count")
    if isinstance(dense, int):
        routed = {int(n.split(".")[1]) for n in file.tensors if ".ffn_gate_exps." in n}
        if routed and dense != min(routed):
            yield bad("leading_dense_block_count", f"and the first layer with experts is {min(routed)}", _STOPS)


def check_types(subject: GgufSubject) -> Iterator[Finding]:
    """llama.cpp asks for each key by its type, and stops at any other; some may be lists, with one value per layer."""
    file = subject.file
    wanted = {f"general.{key}": kind for key, kind in _GENERAL_TYPES.items()}
    wanted |= {f"{file.arch}.{key}": kind for key, kind in KINDS.items()} | TOKENIZER_TYPES
    for key, kind in wanted.items():
        held = file.types.get(key)
        per_layer = held in (f"[{kind}]", "[i32]") and key.startswith(f"{file.arch}.") and kind == U32
        if held is None or held in kind.split(" or ") or per_layer:
            continue
        what = f"it is of type {held}, llama.cpp reads {kind}"
        yield Finding("keys.type", key, what, "llama.cpp stops: wrong type", EXPORT_AGAIN)
    alignment = file.keys.get("general.alignment", 32)
    if isinstance(alignment, int) and (alignment < 8 or alignment & (alignment - 1)):
        what = f"it is {alignment}, no power of two"
        yield Finding("keys.value", "general.alignment", what, "llama.cpp refuses the file", EXPORT_AGAIN)
    if file.keys.get("general.type", "model") != "model":
        what = f"it is {file.keys['general.type']!r}, and the file holds a model"
        yield Finding("keys.value", "general.type", what, "tools take it for something else", EXPORT_AGAIN)


def check_against_source(subject: GgufSubject) -> Iterator[Finding]:
    """Every key of the architecture is what the source's config.json makes it, and there is no other that changes
    anything."""
    file, config = subject.file, subject.config
    if subject.source is None or not config:
        return
    model_type = listed_type(subject.source.checkpoint.config)
    if model_type is None:
        return
    wanted = architecture_of(model_type, config)
    if file.arch != wanted:
        what = f"it is {file.arch!r}, and a {model_type} is what llama.cpp calls {wanted!r}"
        yield Finding("keys.value", "general.architecture", what, "llama.cpp refuses the file", EXPORT_AGAIN)
        return
    split = not any(".attn_kv_b." in name for name in file.tensors)
    every = model_type in ARCHITECTURE_OF
    drafts = subject.draft_layers
    if every:
        expected = expected_keys(file.arch, config, split_latents=split, drafts=drafts)
    else:
        expected = common_keys(config, drafts=drafts)
    for key, value in expected.items():
        held = file.key(key)
        if held is None and value.missing:
            continue
        if not any(_equal(held, one) for one in value.values):
            check = "keys.gating" if key == "expert_gating_func" else "keys.value"
            yield _value(file.arch, key, held, " or ".join(map(str, value.values)), check)
    for name, held in file.keys.items() if every else ():
        key = name.removeprefix(f"{file.arch}.")
        if key == name or key in expected or any(_equal(held, one) for one in NEUTRAL.get(key, ())):
            continue
        shown = "a list" if isinstance(held, list) else held
        what = f"it is {shown}, and the source has nothing of the kind"
        yield Finding("keys.added", name, what, _WRONG, "remove the key, or export the variant again")


def check_namespaces(subject: GgufSubject) -> Iterator[Finding]:
    """Keys outside of what llama.cpp looks at are no part of a model, and a mistyped architecture hides there."""
    known = (f"{subject.file.arch}.", "general.", "tokenizer.", "split.", "quantize.")
    for name in subject.file.keys:
        if not name.startswith(known) and name not in NUMBERS.get(subject.file.arch, {}):
            what = "no reader looks for a key of this name"
            yield Finding(
                "keys.unknown", name, what, "nothing, or a key is missing under its name", "remove", "warning"
            )


def _value(arch: str, key: str, held: object, wanted: object, check: str = "keys.value") -> Finding:
    is_it = "it is missing" if held is None else f"it is {held}"
    return Finding(check, f"{arch}.{key}", f"{is_it}, the source says {wanted}", _WRONG, EXPORT_AGAIN)


def _equal(held: Any, wanted: Any) -> bool:
    if held is None or wanted is None:
        return held is wanted
    if isinstance(held, list) and isinstance(wanted, list):
        return held == wanted
    if isinstance(held, list):  # one value per layer
        return all(_equal(value, wanted) for value in held if value)
    if isinstance(held, bool) or isinstance(wanted, bool):
        return held is not None and bool(held) == bool(wanted)
    if isinstance(held, (int, float)) and isinstance(wanted, (int, float)):
        return abs(held - wanted) <= 1e-6 * max(abs(held), abs(wanted))
    return bool(held == wanted)


def check_numbers(subject: GgufSubject) -> Iterator[Finding]:
    """Numbers that the source has in tensors and the file in keys."""
    for key, name in NUMBERS.get(subject.file.arch, {}).items():
        held = subject.file.keys.get(key)
        if held is None and not _has_numbers(subject, name):
            continue
        if held is None:
            yield Finding("keys.missing", key, "it is missing", _STOPS, EXPORT_AGAIN)
        elif subject.source is not None and not _equal(held, _numbers(subject, name)):
            what = f"it is {held}, the source's {name.format('N')} are {_numbers(subject, name)}"
            yield Finding("keys.value", key, what, _WRONG, EXPORT_AGAIN)


def _has_numbers(subject: GgufSubject, name: str) -> bool:
    """Whether there are any: not where nothing embeds n-grams."""
    if subject.source is not None:
        return bool(_numbers(subject, name))
    return subject.file.arch != "qwen4exp" or "per_layer_token_embd.weight" in subject.file.tensors


def _numbers(subject: GgufSubject, name: str) -> list[float]:
    assert subject.source is not None
    checkpoint = subject.source.checkpoint
    layers = range(subject.source.architecture.layers)
    ends = tuple(name.format(layer).removeprefix("model") for layer in layers)
    held = [one for end in ends for one in checkpoint.tensors if one.endswith(end)]
    whole = {one: checkpoint.tensors[one].shape for one in held}
    return [
        number
        for one, shape in whole.items()
        for number in checkpoint.read(TensorSlice(one, 0, shape[0] if shape else 1)).flatten().tolist()
    ]


def check_parts(subject: GgufSubject) -> Iterator[Finding]:
    """Parts of a split model are numbered from 0, and count tensors together."""
    file = subject.file
    if len(file.files) < 2:
        return
    for number, keys in enumerate((file.keys, *file.parts)):
        if keys.get("split.no") != number or keys.get("split.count") != len(file.files):
            what = (
                f"it says part {keys.get('split.no')} of {keys.get('split.count')}, it is {number} of {len(file.files)}"
            )
            yield Finding("keys.split", file.files[number], what, "llama.cpp refuses the model", EXPORT_AGAIN)
    stated = file.keys.get("split.tensors.count")
    if stated != len(file.tensors):
        what = f"it is {stated}, the parts hold {len(file.tensors)}"
        yield Finding("keys.split", "split.tensors.count", what, "llama.cpp refuses the model", EXPORT_AGAIN)


def check_files(subject: GgufSubject) -> Iterator[Finding]:
    """Modes, and this project's own manifest where there is one."""
    path = subject.file.path
    for name in subject.file.files:
        mode = (path.parent / name).stat().st_mode & 0o777
        if mode & 0o044 != 0o044:
            what = f"its mode is {mode:04o}: only its owner can read it"
            yield Finding("files.mode", name, what, "a server under another user cannot open it", f"chmod 644 {name}")
    manifest = read_json(path.with_name(path.name + ".manifest.json"))
    if manifest is None and path.with_name(path.name + ".manifest.json").exists():
        what = "it is no manifest of this project's, or it is damaged"
        yield Finding("files.manifest", f"{path.name}.manifest.json", what, "its record is not known", EXPORT_AGAIN)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return
    for name in damaged_files(path.parent, manifest, read_json(path.with_name(path.name + ".run.json"))):
        what = "it is missing or differs from what the manifest records"
        yield Finding("files.manifest", name, what, "it is not the file that was checked and measured", EXPORT_AGAIN)


CHECKS: tuple[Callable[[GgufSubject], Iterator[Finding]], ...] = (
    check_required,
    check_tensors,
    check_sense,
    check_types,
    check_against_source,
    check_namespaces,
    check_numbers,
    check_parts,
    check_files,
)
