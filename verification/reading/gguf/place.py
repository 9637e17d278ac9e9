"""Which tensor on disk a tensor of a GGUF file is, and in which way it is held."""

import re
from dataclasses import dataclass

from verification.reading.gguf.own import (
    ALONE,
    AS_MATRICES,
    BARE,
    BEHIND_KEYS,
    BIASES,
    DELTA_NETS,
    ELSEWHERE,
    HEAD_BY_HEAD,
    IN_PARTS,
    LATENT_ARCHITECTURES,
    MIXERS,
    OF_VALUES,
    ONE_PLUS,
    OUTSIDE,
    PAIRED_ROPE,
    ROWS_OF_EXPERTS,
    TURNED,
)
from verification.reading.gguf.tables import AXIAL_GLM_4, DRAFTING, DRAFTS, TABLES

ARCHITECTURES = tuple(TABLES)

_TABLE_PART = re.compile(r"per_layer_token_embd\.(\d+)\.weight")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+?)(?:\.(weight|bias))?")


@dataclass(frozen=True)
class Place:
    """name: on disk, with {} for the expert where `stacked`. half: "k" or "v" of a split kv_b_proj, or which part it
    is of another matrix's rows, from "0" on. also: a matrix of as many rows behind that of `name`. flat: whether the
    file has a vector of the disk as a matrix. rope: whether rows are interleaved, or, apart, the other way round.
    change: what llama.cpp's values are of those on disk: "" the same, "plus one", "minus exp". tiles: where the
    values of a delta net's heads lie in another order: "rows", "rows behind keys", "columns" or ""; "heads": queries,
    keys and values do. convolution: whether the dimension of one channel is left out; several: whether one is put
    before it. turned: whether rows are columns on disk. joined: whether matrices of a stack are one below the other
    there."""

    name: str
    stacked: bool = False
    half: str = ""
    rope: bool = False
    change: str = ""
    tiles: str = ""
    convolution: bool = False
    also: str = ""
    flat: bool = False
    apart: bool = False
    several: bool = False
    turned: bool = False
    joined: bool = False


def place_of(arch: str, name: str) -> Place | None:
    """None for a name that the architecture does not have."""
    stem, _, kind = name.rpartition(".")
    if name in ALONE.get(arch, {}):
        return Place(ALONE[arch][name], "{}" in ALONE[arch][name])
    elsewhere = ELSEWHERE.get(arch, {})
    if arch == "qwen4exp" and (of_table := _TABLE_PART.fullmatch(name)):
        return Place(f"model.ngram_embedding.shard_{of_table[1]}.weight")
    outside = {**OUTSIDE, **elsewhere}.get(stem)
    if outside is not None and kind in ("weight", "bias"):
        change = "plus one" if kind == "weight" and stem.endswith(ONE_PLUS.get(arch, ("?",))) else ""
        return Place(f"{outside}.{kind}", change=change)
    found = _BLOCK.fullmatch(name)
    if not found:
        return None
    layer, part, kind = found.groups()
    prefix = f"{elsewhere.get('layers', 'model.layers')}.{layer}."
    if part == "exp_probs_b":
        known = arch in BIASES and kind == (None if arch == "hy_v3" else "bias")
        return Place(prefix + BIASES[arch]) if known else None
    if arch in LATENT_ARCHITECTURES and part in ("attn_k_b", "attn_v_b"):
        return Place(f"{prefix}self_attn.kv_b_proj.weight", half=part[5])
    alone = ALONE.get(arch, {}).get(name.split(".", 2)[2])
    if alone is not None:
        joined = part in ROWS_OF_EXPERTS.get(arch, ())
        return Place(prefix + alone, joined=joined, turned=part in TURNED.get(arch, ()))
    bare = None if part in TABLES.get(arch, {}) and part != "attn_sinks" else BARE.get(name.split(".", 2)[2])
    tiles = _tiles(part) if arch in DELTA_NETS else ""
    if arch in HEAD_BY_HEAD and part == "attn_qkv":
        tiles = "heads"
    if bare is not None:
        mixer = MIXERS.get(arch, "linear_attn" if arch in (*DELTA_NETS, "qwen3next") else "")
        held = part in TABLES.get(arch, {}) if part == "attn_sinks" else bool(mixer)
        change, flat = "minus exp" if part == "ssm_a" else "", arch in AS_MATRICES
        return Place(prefix + bare.format(mixer), change=change, tiles=tiles, flat=flat) if held else None
    known_name = TABLES.get(arch, {}).get(part) or (DRAFTS.get(part) if arch in DRAFTING else None)
    if known_name is None or kind is None:
        return None
    one_plus = kind == "weight" and part != "ssm_norm" and part.endswith(ONE_PLUS.get(arch, ("?",)))
    half = next((str(parts.index(part)) for parts in IN_PARTS.get(arch, ()) if part in parts), "")
    whole = f"{prefix}{known_name}.{kind}"
    return Place(
        whole,
        "{}" in known_name,
        half=half,
        rope=arch in (*PAIRED_ROPE, AXIAL_GLM_4) and part in ("attn_q", "attn_k"),
        apart=arch == AXIAL_GLM_4,
        change="plus one" if one_plus else "",
        tiles=tiles,
        convolution=part in ("ssm_conv1d", "shortconv.conv", "ple_conv1d") and kind == "weight",
        several=part.startswith("ssm_conv1d_"),
        turned=kind == "weight" and part in TURNED.get(arch, ()),
        also=whole.replace("gate_proj", "up_proj") if part == "ffn_gate_up_exps" else "",
        flat=arch in AS_MATRICES and part == "ssm_norm",
    )


def _tiles(part: str) -> str:
    if part == "ssm_out":
        return "columns"
    return "rows behind keys" if part in BEHIND_KEYS else "rows" if part in OF_VALUES else ""
