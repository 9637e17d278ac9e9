"""Which type llama.cpp gives each tensor of a preset: Q4_K_M is not a type but a mixture of types.

llama-quantize looks at tensors one by one, in the order of `file_order`, with counters for the attention values and (in
dense models) the feed-forward matrices seen so far. The rules below say what it comes to, as of llama.cpp commit
86a2835 (November 2026); tests hold every preset against that library's own `llama_model_quantize`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from gguf import GGMLQuantizationType as Type

from exporters.ggml.kernels import block_size

_BASE = {
    "F32": Type.F32,
    "F16": Type.F16,
    "BF16": Type.BF16,
    "Q8_0": Type.Q8_0,
    "Q6_K": Type.Q6_K,
    "Q5_K_M": Type.Q5_K,
    "Q5_K_S": Type.Q5_K,
    "Q4_K_M": Type.Q4_K,
    "Q4_K_S": Type.Q4_K,
    "IQ4_NL": Type.IQ4_NL,
    "IQ4_XS": Type.IQ4_XS,
    "Q3_K_L": Type.Q3_K,
    "Q3_K_M": Type.Q3_K,
    "Q3_K_S": Type.Q3_K,
    "IQ3_M": Type.IQ3_S,
    "IQ3_S": Type.IQ3_S,
    "IQ3_XS": Type.IQ3_S,
    "IQ3_XXS": Type.IQ3_XXS,
    "Q2_K": Type.Q2_K,
}
PRESETS = tuple(_BASE)

_SMALLER_BLOCK = {
    Type.IQ2_S: Type.IQ4_NL,
    Type.IQ3_XXS: Type.IQ4_NL,
    Type.IQ3_S: Type.IQ4_NL,
    Type.IQ4_XS: Type.IQ4_NL,
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}
"""What takes the place of a type with blocks of 256 where 256 does not divide a row and 32 does."""

_NEEDS_IMPORTANCE = {Type.IQ2_S, Type.IQ3_XXS}
_LAYER = re.compile(r"blk\.(\d+)\.")
_NEVER = (
    *("_norm.weight", "ffn_gate_inp.weight", "shortconv.conv.weight", "position_embd.weight"),
    *("ssm_conv1d.weight", "ssm_conv1d_q.weight", "ssm_conv1d_k.weight", "ssm_conv1d_v.weight"),
    *("indexer.proj.weight", "indexer.q_proj.weight", "indexer.k_proj.weight"),
    *("indexer_compressor_gate.weight", "_compressor_ape.weight"),
    *("altup_correct_coef.weight", "altup_predict_coef.weight"),
    *("hc_attn_fn.weight", "hc_ffn_fn.weight", "output_hc_fn.weight"),
)
_NUMBERS = "ffn_gate_tid2eid.weight"
"""Which experts a token goes to."""

_UNROUNDED: Mapping[str, tuple[str, ...]] = {
    "glm5-next": (
        *("indexer.attn_q_b.weight", "indexer.attn_k.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight"),
        *("attn_v_b.weight", "ssm_beta.weight"),
        *(f"ssm_{gate}_{part}.weight" for gate in ("f", "g") for part in ("a", "b")),
    )
}
"""Architecture -> what llama-quantize leaves as it finds it, which is BF16 here."""

_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_UNFUSED_V = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")


@dataclass(frozen=True)
class Shape:
    """What the mix depends on besides a tensor's name and size. kv_heads: as in the file's head_count_kv."""

    arch: str
    layers: int
    heads: int
    kv_heads: int
    experts: int

    @property
    def query_groups(self) -> int:
        return self.heads // self.kv_heads if self.kv_heads else 0


@dataclass(frozen=True)
class Choice:
    """qtype: what the tensor is held in. wanted: what the preset asks for, where the size of rows did not allow it."""

    qtype: Type
    wanted: Type | None = None


@dataclass(frozen=True)
class _Place:
    """The position of a tensor among those of its kind: the index-th of `count`."""

    index: int
    count: int
    shape: Shape
    importance: bool

    @property
    def first_eighth(self) -> bool:
        return self.index < self.count // 8

    @property
    def middle(self) -> bool:
        return self.count // 8 <= self.index < 7 * self.count // 8

    @property
    def more_bits(self) -> bool:
        """The first and last eighth, and every third in between."""
        return not self.middle or (self.index - self.count // 8) % 3 == 2

    @property
    def wide_groups(self) -> bool:
        return self.shape.query_groups >= 4

    @property
    def mixtral(self) -> bool:
        """Exactly eight experts: attention is small beside them and is spared."""
        return self.shape.experts == 8


_Rule = Callable[[_Place], Type | None]


def _when(condition: Callable[[_Place], bool], then: Type, otherwise: Type | None = None) -> _Rule:
    return lambda place: then if condition(place) else otherwise


def _always(qtype: Type) -> _Rule:
    return lambda place: qtype


_MORE_BITS: Callable[[_Place], bool] = lambda place: place.more_bits  # noqa: E731  # named only to keep the tables narrow
_WIDE: Callable[[_Place], bool] = lambda place: place.wide_groups  # noqa: E731  # as above

_RULES: Mapping[str, Mapping[str, _Rule]] = {
    "attn_v": {
        "Q2_K": _when(_WIDE, Type.Q4_K, Type.Q3_K),
        "IQ3_XXS": lambda p: Type.Q4_K if p.wide_groups else Type.IQ3_XXS if p.importance else Type.IQ3_S,
        "IQ3_XS": _when(_WIDE, Type.Q4_K),
        "IQ3_S": _when(_WIDE, Type.Q4_K),
        "IQ3_M": _always(Type.Q4_K),
        "Q3_K_M": _when(lambda p: p.index < 2, Type.Q5_K, Type.Q4_K),
        "Q3_K_L": _always(Type.Q5_K),
        "IQ4_NL": _when(_WIDE, Type.Q5_K),
        "IQ4_XS": _when(_WIDE, Type.Q5_K),
        "Q4_K_S": _when(lambda p: p.index < 4, Type.Q5_K),
        "Q4_K_M": _when(_MORE_BITS, Type.Q6_K),
        "Q5_K_M": _when(_MORE_BITS, Type.Q6_K),
    },
    "attn_k": {"IQ3_XS": _always(Type.IQ3_XXS), "IQ3_XXS": _always(Type.IQ2_S)},
    "attn_q": {"IQ3_XS": _always(Type.IQ3_XXS), "IQ3_XXS": _always(Type.IQ2_S)},
    "attn_output": {
        "Q2_K": _always(Type.Q3_K),
        "IQ3_XXS": _always(Type.IQ3_S),
        "IQ3_M": _always(Type.Q4_K),
        "Q3_K_M": _always(Type.Q4_K),
        "Q3_K_L": _always(Type.Q5_K),
    },
    "ffn_down": {
        "Q2_K": _always(Type.Q3_K),
        "IQ3_XXS": lambda p: None if p.importance else Type.Q4_K if p.first_eighth else Type.Q3_K,
        "IQ3_M": _when(lambda p: p.first_eighth or (p.mixtral and p.more_bits), Type.Q4_K),
        "Q3_K_M": _when(lambda p: p.index < p.count // 16, Type.Q5_K, Type.Q4_K),
        "Q3_K_L": _always(Type.Q5_K),
        "IQ4_NL": _when(lambda p: p.first_eighth and not p.importance, Type.Q5_K),
        "IQ4_XS": _when(lambda p: p.first_eighth and not p.importance, Type.Q5_K),
        "Q4_K_S": _when(lambda p: p.first_eighth, Type.Q5_K),
        "Q4_K_M": _when(_MORE_BITS, Type.Q6_K),
        "Q5_K_M": _when(_MORE_BITS, Type.Q6_K),
    },
    "ffn_gate": {"IQ3_XS": _when(lambda p: p.middle, Type.IQ3_XXS)},
    "ffn_up": {"IQ3_XS": _when(lambda p: p.middle, Type.IQ3_XXS)},
    "token_embd": {"IQ3_XXS": _always(Type.IQ3_S)},
}
"""Kind of tensor -> preset -> rule. Where there is none, or it gives None, the tensor has the preset's base type."""

