"""From the order in which a GGUF file has rows, columns and heads to that of the disk, and back."""

from dataclasses import dataclass
from functools import partial

import torch

from verification.reading.gguf.decoding import Arranged, as_it_is, floats
from verification.reading.gguf.place import Place
from verification.reading.gguf_file import Gguf


@dataclass(frozen=True)
class StoredIn:
    """gguf: names of the tensors that make one on disk (several where the file holds it in parts). expert: row block of
    a stack. share: which half of the rows there, of a stack that holds two matrices of each expert."""

    gguf: tuple[str, ...]
    place: Place
    expert: int | None
    share: int | None = None


def order(file: Gguf, source: StoredIn) -> torch.Tensor:
    """int64 [rows on disk]: which row of the file's parts, one behind the other, each of them is. Gates lie behind
    the rest, and of a delta net head by head: its queries, its keys, its values, what gates its output."""
    rows = torch.arange(sum(file.tensors[part].shape[0] for part in source.gguf))
    if ".attn_qkv." not in source.gguf[0]:
        return rows
    keys, size = int(file.key("ssm.group_count")), int(file.key("ssm.state_size"))
    first = file.tensors[source.gguf[0]].shape[0]
    sizes = [keys * size, keys * size, first - 2 * keys * size, len(rows) - first]
    return torch.cat([part.view(keys, -1) for part in rows.split(sizes)], 1).flatten()


def key_by_key(file: Gguf, held: torch.Tensor) -> torch.Tensor:
    """[..., channels of values], those of a key together again."""
    keys, values = int(file.key("ssm.group_count")), int(file.key("ssm.time_step_rank"))
    return held.unflatten(-1, (values // keys, keys, -1)).transpose(-3, -2).flatten(-3)


def value_by_value(file: Gguf, of_disk: torch.Tensor) -> torch.Tensor:
    """The way back."""
    keys, values = int(file.key("ssm.group_count")), int(file.key("ssm.time_step_rank"))
    return of_disk.unflatten(-1, (keys, values // keys, -1)).transpose(-3, -2).flatten(-3)


def turned(file: Gguf, source: StoredIn, held: torch.Tensor) -> torch.Tensor:
    """Rows as columns, of matrices of a stack each by itself, from the file's rows or back."""
    matrices = file.tensors[source.gguf[0]].shape[0] if source.place.joined else 1
    return held.unflatten(0, (matrices, -1)).transpose(1, 2).flatten(0, 1).contiguous()


def untiled(file: Gguf, source: StoredIn, held: torch.Tensor) -> torch.Tensor:
    """A delta net's values [value of a key, key, ...] as [key, value of a key, ...] again."""
    if source.place.tiles == "heads":
        heads = int(file.key("attention.head_count"))
        keys = int(file.key("attention.head_count_kv") or heads)
        size = held.shape[0] // (heads + 2 * keys)
        parts = held.split([heads * size, keys * size, keys * size])
        return torch.cat([part.unflatten(0, (keys, -1)) for part in parts], 1).flatten(0, 1)
    if source.place.tiles == "columns":
        return key_by_key(file, held).contiguous()
    keys, values = int(file.key("ssm.group_count")), int(file.key("ssm.time_step_rank"))
    first = 2 * keys * int(file.key("ssm.state_size")) if source.place.tiles == "rows behind keys" else 0
    tail = held[first:].unflatten(0, (values // keys, keys, -1)).transpose(0, 1).flatten(0, 2)
    return torch.cat([held[:first], tail])


def paired(file: Gguf, source: StoredIn, rows: torch.Tensor) -> torch.Tensor:
    """Undo llama.cpp's interleaving of the two halves of every head, or its parting of neighbors."""
    kind = "attention.head_count_kv" if ".attn_k." in source.gguf[0] else "attention.head_count"
    stated = file.key(kind) or file.key("attention.head_count")
    heads = int(stated[int(source.gguf[0].split(".")[1])] if isinstance(stated, list) else stated)
    size = rows.shape[0] // heads
    whole, turning = rows.reshape(heads, size, *rows.shape[1:]), file.key("rope.dimension_count") or size
    parts = (2, turning // 2) if source.place.apart else (turning // 2, 2)
    turned = whole[:, :turning].unflatten(1, parts).transpose(1, 2).flatten(1, 2)
    return torch.cat([turned, whole[:, turning:]], 1).reshape(rows.shape)


def latent(file: Gguf, source: StoredIn) -> tuple[int, int, int, int]:
    """(heads, key size without rotary part, value size, rank)."""
    k, v = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
    heads, rank, key = file.tensors[k].shape
    return heads, key, file.tensors[v].shape[1], rank


def joined(file: Gguf, source: StoredIn, device: torch.device) -> torch.Tensor:
    """kv_b_proj [heads * (k + v), rank] from attn_k_b [heads, rank, k] and attn_v_b [heads, v, rank]."""
    heads, k, v, rank = latent(file, source)
    k_name, v_name = (next(n for n in source.gguf if half in n) for half in ("attn_k_b", "attn_v_b"))
    keys = floats(file, k_name, device=device).transpose(1, 2)
    return torch.cat((keys, floats(file, v_name, device=device)), 1).reshape(heads * (k + v), rank).contiguous()


def arranged(file: Gguf, source: StoredIn) -> Arranged:
    """To a whole tensor, or an expert's matrix."""
    if source.share is not None:
        return lambda held: held.chunk(2)[source.share or 0]
    if source.place.rope:
        return partial(paired, file, source)
    if source.place.turned:
        return partial(turned, file, source)
    return partial(untiled, file, source) if source.place.tiles else as_it_is


def changed(source: StoredIn, held: torch.Tensor) -> torch.Tensor:
    """Undo what llama.cpp's converter does to values and to the shape of convolutions."""
    if source.place.convolution:
        held = held.unsqueeze(1)
    if source.place.change == "minus exp":
        return (-held).log()
    return held - 1 if source.place.change == "plus one" else held
