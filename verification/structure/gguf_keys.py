"""Whether a GGUF file's keys agree with its tensors, its source and what llama.cpp needs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sixfold.artifact.manifest import damaged_files
from sixfold.artifact.workspace import read_json
from verification.finding import EXPORT_AGAIN, Finding
from verification.structure.gguf_subject import GgufSubject

_REQUIRED = (
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_GATED_BY_SIGMOID = ("minimax-m2", "glm4moe")
"""Architectures that llama.cpp aborts on, or routes wrongly, without `expert_gating_func`."""

_GATES = {"softmax": 1, "sigmoid": 2}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_VALUES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("block_count", ("num_hidden_layers",)),
    ("context_length", ("max_position_embeddings",)),
    ("embedding_length", ("hidden_size",)),
    ("feed_forward_length", ("intermediate_size",)),
    ("attention.head_count", ("num_attention_heads",)),
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps",)),
    ("expert_count", _EXPERTS),
    ("expert_used_count", ("num_experts_per_tok",)),
    ("expert_shared_count", ("n_shared_experts",)),
    ("expert_weights_scale", ("routed_scaling_factor",)),
    ("expert_weights_norm", ("norm_topk_prob",)),
    ("expert_group_count", ("n_group",)),
    ("expert_group_used_count", ("topk_group",)),
    ("leading_dense_block_count", ("first_k_dense_replace",)),
    ("attention.q_lora_rank", ("q_lora_rank",)),
    ("attention.kv_lora_rank", ("kv_lora_rank",)),
)
"""Key (after the architecture) -> where config.json has the same number."""

_ONLY_WHERE_WRITTEN = {"expert_weights_scale", "expert_weights_norm", "expert_group_count", "expert_group_used_count"}
"""Keys that llama.cpp asks of some architectures alone: compared where they are there."""

_STOPS = "llama.cpp stops: key not found"
_WRONG = "llama.cpp computes another model than the weights are of"


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
    for key, tensor, size in _products(subject):
        found = file.tensors.get(tensor)
        if found is not None and size is not None and found.shape[-2] != size:
            what = f"it makes {size} rows of {tensor}, which has {found.shape[-2]}"
            yield Finding("keys.value", f"{file.arch}.{key}", what, "llama.cpp stops: wrong shape", EXPORT_AGAIN)


def _products(subject: GgufSubject) -> Iterator[tuple[str, str, int | None]]:
    """(key, tensor, rows that it should have by the keys)."""
    file = subject.file
    latent = file.key("attention.kv_lora_rank") is not None
    head = file.key("attention.key_length")
    width, heads = file.key("embedding_length"), file.key("attention.head_count")
    if head is None and isinstance(width, int) and isinstance(heads, int) and heads:
        head = width // heads
    if not latent:
        groups = file.key("attention.head_count_kv") or heads
        for key, part, number in (("head_count", "attn_q", heads), ("head_count_kv", "attn_k", groups)):
            rows = number * head if isinstance(number, int) and isinstance(head, int) else None
            yield f"attention.{key}", f"blk.0.{part}.weight", rows
    for layer in sorted({n.split(".")[1] for n in file.tensors if n.startswith("blk.")}):
        experts = file.key("expert_feed_forward_length") or file.key("feed_forward_length")
        yield "expert_feed_forward_length", f"blk.{layer}.ffn_gate_exps.weight", experts
        yield "feed_forward_length", f"blk.{layer}.ffn_gate.weight", file.key("feed_forward_length")


def check_against_source(subject: GgufSubject) -> Iterator[Finding]:
    """Numbers that decide what the model computes, as config.json has them."""
    file, config = subject.file, subject.config
    if not config:
        return
    for key, names in _VALUES:
        wanted = next((config[name] for name in names if config.get(name) is not None), None)
        held = file.key(key)
        if wanted is None or (held is None and key in _ONLY_WHERE_WRITTEN):
            continue
        if held is None and key.startswith("expert_shared_count"):
            continue
        if held is None and not any("_exps." in name for name in file.tensors) and key.startswith("expert"):
            continue
        drafts = config.get("num_nextn_predict_layers") or 0  # llama.cpp's converter counts them among the layers
        if not _equal(held, wanted) and not (key == "block_count" and _equal(held, wanted + drafts)):
            yield _value(file.arch, key, held, wanted)
    if file.arch != "deepseek2":
        for part in ("key_length", "value_length"):
            held, wanted = file.key(f"attention.{part}"), config.get("head_dim")
            if held is not None and wanted is not None and not _equal(held, wanted):
                yield _value(file.arch, f"attention.{part}", held, wanted)
        heads = config.get("num_key_value_heads") or config.get("num_attention_heads")
        held = file.key("attention.head_count_kv")
        if held is not None and not _equal(held, heads):
            yield _value(file.arch, "attention.head_count_kv", held, heads)
    scoring = config.get("scoring_func") or ("sigmoid" if file.arch in _GATED_BY_SIGMOID else None)
    if scoring in _GATES and any("_exps." in n for n in file.tensors):
        held = file.key("expert_gating_func")
        default = held is None and scoring == "softmax"
        if not default and held != _GATES[scoring]:
            yield _value(file.arch, "expert_gating_func", held, f"{_GATES[scoring]} ({scoring})", "keys.gating")
    yield from _rope(subject)


def _rope(subject: GgufSubject) -> Iterator[Finding]:
    file, config = subject.file, subject.config
    rope: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    theta = rope.get("rope_theta", config.get("rope_theta"))
    held = file.key("rope.freq_base")
    if theta is not None and not _equal(10000.0 if held is None else held, theta):
        yield _value(file.arch, "rope.freq_base", held, theta)
    rotated = config.get("rotary_dim")
    head = config.get("head_dim")
    if rotated is None and isinstance(head, int) and rope.get("partial_rotary_factor") is not None:
        rotated = int(head * rope["partial_rotary_factor"])
    held = file.key("rope.dimension_count")
    if file.arch != "deepseek2" and rotated is not None and not _equal(head if held is None else held, rotated):
        yield _value(file.arch, "rope.dimension_count", held, rotated)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("yarn", "linear") and not _equal(file.key("rope.scaling.factor"), rope.get("factor")):
        yield _value(file.arch, "rope.scaling.factor", file.key("rope.scaling.factor"), rope.get("factor"))
    if kind in ("yarn", "linear") and file.key("rope.scaling.type") != kind:
        yield _value(file.arch, "rope.scaling.type", file.key("rope.scaling.type"), kind)
    if kind == "default" and file.key("rope.scaling.type") not in (None, "none"):
        yield _value(file.arch, "rope.scaling.type", file.key("rope.scaling.type"), "none")
    if kind == "llama3" and "rope_freqs.weight" not in file.tensors:
        what = "the source scales rotary frequencies (llama3), and the file holds no factors"
        yield Finding("names.missing", "rope_freqs.weight", what, "long contexts break", EXPORT_AGAIN)


def _value(arch: str, key: str, held: object, wanted: object, check: str = "keys.value") -> Finding:
    is_it = "it is missing" if held is None else f"it is {held}"
    return Finding(check, f"{arch}.{key}", f"{is_it}, the source says {wanted}", _WRONG, EXPORT_AGAIN)


def _equal(held: Any, wanted: Any) -> bool:
    if isinstance(held, list):  # one value per layer
        return all(_equal(value, wanted) for value in held if value)
    if isinstance(held, bool) or isinstance(wanted, bool):
        return held is not None and bool(held) == bool(wanted)
    if isinstance(held, (int, float)) and isinstance(wanted, (int, float)):
        return abs(held - wanted) <= 1e-6 * max(abs(held), abs(wanted))
    return bool(held == wanted)


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
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return
    for name in damaged_files(path.parent, manifest, read_json(path.with_name(path.name + ".run.json"))):
        what = "it is missing or differs from what the manifest records"
        yield Finding("files.manifest", name, what, "it is not the file that was checked and measured", EXPORT_AGAIN)


CHECKS: tuple[Callable[[GgufSubject], Iterator[Finding]], ...] = (
    check_required,
    check_tensors,
    check_against_source,
    check_parts,
    check_files,
)
