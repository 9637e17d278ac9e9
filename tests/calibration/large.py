"""A checkpoint that is large on paper: its file has holes where the weights are, which read as zeros."""

import json
import shutil
from pathlib import Path

from sixfold.checkpoint.storage.safetensors_header import tensor_nbytes, write_header

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"


def make_large(folder: Path, *, layers: int, experts: int, hidden: int, intermediate: int) -> int:
    """A MiniMax-M2 in BF16 with the demo's tokenizer; returns the bytes of its weights."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(DEMO / name, folder / name)
    config = json.loads((DEMO / "config.json").read_text())
    config |= {
        "num_hidden_layers": layers,
        "num_local_experts": experts,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
    }
    (folder / "config.json").write_text(json.dumps(config))
    heads = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    vocabulary = config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    for layer in range(layers):
        at, moe = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.block_sparse_moe"
        shapes |= {
            f"model.layers.{layer}.input_layernorm.weight": (hidden,),
            f"model.layers.{layer}.post_attention_layernorm.weight": (hidden,),
            f"{at}.q_proj.weight": (heads, hidden),
            f"{at}.k_proj.weight": (kv, hidden),
            f"{at}.v_proj.weight": (kv, hidden),
            f"{at}.o_proj.weight": (hidden, heads),
            f"{at}.q_norm.weight": (heads,),
            f"{at}.k_norm.weight": (kv,),
            f"{moe}.gate.weight": (experts, hidden),
            f"{moe}.e_score_correction_bias": (experts,),
        }
        for expert in range(experts):
            shapes |= {f"{moe}.experts.{expert}.{part}.weight": (intermediate, hidden) for part in ("w1", "w3")}
            shapes[f"{moe}.experts.{expert}.w2.weight"] = (hidden, intermediate)
    tensors = [(name, "F32" if name.endswith("bias") else "BF16", shape) for name, shape in shapes.items()]
    header, nbytes = write_header(tensors, {}), sum(tensor_nbytes(dtype, shape) for _, dtype, shape in tensors)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + nbytes)
    return nbytes
