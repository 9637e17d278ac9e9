"""llmcompressor's and compressed-tensors' own weight quantization, called the way `model_free_ptq` calls it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import compress_module
from compressed_tensors.quantization import preset_name_to_scheme
from llmcompressor.entrypoints.model_free.lifecycle import calibrate_weight, initialize_quantized_linear
from llmcompressor.modifiers.quantization.calibration import (
    apply_calibration_status,
    freeze_module_quantization,
    initialize_observer,
    observe,
    update_qparams,
)
from llmcompressor.observers import FusionHandler
from safetensors.torch import load_file


def library_quantize(weights: Sequence[torch.Tensor], scheme: str) -> list[dict[str, torch.Tensor]]:
    """The tensors that the library writes for weights of one engine-fused group, by their last name."""
    modules = [initialize_quantized_linear(w, preset_name_to_scheme(scheme, ["Linear"]), "cpu") for w in weights]
    if len(modules) == 1:
        calibrate_weight(modules[0])
    else:
        for module in modules:
            initialize_observer(module, "weight")
            apply_calibration_status(module)
        FusionHandler.fuse([(module.weight_observer, module) for module in modules])
        observe(modules, "weight")
        update_qparams(modules, "weight")
        for module in modules:
            freeze_module_quantization(module)
    for module in modules:
        compress_module(module)
    return [module.state_dict() for module in modules]


def model_free(source: Path, folder: Path, scheme: str, ignore: Sequence[str]) -> dict[str, torch.Tensor]:
    """What `model_free_ptq` writes for a whole checkpoint, by name."""
    from llmcompressor import model_free_ptq

    model_free_ptq(str(source), str(folder), scheme=scheme, ignore=list(ignore), device="cpu")
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def written_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@dataclass(frozen=True)
class OneShot:
    """tensors: of every quantized Linear, under the checkpoint's own names. config: what its config.json says."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]


def one_shot(source: Path, profile: Mapping[str, Any], folder: Path) -> OneShot:
    """llmcompressor's W4A4 of a MiniMax-M2, calibrated on the tokens that a profile draws, experts as routed."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    from calibration.texts.tokens import token_batches
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.recipes.recipe import Calibration

    ids = token_batches(Calibration.model_validate(dict(profile)), load_tokenizer(source)).ids
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})
    oneshot(
        model=model,
        dataset=rows,
        recipe=QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=["lm_head", r"re:.*mlp\.gate$"]),
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
        moe_calibrate_all_experts=False,
    )
    model.save_pretrained(folder, save_compressed=True)
    found = {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
    return OneShot({_on_disk(name): tensor for name, tensor in found.items()}, written_config(folder))


def _on_disk(name: str) -> str:
    name = name.replace(".mlp.", ".block_sparse_moe.")
    for theirs, ours in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        name = name.replace(theirs, ours)
    return name


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether dtype, shape and every byte agree (NaN, and the sign of zero, included)."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    return torch.equal(ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))


def adversarial_weights(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Finite weights [out, in] that reach the corners of a rounding, by what they are."""
    random = torch.Generator().manual_seed(0)
    cases = {
        f"normal x {size}": torch.randn(256, 256, generator=random) * size
        for size in (1e-40, 1e-30, 1e-3, 0.02, 1.0, 1e4, 1e30)
    }
    zeros = cases["normal x 0.02"].clone()
    zeros[3], zeros[9], zeros[7, :16], zeros[5, 0], zeros[128:] = 0.0, -0.0, 0.0, -0.0, 0.0
    cases |= {"zero rows, groups and blocks": zeros, "all zero": torch.zeros(128, 256)}
    cases["forty binades"] = torch.randn(512, 256, generator=random) * torch.exp2(
        torch.randint(-37, 3, (512, 256), generator=random).float()
    )
    # Around every halfway point of E2M1, with the group's largest weight known, at many sizes.
    points = torch.tensor([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, -0.25]).repeat(64, 16)
    sizes = torch.exp2(torch.linspace(-14, 12, 64)).unsqueeze(1)
    cases["halfway points"] = points * sizes
    cases["near halfway points"] = points * sizes * (1 + torch.randn(64, 256, generator=random) * 2**-8)
    if dtype != torch.float32:
        # Every finite bit pattern, in order and shuffled, and every magnitude as the largest of its row and group.
        patterns = torch.arange(65536).to(torch.int16).view(dtype)
        patterns = torch.where(patterns.isfinite(), patterns, 0).float()
        magnitudes = torch.arange(32768).to(torch.int16).view(dtype).float()
        parts = torch.tensor(
            [1, 1 / 24, 1 / 8, 5 / 24, -7 / 24, 5 / 12, 7 / 12, 5 / 6, 0.5, 0.1, -0.3, -0.7, 0, -0.0, 1e-6, -1]
        )
        cases["every pattern"] = patterns.view(256, 256)
        cases["every pattern, shuffled"] = patterns[torch.randperm(65536, generator=random)].view(256, 256)
        cases["every largest magnitude"] = magnitudes[magnitudes.isfinite()].unsqueeze(1) * parts
    limit = torch.finfo(dtype).max
    return {name: weight.clamp(-limit, limit).to(dtype) for name, weight in cases.items()}
