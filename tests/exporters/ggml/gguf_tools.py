"""What the GGUF tests share: tokenizers for random models, exports in one call, and tensors of a finished file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from calibration.imatrix import write_imatrix
from exporters.gguf import EXPORTER
from sixfold.artifact.plan import ExportPlan
from sixfold.artifact.streaming.stream import write_files
from sixfold.artifact.streaming.writing import Writing, one_by_one, singly
from sixfold.model.latent_attention import HALVES, latent_linears
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import MANIFEST, Statistics, layer_file, moe_of

CORPUS = [
    "The quick brown fox doesn't jump over 12345 lazy dogs, it's asleep; they'LL see, WE'VE told you so.",
    "def main(argv: list[str]) -> int:\n    return sum(int(x) for x in argv[1:]) // 3  # 3.14159\n\n\n",
    "Å være eller ikke være, det er spørsmålet. Où est la bibliothèque? Straße, naïve, façade, Ærøskøbing.",
    "привет мир, это проверка 2026 года. 東京は日本の首都です。 안녕하세요 세계. café",
    "\t\ttabs  and   many    spaces \r\n line\r\n\r\n $100,000.00 -- 'quoted' \"text\" <tag/> @user #topic ...!!! 🚀🦙",
]
HARD = [
    *CORPUS,
    "नमस्ते दुनिया",
    " leading",
    "trailing ",
    "a  b   c\n\n\nd \n e",
    "I'm I'M you'Re we'd'd 'tis",
    "x=1234567.89e-10;y+=z**2",
    "snake_case CamelCaseHTTPServer kebab-case path/to/file.txt",
    "日本語とEnglishを混ぜる123テスト",
    "ÀÉÎõü ǅ ß ſ",
    "١٢٣ ४५६ ½ Ⅷ",
    "\u00a0nbsp\u2003em\u3000wide",
    "🙂🙃👩\u200d👩\u200d👧 ok",
    "e\u0301a\u0300 combining",
    "!?!?;;::((",
    "\n",
    "   ",
]


def byte_level_tokenizer(splits: Sequence[str], *, size: int, ignore_merges: bool = False) -> Tokenizer:
    """A trained BPE tokenizer over bytes. splits: regular expressions in turn; none for GPT-2's own."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if splits:
        from tokenizers import Regex

        steps: list[Any] = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def sentencepiece_like_tokenizer(size: int) -> Tokenizer:
    """BPE with byte fallback and spaces as U+2581: what Llama 2's and Mixtral's tokenizer.json hold."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS[:3], trainer)
    parsed = json.loads(tokenizer.to_str())
    parsed["added_tokens"] = parsed["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(parsed))


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **settings: Any) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    stated = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**stated, **settings}))


def spread(folder: Path) -> None:
    """Give random weights a trained model's heavy tails, and norms that are not all ones."""
    file = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(4)
    tensors = load_file(file)
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            tensors[name] = (tensor.float() * (1 + 0.3 * noise)).to(tensor.dtype)
        elif tensor.dtype == torch.bfloat16:
            tensors[name] = (tensor.float() * (0.5 * noise).exp()).to(tensor.dtype)
    save_file(tensors, file, {"format": "pt"})


def recipe(scheme: str, *, indivisible: str = "keep", keep: Sequence[str] = (), **options: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": f"gguf-{scheme.lower()}",
            "suffix": "GGUF",
            "title": "t",
            "exporter": "gguf",
            "scheme": scheme,
            "indivisible": indivisible,
            "keep": list(keep),
            "options": options,
        }
    )


def export(source: Source, made: Recipe, folder: Path, statistics: Statistics | None = None) -> tuple[ExportPlan, Path]:
    """Plan, decide, write; returns the plan and the first file."""
    plan = EXPORTER.plan(source, made, statistics)
    layers = {unit.layer for unit in plan.units if unit.layer is not None}
    decided = {layer: EXPORTER.decide(source, made, statistics, layer).tensors for layer in layers}
    encode = one_by_one(lambda unit, inputs: EXPORTER.encode(unit, inputs, decided.get(unit.layer, {}), made))
    writing = Writing(plan, folder, "k", singly, encode)
    (written,) = write_files([writing], source.checkpoint, threads=1, advance=lambda nbytes: None).each
    written.whole()
    return plan, folder / plan.files[0].name


