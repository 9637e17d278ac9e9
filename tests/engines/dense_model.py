"""A small dense model of the sizes that engines' kernels accept, whose next tokens are decided."""

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.exporters.exported import DEMO
from tests.exporters.ggml.gguf_tools import spread
from tests.families import make_family
from tests.verification.damage import edit_config


def dense_model(folder: Path) -> Path:
    """A Llama of random weights, with the bundled model's tokenizer and a head that tells tokens apart."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "max_position_embeddings": 512}
    make_family("llama", folder, vocab_size=2048, **sizes)
    spread(folder)
    decide(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    edit_config(folder, lambda config: config.update(eos_token_id=0, bos_token_id=0))
    return folder


def decide(folder: Path) -> None:
    """Make the head of a random model four times as large: distributions that are far from uniform differ more."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] *= 4
    save_file(tensors, file, {"format": "pt"})