_MIXTRAL_OUTPUT_AS_IS = {"Q3_K_L", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"}
"""Presets in which eight experts do not change the attention output's type; in all others it is Q5_K."""


def file_order(names: Collection[str]) -> list[str]:
    """llama.cpp's order of tensors: those outside the layers, then layer by layer, each alphabetically."""
    return sorted(names, key=lambda name: (_layer(name), name))


def stays_float32(name: str, shape: tuple[int, ...]) -> bool:
    """Norms, biases, routers, and whatever else is a vector: in every preset, F16 and BF16 as well.

    So is what chooses tokens (indexer.proj), which llama.cpp's converter holds in float32 and llama-quantize rounds.
    """
    vector = sum(1 for size in shape if size > 1) < 2 or len(shape) < 2
    return vector or not name.endswith(".weight") or name.endswith(_NEVER)


def tensor_types(
    shapes: Mapping[str, tuple[int, ...]],
    preset: str,
    model: Shape,
    *,
    importance: bool,
    kept: Mapping[str, Type] | None = None,
) -> dict[str, Choice]:
    """The type of every tensor, by GGUF name, in file order.

    shapes: of all tensors, slowest dimension first. importance: whether an importance matrix is used at all (some rules
    differ). kept: tensors that are given a type by hand; they do not count where the rules count.
    """
    kept = kept or {}
    base = _BASE[preset]
    order = file_order(shapes)
    tied = "output.weight" not in shapes
    count = {"attn_v": sum(_kind(name, tied) == "attn_v" for name in order)}
    seen: dict[str, int] = {}
    choices: dict[str, Choice] = {}
    for name in order:
        if name.endswith(_NUMBERS):
            choices[name] = Choice(Type.I32)
        elif stays_float32(name, shapes[name]):
            choices[name] = Choice(Type.F32)
        elif name in kept:
            choices[name] = Choice(kept[name])
        elif base in (Type.F32, Type.F16, Type.BF16):
            choices[name] = Choice(base)
        elif name.endswith(_UNROUNDED.get(model.arch, ("?",))):
            choices[name] = Choice(Type.BF16)
        else:
            kind = _kind(name, tied)
            index = seen.get(kind, 0)
            seen[kind] = index + 1
            if kind.startswith("ffn_") and model.experts > 1:
                index = _layer(name)
            place = _Place(index, count.get(kind, model.layers), model, importance)
            choices[name] = fitted(_wanted(kind, preset, place, shapes[name][-1]), shapes[name][-1])
    return choices


def needs_importance(name: str, qtype: Type) -> bool:
    """Whether llama-quantize refuses this tensor without an importance matrix."""
    return qtype in _NEEDS_IMPORTANCE and name not in ("output.weight", "token_embd.weight")


def _wanted(kind: str, preset: str, place: _Place, columns: int) -> Type:
    base = _BASE[preset]
    if kind == "output":
        if base == Type.Q8_0 or columns % block_size(base):
            return Type.Q8_0
        return Type.Q5_K if preset == "IQ3_XXS" else Type.Q6_K
    if place.mixtral and kind in ("attn_v", "attn_k"):
        return Type.Q8_0
    if place.mixtral and kind == "attn_output":
        return base if preset in _MIXTRAL_OUTPUT_AS_IS else Type.Q5_K
    rule = _RULES.get(kind, {}).get(preset)
    wanted = (rule(place) if rule else None) or base
    if kind == "attn_v" and _is_70b(place.shape) and wanted in (Type.Q3_K, Type.Q4_K):
        return Type.Q5_K
    return wanted


def fitted(wanted: Type, columns: int) -> Choice:
    if columns % block_size(wanted) == 0:
        return Choice(wanted)
    smaller = _SMALLER_BLOCK.get(wanted, wanted)
    return Choice(smaller if columns % block_size(smaller) == 0 else Type.F16, wanted)


def _kind(name: str, tied: bool) -> str:
    if name == "output.weight" or (tied and name in _EMBEDDINGS):
        return "output"
    if name in _EMBEDDINGS:
        return "token_embd"
    if any(part in name for part in _UNFUSED_V):
        return "attn_v"
    for part in ("attn_k", "attn_q", "attn_output"):
        if f"{part}.weight" in name:
            return part
    return next((part for part in ("ffn_up", "ffn_gate", "ffn_down") if part in name), "other")


def _is_70b(shape: Shape) -> bool:
    """80 layers of the Llama or Qwen2 kind, where eight query heads share one key and value head."""
    if shape.layers != 80:
        return False
    return shape.arch == "qwen2" or (shape.arch == "llama" and shape.heads != shape.kv_heads)


def _layer(name: str) -> int:
    found = _LAYER.match(name)
    return int(found[1]) if found else -1
