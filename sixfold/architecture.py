"""What a checkpoint is made of, derived from its config, its tensor names and transformers' own model definition."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """One matrix multiplication of the model, under its on-disk name.

    name: on disk, without ".weight" ("model.layers.0.block_sparse_moe.experts.3.w1").
    module: the transformers module that computes it ("model.layers.0.mlp.experts" for every expert of the layer).
    layer: decoder layer, None outside of them (lm_head).
    expert: index, None where it is no routed expert.
    role: "attention" | "mlp" | "expert" | "shared_expert" | "router" | "lm_head" | "other".
    part: for experts "gate", "up" or "down"; otherwise the last part of the name ("q_proj").
    norm: on-disk tensor name of the norm whose output it reads directly ("model.layers.0.input_layernorm.weight").
    site: name of the input site it reads (see sixfold.statistics), shared by Linears with the same input.
    fused: names of all Linears (this one included) that engines fuse into one matrix; () where it stands alone.
    quantizable: False for routers, lm_head and whatever else must stay in the source's precision.
    """

    name: str
    module: str
    layer: int | None
    expert: int | None
    role: str
    part: str
    out_features: int
    in_features: int
    norm: str | None
    site: str
    fused: tuple[str, ...]
    quantizable: bool

    @property
    def weight(self) -> str:
        return self.name + ".weight"


@dataclass(frozen=True)
class Norm:
    """A norm with all that reads its output.

    readers: on-disk names (without ".weight") of every Linear that reads it.
    exact: whether `readers` is all that reads it; only then may a scale be moved from the norm into its readers.
    one_plus: whether the norm multiplies by 1 + weight (Gemma).
    """

    weight: str
    layer: int | None
    readers: tuple[str, ...]
    exact: bool
    one_plus: bool


@dataclass(frozen=True)
class Architecture:
    """model_type: transformers' name ("minimax_m2"). layers: number of decoder layers. Experts 0 for a dense model."""

    model_type: str
    layers: int
    experts: int
    experts_per_token: int
    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    correction_biases: tuple[str, ...]
    tied_embeddings: bool
    not_run: tuple[str, ...]
    """Tensors that transformers does not run (MTP layers): never quantized, no statistics."""
