"""What a checkpoint is made of: its Linears, norms and experts, and what each of them reads."""

from dataclasses import dataclass

from sixfold.errors import SixfoldError


@dataclass(frozen=True)
class Linear:
    """One matrix multiplication of the model, under its on-disk name.

    name: on disk, without ".weight" ("model.layers.0.block_sparse_moe.experts.3.w1").
    module: the transformers module that computes it ("model.layers.0.mlp.experts" for every expert of the layer).
    layer: decoder layer, None outside of them (lm_head, towers).
    expert: index, None where it is no routed expert.
    role: "attention" | "mixer" | "mlp" | "expert" | "shared_expert" | "router" | "indexer" | "lm_head" | "other"; a
        mixer is what a Mamba, delta-net or convolution layer has in attention's place, less its small projections; an
        indexer chooses which tokens a sparse attention looks at; towers are "other".
    part: for experts "gate", "up" or "down"; otherwise the last part of the name ("q_proj").
    norm: on-disk tensor name of the norm whose output it reads directly ("model.layers.0.input_layernorm.weight").
    site: name of the input site it reads (see sixfold.statistics.statistics), shared by Linears with the same input.
    fused: names of all Linears (this one included) that engines fuse into one matrix; () where it stands alone.
    quantizable: False for routers, indexers, lm_head and whatever else must stay in the source's precision.
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
class ExpertStack:
    """The experts of one layer where they are one array on disk.

    module: the transformers module that computes them ("model.layers.0.mlp.experts"). experts: how many.
    """

    module: str
    layer: int
    experts: int


@dataclass(frozen=True)
class Architecture:
    """What `sixfold inspect` prints.

    model_type: transformers' name ("minimax_m2"). layers: decoder layers. experts, experts_per_token: 0 if dense.
    correction_biases: float32 tensors added to router scores for selection, wherever they live.
    stacked_experts: tensors that hold all experts of a layer as one array on disk (gpt-oss).
    stacks: these layers, as far as transformers runs them through its experts interface.
    not_run: tensors that transformers does not run (MTP layers): never quantized, no statistics.
    towers: tensors beside the language model, for pictures and sound, and what projects into it: carried as they are.
    tied_copies: (tensor, tensor that config.json ties it to) where both are on disk (lm_head and the embeddings).
    bent_experts: experts modules whose output is not linear in what the up projections give (clamped, plus one).
    unlayered: why it cannot be calibrated, layer by layer, "" where it can.
    in_float32: whether its forward runs in float32 alone.
    unobserved: why the dataflow could not be derived, "" where it was; no norm is rescaled then.
    """

    model_type: str
    layers: int
    experts: int
    experts_per_token: int
    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    correction_biases: tuple[str, ...]
    stacked_experts: tuple[str, ...]
    stacks: tuple[ExpertStack, ...]
    tied_embeddings: bool
    not_run: tuple[str, ...]
    unobserved: str
    towers: tuple[str, ...] = ()
    tied_copies: tuple[tuple[str, str], ...] = ()
    bent_experts: tuple[str, ...] = ()
    unlayered: str = ""
    in_float32: bool = False


def require_layered(architecture: Architecture, variant: str) -> None:
    """Raises SixfoldError where a variant needs a calibration that the model does not allow."""
    if architecture.unlayered:
        raise SixfoldError(
            f"{variant} needs a calibration: {architecture.unlayered}",
            "choose variants that need none; with rounding=nearest, fp8 and nvfp4 do not",
        )


def require_quantizable(architecture: Architecture, variant: str) -> None:
    """Raises SixfoldError where a layer's experts are one array on disk, which the quantizers here do not split, and
    where no Linear of a decoder layer is known, so that nothing would be quantized."""
    if architecture.stacked_experts:
        raise SixfoldError(
            f"{variant}: {architecture.model_type} stores the experts of a layer as one array"
            f" ({architecture.stacked_experts[0]}), which this exporter does not split",
            "export the bf16 variant, or start from a checkpoint with one matrix per expert",
        )
    if not any(linear.quantizable for linear in architecture.linears):
        raise SixfoldError(
            f"{variant}: {architecture.model_type} has no Linear in its decoder layers that may be quantized",
            "export the bf16 variant",
        )
