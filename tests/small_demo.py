"""A part of the bundled model, of the same name: where every format is made and none is measured, it holds as well."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

DEMO = Path(__file__).parents[1] / "demo" / "minimax-m2-4.6m"
EXPERTS = 4


def small_demo(into: Path) -> Path:
    """Folder in `into`: the first of the two layers, with half of its experts."""
    folder = Path(shutil.copytree(DEMO, into / DEMO.name))
    config = json.loads((folder / "config.json").read_text())
    config.update(num_hidden_layers=1, num_local_experts=EXPERTS)
    config["attn_type_list"] = config["attn_type_list"][:1]
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    for name in list(weights):
        if ".layers.1." in name or any(f".experts.{n}." in name for n in range(EXPERTS, 8)):
            del weights[name]
        elif name.endswith(("gate.weight", "e_score_correction_bias")):
            weights[name] = weights[name][:EXPERTS].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
