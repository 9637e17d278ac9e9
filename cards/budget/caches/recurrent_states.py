"""The states of layers that keep no tokens, from the fields that transformers gives each family's config."""

from collections.abc import Callable
from typing import Any

from cards.budget.caches.layer_caches import State
from sixfold.errors import SixfoldError


def recurrent_state(config: Any) -> State:
    """The state of one such layer. config: transformers' object of the decoder.
    Raises SixfoldError, naming the model type, where what its layers keep has not been established."""
    read = _STATES.get(config.model_type)
    if read is None:
        raise SixfoldError(
            f"what the linear attention of model type {config.model_type!r} keeps is not known, and not guessed",
            "leave out the budget, or add its state to cards/budget/caches/recurrent_states.py",
        )
    return read(config)


def _gated_delta_net(c: Any) -> State:
    keys = c.linear_num_key_heads * c.linear_key_head_dim
    values = c.linear_num_value_heads * c.linear_value_head_dim
    return State(
        "gated delta net",
        heads=c.linear_num_value_heads,
        recurrent=values * c.linear_key_head_dim,
        rows=c.linear_conv_kernel_dim - 1,
        channels=2 * keys + values,
        dtype=str(getattr(c, "mamba_ssm_dtype", None) or ""),
    )


def _kimi_delta(c: Any) -> State:
    width = c.linear_num_heads * c.linear_head_dim
    return State(
        "Kimi delta attention",
        heads=c.linear_num_heads,
        recurrent=width * c.linear_head_dim,
        rows=c.linear_conv_kernel_dim - 1,
        channels=3 * width,
        dtype="float32",
    )


def _lightning(c: Any) -> State:
    head = c.head_dim or c.hidden_size // c.num_attention_heads
    recurrent = c.num_attention_heads * head * head
    return State("lightning attention", c.num_attention_heads, recurrent=recurrent, rows=0, channels=0)


def _short_convolution(c: Any) -> State:
    return State("short convolution", heads=0, recurrent=0, rows=c.conv_L_cache - 1, channels=c.hidden_size)


def _mamba(inner: int, state: int, kernel: int) -> State:
    return State("Mamba", heads=inner, recurrent=inner * state, rows=kernel - 1, channels=inner)


def _mamba2(heads: int, head: int, groups: int, state: int, kernel: int, dtype: str = "") -> State:
    return State(
        "Mamba-2",
        heads=heads,
        recurrent=heads * head * state,
        rows=kernel - 1,
        channels=heads * head,
        groups=groups,
        group_width=2 * state,
        dtype=dtype,
    )


def _nemotron_h(c: Any) -> State:
    dtype = str(getattr(c, "mamba_ssm_cache_dtype", None) or "float32")
    return _mamba2(c.mamba_num_heads, c.mamba_head_dim, c.n_groups, c.ssm_state_size, c.conv_kernel, dtype)


def _bamba(c: Any) -> State:
    return _mamba2(c.mamba_n_heads, c.mamba_d_head, c.mamba_n_groups, c.mamba_d_state, c.mamba_d_conv)


_STATES: dict[str, Callable[[Any], State]] = {
    "qwen3_next": _gated_delta_net,
    "qwen3_5_text": _gated_delta_net,
    "qwen3_5_moe_text": _gated_delta_net,
    "olmo_hybrid": _gated_delta_net,
    "kimi_linear": _kimi_delta,
    "minimax": _lightning,
    "lfm2": _short_convolution,
    "lfm2_moe": _short_convolution,
    "jamba": lambda c: _mamba(c.mamba_expand * c.hidden_size, c.mamba_d_state, c.mamba_d_conv),
    "mamba": lambda c: _mamba(c.intermediate_size, c.state_size, c.conv_kernel),
    "falcon_mamba": lambda c: _mamba(c.intermediate_size, c.state_size, c.conv_kernel),
    "mamba2": lambda c: _mamba2(c.num_heads, c.head_dim, c.n_groups, c.state_size, c.conv_kernel),
    "nemotron_h": _nemotron_h,
    "bamba": _bamba,
    "granitemoehybrid": _bamba,
    "falcon_h1": _bamba,
    "zamba2": lambda c: _mamba2(c.n_mamba_heads, c.mamba_headdim, c.mamba_ngroups, c.mamba_d_state, c.mamba_d_conv),
}
"""transformers' model type of the decoder -> its state. Shapes as vLLM has them (MambaStateShapeCalculator), which hold
for llama.cpp too (llama_hparams::n_embd_r and n_embd_s)."""
