"""Numbers of a config.json, bounded before a model is built of them: a thousand million layers are a mistake or an
attack, and building them takes the machine."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sixfold.checkpoint.config_fields import COUNT, QUANTIZATION
from sixfold.errors import SixfoldError

_BOUNDS: tuple[tuple[re.Pattern[str], int, int], ...] = (
    (re.compile(r"num_hidden_layers|num_layers|n_layers?|num_decoder_layers|num_encoder_layers|depth"), 1, 2000),
    (COUNT, 0, 1 << 15),
    (re.compile(r"num_nextn_predict_layers|num_mtp_\w+|mtp_num_\w+"), 0, 2000),
    (re.compile(r"hidden_size|n_embd|d_model|num_attention_heads|n_heads?"), 1, 1 << 20),
    (re.compile(r"num_key_value_heads|\w*head_dim|\w*lora_rank|\w*intermediate_size|d_ff|ffn_dim|n_inner"), 0, 1 << 24),
    (re.compile(r"vocab_size"), 1, 1 << 28),
)
"""Names of fields, and the smallest and largest values that a model can have."""

_EXPERTS_IN_ALL = 1 << 20
_LARGEST = 1 << 63


def check_bounds(config: Mapping[str, Any], where: str) -> None:
    """Raises SixfoldError, naming the field, where a number is beyond what any model has."""
    layers, experts = 1, 1
    for name, value in _numbers(config):
        if abs(value) >= _LARGEST:
            raise _refused(where, name, value, "which does not fit into 64 bits")
        for pattern, least, most in _BOUNDS:
            if pattern.fullmatch(name.rpartition(".")[2]) and not least <= value <= most:
                raise _refused(where, name, value, f"and at least {least} and at most {most} are read")
        layers = max(layers, value) if _BOUNDS[0][0].fullmatch(name.rpartition(".")[2]) else layers
        experts = max(experts, value) if COUNT.fullmatch(name.rpartition(".")[2]) else experts
    if layers * experts > _EXPERTS_IN_ALL:
        raise _refused(where, "the number of experts in all layers", layers * experts, f"above {_EXPERTS_IN_ALL}")


def _refused(where: str, name: str, value: int, why: str) -> SixfoldError:
    shown = str(value) if abs(value) < 1 << 64 else f"of {len(str(abs(value)))} digits"
    return SixfoldError(f"{name} of {where} is {shown}, {why}", "take the value from the original model's config.json")


def _numbers(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        if name in QUANTIZATION:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}.")
            continue
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, int) and not isinstance(one, bool):
                yield f"{above}{name}", one
