"""From a checkpoint's tensors to a GGUF file's: stacked experts, split and reordered matrices, from headers alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from exporters.ggml.architectures.entry import Entry
from exporters.ggml.architectures.rotary import (
    Config,
    head_size,
    long_rope_factors,
    rope_frequency_factors,
    rope_of,
    rotary_size,
)
from exporters.ggml.header.hyperparameters import ENTRIES, as_stated
from sixfold.checkpoint.checkpoint import SourceTensor
from sixfold.errors import SixfoldError
from sixfold.model.gguf.architectures import gguf_architecture, unknown_layout
from sixfold.model.gguf.arrangements import latent_halves, row_parts
from sixfold.model.gguf.tensor_names import gguf_tensor_names

ROPE_FREQS = "rope_freqs.weight"
_ROTATED = re.compile(r"\.[qk]_proj\.(weight|bias)$")
_SEVERAL_CONVOLUTIONS = ("ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v")
"""Those of Kimi's delta nets, which the file holds in four dimensions."""
_EXPERT = re.compile(r"\.(?:experts\.|altup(?:_unembed)?_projections\.|ngram_embedding\.shard_)(\d+)\.")


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file. shape: slowest dimension first.

    inputs: on-disk names, those of a stack in the order of its experts; () for values that the config gives.
    transform: what is done to the rows of an input before they are encoded, in turn where several are joined by "+":
        ""          nothing
        "rope:D"    in each head of D rows, row 2i + j (i < D/2, j < 2) is the source's row i + j * D/2
        "rope:D:R"  the same of the first R rows of each head alone
        "apart:R:D" in each head of D rows, of the first R the even ones, then the odd ones
        "k_b:K:V"   of each head's K + V rows the first K, transposed
        "v_b:K:V"   of each head's K + V rows the last V
        "plus_one"  one is added, in float32
        "minus_exp" minus the exponential, in float32
        "times:F"   multiplied by F, in float32; "times:F@N:..." the first N rows by F, then the next
        "squeeze"   [C, 1, K] becomes [C, K]
        "transpose" rows become columns
        "transpose:N" the same of every N rows
        "pad"       nothing; rows of zeros are put behind the last
        "zeros:R:C" no input: so many rows and columns
        "tile:S:K:P:D"   rows from S on, D of each of P values of each of K keys: key by key for each value
        "columns:K:P:D"  the same of all columns
        "rows:G:A-B:..." of every G rows those from A to B, then those of the next range
        "experts:A-B" of each of the matrices in an array the rows from A to B
        "mxfp4:P:N" see exporters.ggml.mxfp4
        "values:..." no input: float32 values in hexadecimal, comma-separated
        others      see exporters.ggml.projector.arithmetic
    row_unit: inputs may be cut between multiples of so many rows.
    part: the rows of its input that it is made of, the first and the one behind the last; None for all.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...]
    transform: str = ""
    row_unit: int = 1
    part: tuple[int, int] | None = None


def expert_of(name: str) -> int | None:
    """The index in an on-disk name of a tensor that lies in a stack with others: an expert's, that of a
    stream (Gemma 3n), or that of a part of a table (Qwen4-Exp)."""
    found = _EXPERT.search(name)
    return int(found[1]) if found else None


def gguf_tensors(config: Config, tensors: Mapping[str, SourceTensor]) -> list[Tensor]:
    """All tensors of the file. config: as from `sixfold.model.meta_model.completed`.

    Raises SixfoldError where the architecture, a tensor or a hole in a stack of experts does not allow a GGUF file.
    """
    arch = gguf_architecture(config)
    if arch not in ENTRIES:
        raise unknown_layout(config)
    entry = ENTRIES[arch]
    sources: dict[str, list[SourceTensor]] = {}
    for name, gguf_name in gguf_tensor_names(config, tensors).items():
        sources.setdefault(gguf_name, []).append(tensors[name])
    found: list[Tensor] = []
    for gguf_name, parts in sources.items():
        if expert_of(parts[0].name) is not None:
            found.append(_stack(gguf_name, parts))
        elif len(parts) > 1:
            names = " and ".join(part.name for part in parts)
            raise SixfoldError(
                f"{names} are both {gguf_name} to llama.cpp", "leave the gguf recipes out for this model"
            )
        elif halves := latent_halves(config, gguf_name):
            found += _split_kv(halves, parts[0], config)
        elif both := row_parts(gguf_name):
            found += _in_parts(both, parts[0], config)
        elif entry.head_by_head and ".attn_qkv." in gguf_name:
            found.append(_of_all_heads(gguf_name, parts[0], as_stated(arch, config)))
        elif entry.paired_rope and _ROTATED.search(parts[0].name):
            found.append(_paired(gguf_name, parts[0], entry, config))
        elif entry.apart_rope and rope_of(config).get("mrope_section") and _ROTATED.search(parts[0].name):
            size = head_size(config)
            step = f"apart:{rotary_size(config)}:{size}"
            found.append(Tensor(gguf_name, parts[0].shape, (parts[0].name,), step, size))
        else:
            found.append(_one(gguf_name, parts[0], entry, as_stated(arch, config)))
    lacking = {f.format(n) for f in entry.required for n in range(config["num_hidden_layers"])} - sources.keys()
    if lacking:
        raise SixfoldError(
            f"llama.cpp loads no {arch} without {min(lacking)}, which this checkpoint does not have",
            "start from the publisher's own, as transformers saves no tensor that it does not read, or leave the gguf"
            " recipes out",
        )
    factors = rope_frequency_factors(as_stated(arch, config)) if entry.rope_factors else None
    held = {} if factors is None else {ROPE_FREQS: factors}
    return found + [_computed(name, values) for name, values in (held | long_rope_factors(config)).items()]


