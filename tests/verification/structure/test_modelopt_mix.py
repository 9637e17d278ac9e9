"""What ModelOpt's config of a mix says in one place and not in another."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from verification.structure.modelopt_mix import mix_findings
from verification.structure.quantization_config import _ALGORITHMS

FP8 = {"quant_algo": "FP8"}
NVFP4 = {"quant_algo": "W4A16_NVFP4", "group_size": 16}
LAYERS = {"layers.0.q_proj": FP8, "layers.0.experts": NVFP4}
INLINE: dict[str, Any] = {
    "config_groups": {
        "group_0": {"weights": {"num_bits": 8}, "targets": ["layers.0.q_proj"]},
        "group_1": {"weights": {"num_bits": 4, "group_size": 16}, "targets": ["layers.0.experts"]},
    },
    "quantized_layers": LAYERS,
    "quant_algo": "MIXED_PRECISION",
}


def found(change: Callable[[dict[str, Any]], Any], beside: dict[str, Any] | None = None) -> list[str]:
    config = deepcopy(INLINE)
    change(config)
    return [
        one.where
        for one in mix_findings(config, {"quantized_layers": LAYERS} if beside is None else beside, _ALGORITHMS)
    ]


def test_a_sound_mix_has_no_findings() -> None:
    assert found(lambda c: None) == []
    assert found(lambda c: c.pop("config_groups")) == []  # releases without groups are read
    assert found(lambda c: None, {}) == []  # another check says that the file is missing


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda c: c["quantized_layers"].clear(), "quantized_layers"),
        (lambda c: c["quantized_layers"]["layers.0.q_proj"].update(quant_algo="INT3"), "q_proj.quant_algo"),
        (lambda c: c["quantized_layers"]["layers.0.experts"].update(group_size=32), "experts.group_size"),
        (lambda c: c["config_groups"]["group_0"]["weights"].update(num_bits=4), "config_groups.group_0"),
        (lambda c: c["config_groups"]["group_1"]["targets"].append("layers.0.o_proj"), "config_groups.group_1"),
        (lambda c: c["quantized_layers"].pop("layers.0.q_proj"), "config_groups.group_0"),
        (lambda c: c.update(ignore=["layers.0.q_proj"]), "quantized_layers.layers.0.q_proj"),
    ],
)
def test_what_does_not_agree_is_named(change: Callable[[dict[str, Any]], Any], where: str) -> None:
    assert any(one.endswith(where) for one in found(change))


def test_two_files_that_differ_are_named() -> None:
    assert found(lambda c: None, {"quantized_layers": {**LAYERS, "layers.0.q_proj": NVFP4}}) == ["hf_quant_config.json"]