def random_statistics(source: Source, folder: Path) -> Statistics:
    """Statistics as a calibration leaves them, of lognormal inputs; the last expert of every site got no token."""
    generator = torch.Generator().manual_seed(1)
    sites: dict[str, dict[str, Any]] = {}
    for linear in source.architecture.linears:
        experts = None
        if linear.expert is not None:
            experts = source.architecture.experts
        entry = sites.setdefault(linear.site, {"layer": linear.layer, "experts": experts, "linears": []})
        entry["linears"].append(linear.name.replace(f"experts.{linear.expert}.", "experts.*."))
    by_layer: dict[int | None, dict[str, torch.Tensor]] = {}
    columns = {linear.site: linear.in_features for linear in source.architecture.linears}
    for site, entry in sites.items():
        entry["linears"] = list(dict.fromkeys(entry["linears"]))
        lead = () if entry["experts"] is None else (entry["experts"],)
        count = torch.randint(5, 900, lead, generator=generator)
        if lead:
            count[-1] = 0
        total = torch.randn((*lead, columns[site]), generator=generator).exp().square() * count.unsqueeze(-1)
        tensors = by_layer.setdefault(entry["layer"], {})
        tensors[f"{site}/count"] = count
        tensors[f"{site}/sum_sq"] = total.to(torch.float32)
    for name, heads in latent_linears(source).items():
        layer = next(linear.layer for linear in source.architecture.linears if linear.name == name)
        for half in HALVES:
            noise = torch.randn(heads.heads, heads.channels(half), generator=generator)
            by_layer[layer][f"{name}/{half}_sq"] = noise.exp().square() * 700
            by_layer[layer][f"{name}/{half}_count"] = torch.tensor(700)
    folder.mkdir(parents=True, exist_ok=True)
    for layer, tensors in by_layer.items():
        save_file(tensors, folder / layer_file(layer))
    tokens = {"files": {"a.txt": {"tokens": 9}}, "samples": 64, "length": 512}
    moe = {
        moe_of(site): {"layer": entry["layer"], "experts": entry["experts"], "starved": [entry["experts"] - 1]}
        for site, entry in sites.items()
        if entry["experts"] is not None
    }
    profile = {"starved": "average", "min_tokens": 5}
    manifest: Mapping[str, Any] = {"sites": sites, "moe": moe, "profile": profile, "files": {}, "tokens": tokens}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Statistics(folder, manifest)


def imatrix_of(source: Source, statistics: Statistics, folder: Path) -> Path:
    """What llama-quantize makes of the imatrix.gguf that calibration writes: an .npz of sums over counts by name."""
    write_imatrix(statistics, source, folder / "imatrix.gguf")
    stored = {tensor.name: tensor.data for tensor in GGUFReader(folder / "imatrix.gguf").tensors}
    arrays = {}
    for name in (n.removesuffix(".in_sum2") for n in stored if n.endswith(".in_sum2")):
        sums, counts = np.atleast_2d(stored[f"{name}.in_sum2"]), stored[f"{name}.counts"].reshape(-1)
        rows = [row / count if count > 0 else np.ones_like(row) for row, count in zip(sums, counts, strict=True)]
        arrays[name] = np.concatenate(rows).astype(np.float32)
    np.savez(folder / "imatrix.npz", **arrays)
    return folder / "imatrix.npz"


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a GGUF file: type, shape as stored, bytes."""
    return {
        tensor.name: (tensor.tensor_type.name, tuple(int(n) for n in tensor.shape), tensor.data.tobytes())
        for tensor in GGUFReader(path).tensors
    }


def keys_of(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