def _computed(name: str, values: torch.Tensor) -> Tensor:
    return Tensor(name, tuple(values.shape), (), f"values:{','.join(value.hex() for value in values.tolist())}")


def _in_parts(names: Sequence[str], part: SourceTensor, config: Config) -> list[Tensor]:
    """The rows of one matrix, or of each in an array, in parts of one size, or in two: an indexer's queries and its one
    head of keys, or of a delta net, whose heads have queries, keys, values and gates side by side on disk, the gates
    behind the rest."""
    if len(part.shape) == 3:
        experts, rows, columns = part.shape
        return [
            Tensor(name, (experts, rows // 2, columns), (part.name,), f"experts:{start}-{start + rows // 2}")
            for name, start in zip(names, (0, rows // 2), strict=True)
        ]
    rows, columns = part.shape
    if names[0].endswith(".attn_qkv.weight"):
        key, keys = config["linear_key_head_dim"], config["linear_num_key_heads"]
        ends = (0, key, 2 * key, (rows // keys + 2 * key) // 2, rows // keys)
        cuts = [ends[:4], ends[3:]]
    else:
        first, share = _first_of(names, config), rows // len(names)
        cuts = [(0, first), (first, rows)] if first else [(n * share, (n + 1) * share) for n in range(len(names))]
    every = cuts[-1][-1]
    return [
        Tensor(
            name,
            ((cut[-1] - cut[0]) * (rows // every), columns),
            (part.name,),
            ":".join(["rows", str(every), *(f"{start}-{stop}" for start, stop in pairwise(cut))]),
            rows,
        )
        for name, cut in zip(names, cuts, strict=True)
    ]


def _first_of(names: Sequence[str], config: Config) -> int:
    """How many rows the first of two parts has where they are not of one size, else 0."""
    return config["indexer_n_heads"] * config["indexer_head_dim"] if ".indexer.q_proj." in names[0] else 0


def _one(gguf_name: str, part: SourceTensor, entry: Entry, config: Config) -> Tensor:
    if entry.one_plus and re.search(entry.one_plus, gguf_name):
        return Tensor(gguf_name, part.shape, (part.name,), "plus_one")
    if factors := entry.multipliers(config).get(gguf_name.split(".")[-2]):
        whole = part.shape[0] if any("@" in step for step in factors) else 1
        return Tensor(gguf_name, part.shape, (part.name,), "+".join(factors), whole)
    if gguf_name in entry.padded and part.shape[0] < config[entry.padded[gguf_name]]:
        return Tensor(gguf_name, (config[entry.padded[gguf_name]], *part.shape[1:]), (part.name,), "pad")
    if entry.transposed and re.search(entry.transposed, gguf_name):
        return Tensor(gguf_name, part.shape[::-1], (part.name,), "transpose", part.shape[0])
    if (turned := entry.expert_rows.get(gguf_name.split(".")[-2])) is not None:
        return _rows_of_experts(gguf_name, part, config["num_local_experts"], turned=turned)
    convolution = len(part.shape) == 3 and part.shape[1] == 1
    steps: tuple[str, ...] = ("squeeze",) if convolution else ("minus_exp",) if part.name.endswith(".A_log") else ()
    steps += _delta_net(gguf_name.split(".", 2)[-1], config) if entry.delta_net else ()
    shape = (part.shape[0], part.shape[-1]) if convolution else _mamba_shape(gguf_name, part.shape, entry, config)
    if convolution and gguf_name.split(".")[-2] in _SEVERAL_CONVOLUTIONS:
        shape = (1, part.shape[0], 1, part.shape[-1])
    tiled = any(step.startswith("tile") for step in steps)
    return Tensor(gguf_name, shape, (part.name,), "+".join(steps), part.shape[0] if tiled else 1)


def _rows_of_experts(gguf_name: str, part: SourceTensor, experts: int, *, turned: bool) -> Tensor:
    rows, columns = part.shape[0] // experts, part.shape[1]
    shape = (experts, columns, rows) if turned else (experts, rows, columns)
    return Tensor(gguf_name, shape, (part.name,), f"transpose:{rows}" if turned else "", rows)


def _mamba_shape(gguf_name: str, shape: tuple[int, ...], entry: Entry, config: Config) -> tuple[int, ...]:
    if entry.mamba_groups and gguf_name.endswith((".ssm_a", ".ssm_d")):
        return (*shape, 1)
    if entry.mamba_groups and gguf_name.endswith(".ssm_norm.weight"):
        groups = next(config[name] for name in entry.mamba_groups if config.get(name))
        return groups, shape[0] // groups
    return shape


def _delta_net(part: str, config: Config) -> tuple[str, ...]:
    """Where a delta net has several values for a key, transformers keeps those of a key together, and llama.cpp the
    first of every key, then the second: it repeats keys as a whole."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key, value, each = config["linear_key_head_dim"], config["linear_value_head_dim"], values // keys
    several = each > 1
    before = 2 * keys * key  # rows of queries and keys
    heads = {
        "attn_qkv.weight": f"tile:{before}:{keys}:{each}:{value}",
        "attn_gate.weight": f"tile:0:{keys}:{each}:{value}",
        "ssm_alpha.weight": f"tile:0:{keys}:{each}:1",
        "ssm_beta.weight": f"tile:0:{keys}:{each}:1",
        "ssm_a": f"tile:0:{keys}:{each}:1",
        "ssm_dt.bias": f"tile:0:{keys}:{each}:1",
        "ssm_conv1d.weight": f"tile:{before}:{keys}:{each}:{value}",
        "ssm_out.weight": f"columns:{keys}:{each}:{value}",
    }
    return (heads[part],) if several and part in heads else ()


def _stack(gguf_name: str, parts: Sequence[SourceTensor]) -> Tensor:
    """The experts' matrices in one, each whole; of a file that holds gate and up as one, up behind gate."""
    by_expert: dict[int, list[SourceTensor]] = {}
    for part in sorted(parts, key=lambda part: part.name):
        by_expert.setdefault(expert_of(part.name) or 0, []).append(part)
    missing = sorted(set(range(len(by_expert))) - by_expert.keys())
    if missing:
        raise SixfoldError(
            f"{gguf_name} has {len(by_expert)} experts, but none with index {missing[0]}",
            "number the experts from 0 on",
        )
    ordered = [part for expert in range(len(by_expert)) for part in by_expert[expert]]
    odd = next((part for part in ordered if part.shape != ordered[0].shape), None)
    if odd is not None:
        raise SixfoldError(
            f"{odd.name} has shape {list(odd.shape)}, other experts {list(ordered[0].shape)}",
            "GGUF stacks experts of one size; leave the gguf recipes out for this model",
        )
    rows = ordered[0].shape[0] * len(by_expert[0])
    shape: tuple[int, ...] = (len(by_expert), rows, *ordered[0].shape[1:])
    if gguf_name.startswith("per_layer_token_embd."):  # a table in parts
        shape = (len(by_expert) * rows, *shape[2:])
    return Tensor(gguf_name, shape, tuple(part.name for part in ordered))


def _of_all_heads(gguf_name: str, part: SourceTensor, config: Config) -> Tensor:
    """Queries, keys and values, each of one head after the other. On disk, the queries that share a head of keys are
    followed by it and by its values."""
    keys = config.get("num_key_value_heads") or config["num_attention_heads"]
    queries, group = config["num_attention_heads"] // keys, part.shape[0] // keys
    size = group // (queries + 2)
    step = f"rows:{group}:0-{queries * size}:{queries * size}-{group - size}:{group - size}-{group}"
    return Tensor(gguf_name, part.shape, (part.name,), step, part.shape[0])


def _paired(gguf_name: str, part: SourceTensor, entry: Entry, config: Config) -> Tensor:
    key = "num_key_value_heads" if "k_proj" in part.name else "num_attention_heads"
    heads = config.get(key) or config["num_attention_heads"]
    size = part.shape[0] // heads
    share = rope_of(config).get("partial_rotary_factor", 1.0) if entry.paired_part else 1.0
    step = f"rope:{size}" if share == 1.0 else f"rope:{size}:{int(size * share)}"
    return Tensor(gguf_name, part.shape, (part.name,), step, size)


def _split_kv(names: Sequence[str], part: SourceTensor, config: Config) -> list[Tensor]:
    heads, k, v = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
    rank = part.shape[1]
    k_b, v_b = names
    return [
        Tensor(k_b, (heads, rank, k), (part.name,), f"k_b:{k}:{v}", k + v),
        Tensor(v_b, (heads, v, rank), (part.name,), f"v_b:{k}:{v}", k + v),
    ]
