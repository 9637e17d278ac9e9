"""Architectures of Mamba mixers in every layer, alone or with attention beside them."""

from collections.abc import Mapping, Sequence

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import VOCAB, Entry
from exporters.ggml.architectures.rotary import Config, head_size
from sixfold.errors import SixfoldError

_LEAVE_OUT = "leave the gguf recipes out for this model"
_UNBOUNDED: Config = {"max_position_embeddings": 2**20, "num_attention_heads": 0, "intermediate_size": 0}
"""Of mixers alone: any position, no heads and no feed-forward, of which llama.cpp wants to be told."""

_MIXERS = (
    ("add_ssm_conv_kernel", ("conv_kernel",)),
    ("add_ssm_state_size", ("state_size",)),
    ("add_layer_norm_rms_eps", ("layer_norm_epsilon",)),
)


def _mamba(writer: GGUFWriter, config: Config) -> None:
    inner = config["intermediate_size"]
    if inner != 2 * config["hidden_size"]:
        raise SixfoldError(
            f"mixers of this mamba are {inner} channels wide, and llama.cpp runs those of twice"
            f" {config['hidden_size']}, its hidden size, alone",
            _LEAVE_OUT,
        )
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_dt_b_c_rms(config["model_type"] == "falcon_mamba")


def _mamba2(writer: GGUFWriter, config: Config) -> None:
    writer.add_ssm_inner_size(config["num_heads"] * config["head_dim"])


def _falcon_h1(writer: GGUFWriter, config: Config) -> None:
    biased = [name for name in ("attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias") if config.get(name)]
    if biased:
        raise SixfoldError(
            f"Linears of this falcon_h1 have biases ({', '.join(biased)}), which llama.cpp does not have", _LEAVE_OUT
        )
    if config.get("tie_word_embeddings") and config["embedding_multiplier"] != config["lm_head_multiplier"]:
        raise SixfoldError(
            f"this falcon_h1 multiplies its embeddings by {config['embedding_multiplier']} and the head that is tied to"
            f" them by {config['lm_head_multiplier']}, and llama.cpp holds both as one",
            _LEAVE_OUT,
        )
    writer.add_ssm_inner_size(config["mamba_d_ssm"])
    for held in (writer.add_key_length, writer.add_value_length):
        held(head_size(config))


def _of_falcon_h1(config: Config) -> Mapping[str, Sequence[str]]:
    """What its forward multiplies activations by is held in weights. Of what a mixer projects its input to, the
    gate, values, B, C and time steps have a factor each."""
    inner, state = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
    rows = (inner, inner, state, state, config["mamba_n_heads"])
    mixer = ":".join(f"{factor!r}@{count}" for factor, count in zip(config["ssm_multipliers"], rows, strict=True))
    gate, down = config["mlp_multipliers"]
    read = config["attention_in_multiplier"]
    return {
        "token_embd": [_times(config["embedding_multiplier"])],
        "output": [_times(config["lm_head_multiplier"])],
        "attn_q": [_times(read)],
        "attn_k": [_times(config["key_multiplier"]), _times(read)],
        "attn_v": [_times(read)],
        "attn_output": [_times(config["attention_out_multiplier"])],
        "ffn_gate": [_times(gate)],
        "ffn_down": [_times(down)],
        "ssm_in": [_times(config["ssm_in_multiplier"]), f"times:{mixer}"],
        "ssm_out": [_times(config["ssm_out_multiplier"])],
    }


def _times(factor: float) -> str:
    return f"times:{factor!r}"


STATE_SPACE: Mapping[str, Entry] = {
    "mamba": Entry((*_MIXERS, ("add_ssm_time_step_rank", ("time_step_rank",))), _mamba, _UNBOUNDED),
    "mamba2": Entry(
        (*_MIXERS, ("add_ssm_group_count", ("n_groups",)), ("add_ssm_time_step_rank", ("num_heads",))),
        _mamba2,
        {**_UNBOUNDED, "head_dim": None},
        mamba_groups=("n_groups",),
    ),
    "falcon-h1": Entry(
        (
            *VOCAB,
            ("add_ssm_conv_kernel", ("mamba_d_conv",)),
            ("add_ssm_state_size", ("mamba_d_state",)),
            ("add_ssm_group_count", ("mamba_n_groups",)),
            ("add_ssm_time_step_rank", ("mamba_n_heads",)),
        ),
        _falcon_h1,
        {"head_dim": None},
        mamba_groups=("mamba_n_groups",),
        multipliers=_of_falcon_h1,
        fixed={
            "mamba_norm_before_gate": lambda config: bool(
                config["mamba_norm_before_gate"] and not config["mamba_rms_norm"]
            )
        },
    ),
}
"""By llama.cpp's architecture name."""
