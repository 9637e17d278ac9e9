"""Multi-token prediction (MTP) layers for tiny models: transformers saves none."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

QWEN = {"eh_proj": "mtp.fc", "enorm": "mtp.pre_fc_norm_embedding", "hnorm": "mtp.pre_fc_norm_hidden"}
QWEN |= {"shared_head.norm": "mtp.norm"}


def add_drafts(folder: Path, *, around: bool = False, stacked: bool = False, norm: str = "shared_head.norm") -> Path:
    """An MTP layer like the last decoder layer with attention, behind the others; or `around`, in a module of its own,
    as Qwen's are. stacked: its experts in one array. norm: its last norm's name."""
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    layers, width = text["num_hidden_layers"], text["hidden_size"]
    held = load_file(weights)
    attends = [int(m[1]) for name in held if (m := re.search(r"(?<!visual\.)layers\.(\d+)\.self_attn", name))]
    last = f"layers.{max(attends)}."
    found = {name.split(last)[1]: t for name, t in held.items() if last in name}
    before = next(name.split(last)[0] for name in held if last in name and "visual" not in name)
    behind = "mtp.layers.0." if around else f"{before}layers.{layers}."
    found = _in_one_array(found) if stacked else found
    generator = torch.Generator().manual_seed(9)
    made = {"eh_proj.weight": torch.randn(width, 2 * width, generator=generator) / 20}
    made |= {f"{n}.weight": 1 + torch.randn(width, generator=generator) / 5 for n in ("enorm", "hnorm", norm)}
    more = {f"{behind}{n}": _alike(t, generator) for n, t in found.items()}
    for name, tensor in made.items():
        module = name.removesuffix(".weight")
        own = f"{QWEN[module]}.weight" if around else f"{behind}{name}"
        more[own] = tensor.bfloat16()
    save_file({**held, **more}, weights, {"format": "pt"})
    text["mtp_num_hidden_layers" if around else "num_nextn_predict_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def add_drafts_of_two(folder: Path) -> Path:
    """Nemotron's: an attention layer and one of experts, behind each other in a module of their own."""
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    held, kinds = load_file(weights), config["layers_block_type"]
    generator, width = torch.Generator().manual_seed(9), config["hidden_size"]
    more = {"mtp.layers.0.eh_proj.weight": (torch.randn(width, 2 * width, generator=generator) / 20).bfloat16()}
    for name in ("layers.0.enorm", "layers.0.hnorm", "layers.1.final_layernorm"):
        more[f"mtp.{name}.weight"] = (1 + torch.randn(width, generator=generator) / 5).bfloat16()
    for number, kind in enumerate(("full_attention", "moe")):
        layer = f".layers.{kinds.index(kind)}."
        alike = {name.split(layer)[1]: _alike(tensor, generator) for name, tensor in held.items() if layer in name}
        more |= {f"mtp.layers.{number}.{name}": tensor for name, tensor in alike.items()}
    save_file({**held, **more}, weights, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    return folder


def _alike(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (tensor.float() * (1 + torch.randn(tensor.shape, generator=generator) / 4)).to(tensor.dtype)


def _in_one_array(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`mlp.experts.N.x_proj.weight` of all experts as `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`."""
    others = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    experts = range(sum(name.endswith(".down_proj.weight") and ".experts." in name for name in tensors))
    gate, up, down = (
        torch.stack([tensors[f"mlp.experts.{n}.{part}_proj.weight"] for n in experts])
        for part in ("gate", "up", "down")
    )
    return {**others, "mlp.experts.gate_up_proj": torch.cat([gate, up], 1), "mlp.experts.down_proj": down}
