"""ModelOpt's layouts, and FP8 in blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.verification.corpus.changes import ROUTER, W2, W3, Damage, Q, bit, changed, drop, ignore, scaled, tensors
from tests.verification.damage import edit_config, edit_header

MIX = "nvfp4-auto-modelopt"
"""Whose attention is in FP8."""


def _in_both(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Of `quantized_layers` in config.json and hf_quant_config.json."""

    def changed(folder: Path) -> None:
        edit_config(folder, lambda c: change(c["quantization_config"]["quantized_layers"]))
        edit_config(folder, lambda c: change(c["quantization"]["quantized_layers"]), "hf_quant_config.json")

    return changed


MODELOPT = [
    Damage("FP8 called NVFP4", MIX, _in_both(lambda q: q[Q[:-1]].update(quant_algo="NVFP4", group_size=16)), Q[:-1]),
    Damage("a module without an algorithm", MIX, _in_both(lambda q: q.pop(Q[:-1])), Q[:-1]),
    Damage("a router with an algorithm", MIX, _in_both(lambda q: q.update({ROUTER: {"quant_algo": "FP8"}})), ROUTER),
    Damage(
        "an algorithm in one of two files",
        MIX,
        lambda f: edit_config(f, lambda c: c["quantization_config"]["quantized_layers"].pop(Q[:-1])),
        "hf_quant_config.json",
    ),
    Damage("input scale missing", MIX, drop(Q + "input_scale"), Q + "input_scale"),
    Damage(
        "global scale as compressed-tensors has it",
        "nvfp4-modelopt",
        tensors(lambda t: t[W2 + "weight_scale_2"].reciprocal_()),
        W2 + "weight_scale_2",
    ),
    Damage("global scales differ", "nvfp4-modelopt", scaled(W3 + "weight_scale_2", 1.4), W3 + "weight_scale_2"),
    Damage("input scale missing", "nvfp4-modelopt", drop(W2 + "input_scale"), W2 + "input_scale"),
    Damage(
        "hf_quant_config.json gone",
        "nvfp4-modelopt",
        lambda f: (f / "hf_quant_config.json").unlink(),
        "hf_quant_config.json",
    ),
    Damage(
        "hf_quant_config.json of another scheme",
        "nvfp4-modelopt",
        lambda f: edit_config(f, lambda c: c["quantization"].update(quant_algo="FP8"), "hf_quant_config.json"),
        "hf_quant_config.json",
    ),
    Damage("input scale missing", "fp8-modelopt", drop(W2 + "input_scale"), W2 + "input_scale"),
    Damage("one code flipped", "nvfp4-modelopt", bit(W2 + "weight", (7, 9), 6), W2 + "weight", False),
    Damage("one code flipped", "fp8-block", bit(Q + "weight", (7, 9), 2), Q + "weight", False),
    Damage("weight scale doubled", "fp8-modelopt", scaled(W2 + "weight_scale", 2.0), W2 + "weight", False),
    Damage("router not excluded", "fp8-modelopt", ignore(lambda e: [x for x in e if "gate" not in x]), ROUTER),
    Damage(
        "a block's scale doubled",
        "fp8-block",
        tensors(lambda t: t[W2 + "weight_scale"][1, 0].mul_(2)),
        W2 + "weight",
        False,
    ),
    Damage(
        "block scales transposed",
        "fp8-block",
        changed(Q.replace("q_", "k_") + "weight_scale", lambda x: x.reshape(2, 1)),
        Q.replace("q_", "k_") + "weight_scale",
    ),
    Damage(
        "input scale's reciprocal",
        "nvfp4-modelopt",
        tensors(lambda t: t[W2 + "input_scale"].reciprocal_()),
        W2 + "input_scale",
    ),
    Damage(
        "weight in another FP8",
        "fp8-block",
        edit_header(lambda h: h[W2 + "weight"].update(dtype="F8_E5M2")),
        W2 + "weight",
    ),
]
