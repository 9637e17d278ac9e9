"""Configuration, tokenizer, shards and index: what is around the tensors, of an FP8 folder."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.verification.corpus.changes import ROUTER, W1, W2, W3, Damage, Q, config, ignore
from tests.verification.damage import MOE, edit_config, edit_header, in_shards, replace


def _truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    replace(folder / "model.safetensors", data[:-100])


def _leftover(folder: Path) -> None:
    in_shards(folder)
    data = (folder / "model-00002-of-00002.safetensors").read_bytes()
    (folder / "model-00003-of-00003.safetensors").write_bytes(data)


def _moved(index: dict[str, Any]) -> None:
    index["weight_map"]["lm_head.weight"] = "model-00002-of-00002.safetensors"


def _shard_gone(folder: Path) -> None:
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _mode(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    replace(folder / "model.safetensors", data)
    (folder / "model.safetensors").chmod(0o600)


def _reversed_vocabulary(folder: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))

    edit_config(folder, change, "tokenizer.json")


def _template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    replace(path, path.read_bytes() + b" ")


def _old_shard(index: dict[str, Any]) -> None:
    index["weight_map"]["lm_head.weight"] = "model-00001-of-00009.safetensors"


def _in_two_shards(folder: Path) -> None:
    in_shards(folder)
    first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    tensors = {**load_file(second), "lm_head.weight": load_file(first)["lm_head.weight"]}
    save_file(tensors, second, {"format": "pt"})
    second.chmod(0o644)


def _hole(header: dict[str, Any]) -> None:
    last = max((entry for name, entry in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"][1])
    last["data_offsets"] = [place + 64 for place in last["data_offsets"]]


def _one_place(header: dict[str, Any]) -> None:
    header[W1 + "weight"]["data_offsets"] = header[W3 + "weight"]["data_offsets"]


def _exchanged(header: dict[str, Any]) -> None:
    one, other = header[W1 + "weight"], header[W3 + "weight"]
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]


FILES = [
    Damage("a layer less in config", "fp8", config(lambda c: c.update(num_hidden_layers=1)), "layer"),
    Damage("a layer more in config", "fp8", config(lambda c: c.update(num_hidden_layers=3)), "layer"),
    Damage(
        "another class in config",
        "fp8",
        config(lambda c: c.update(architectures=["LlamaForCausalLM"])),
        "architectures",
    ),
    Damage(
        "format of another scheme",
        "fp8",
        config(lambda c: c["quantization_config"].update(format="pack-quantized")),
        "config.json",
    ),
    Damage(
        "weights called uncompressed",
        "fp8",
        config(lambda c: c["quantization_config"].update(quantization_status="frozen")),
        "config.json",
    ),
    Damage(
        "four bits declared",
        "fp8",
        config(lambda c: c["quantization_config"]["config_groups"]["FP8_DYNAMIC"]["weights"].update(num_bits=4)),
        "config.json",
    ),
    Damage(
        "config counts an expert less", "fp8", config(lambda c: c.__setitem__("num_local_experts", 7)), MOE.format(0)
    ),
    Damage(
        "config counts an expert more", "fp8", config(lambda c: c.__setitem__("num_local_experts", 9)), MOE.format(0)
    ),
    Damage("two counts of experts", "fp8", config(lambda c: c.__setitem__("num_experts", 16)), "config.json"),
    Damage("scoring_func gone", "fp8", config(lambda c: c.pop("scoring_func")), "scoring_func"),
    Damage("rotary_dim gone", "fp8", config(lambda c: c.pop("rotary_dim")), "rotary_dim"),
    Damage(
        "rope_theta of another model", "fp8", config(lambda c: c.__setitem__("rope_theta", 5e6)), "rope_theta", False
    ),
    Damage("MTP count gone", "fp8", config(lambda c: c.pop("num_mtp_modules")), "num_mtp_modules", False),
    Damage("router not ignored", "fp8", ignore(lambda e: [x for x in e if "gate" not in x]), ROUTER),
    Damage("router ignored on disk alone", "fp8", ignore(lambda e: [x for x in e if ".mlp.gate" not in x]), ROUTER),
    Damage("head not ignored", "fp8", ignore(lambda e: [x for x in e if x != "lm_head"]), "lm_head"),
    Damage("attention ignored", "fp8", ignore(lambda e: [*e, "re:.*self_attn.*"]), Q[:-1]),
    Damage("no quantization_config", "fp8", config(lambda c: c.pop("quantization_config")), "config.json"),
    Damage(
        "per channel called per tensor",
        "fp8",
        config(lambda c: c["quantization_config"]["config_groups"]["FP8_DYNAMIC"]["weights"].update(strategy="tensor")),
        "weight_scale",
    ),
    Damage("file cut short", "fp8", _truncate, "model.safetensors"),
    Damage("file only its owner can read", "fp8", _mode, "model.safetensors"),
    Damage(
        "tokenizer changed",
        "fp8",
        lambda f: edit_config(f, lambda t: t["model"]["vocab"].__setitem__("the", 7), "tokenizer.json"),
        "tokenizer.json",
        False,
    ),
    Damage(
        "tokenizer gone", "fp8", lambda f: [p.unlink() for p in f.glob("tokenizer*")] and None, "tokenizer.json", False
    ),
    Damage("chat template gone", "fp8", lambda f: (f / "chat_template.jinja").unlink(), "chat_template.jinja", False),
    Damage(
        "another end token",
        "fp8",
        lambda f: edit_config(f, lambda g: g.__setitem__("eos_token_id", 99999), "generation_config.json"),
        "generation_config.json",
    ),
    Damage("config gone", "fp8", lambda f: (f / "config.json").unlink(), "config.json"),
    Damage("shard left over", "fp8", _leftover, "model-00003-of-00003.safetensors"),
    Damage("shard missing", "fp8", _shard_gone, "model-00002-of-00002.safetensors"),
    Damage("index of another save", "fp8", lambda f: in_shards(f, _moved), "lm_head.weight"),
    Damage(
        "index without a tensor",
        "fp8",
        lambda f: in_shards(f, lambda i: i["weight_map"].pop("lm_head.weight") and None),
        "lm_head.weight",
    ),
    Damage(
        "total size wrong",
        "fp8",
        lambda f: in_shards(f, lambda i: i["metadata"].update(total_size=7)),
        "model.safetensors.index.json",
    ),
    Damage(
        "index gone",
        "fp8",
        lambda f: (in_shards(f), (f / "model.safetensors.index.json").unlink())[1],
        "model.safetensors.index.json",
    ),
    Damage("a token's meaning changed", "fp8", _reversed_vocabulary, "tokenizer.json", False),
    Damage("a space in the chat template", "fp8", _template, "chat_template.jinja", False),
    Damage(
        "another end token inside the vocabulary",
        "fp8",
        lambda f: edit_config(f, lambda g: g.__setitem__("eos_token_id", 5), "generation_config.json"),
        "generation_config.json",
        False,
    ),
    Damage("config's end token changed", "fp8", config(lambda c: c.update(eos_token_id=5)), "eos_token_id", False),
    Damage("head tied", "fp8", config(lambda c: c.update(tie_word_embeddings=True)), "tie_word_embeddings", False),
    Damage(
        "fewer experts chosen", "fp8", config(lambda c: c.update(num_experts_per_tok=1)), "num_experts_per_tok", False
    ),
    Damage("another activation", "fp8", config(lambda c: c.update(hidden_act="gelu")), "hidden_act", False),
    Damage("a window added", "fp8", config(lambda c: c.update(sliding_window=128)), "sliding_window", False),
    Damage(
        "a rope scaling added",
        "fp8",
        config(lambda c: c.update(rope_scaling={"type": "linear", "factor": 2.0})),
        "rope_scaling",
        False,
    ),
    Damage(
        "whole heads rotated", "fp8", config(lambda c: c.update(partial_rotary_factor=1.0)), "partial_rotary", False
    ),
    Damage(
        "a quantized cache without scales",
        "fp8",
        config(lambda c: c["quantization_config"].update(kv_cache_scheme={"num_bits": 8, "type": "float"})),
        "kv_cache_scheme",
    ),
    Damage("index to an old shard", "fp8", lambda f: in_shards(f, _old_shard), "model-00001-of-00009.safetensors"),
    Damage("a tensor in two shards", "fp8", _in_two_shards, "lm_head.weight"),
    Damage("a hole between tensors", "fp8", edit_header(_hole), "model.safetensors"),
    Damage("two tensors in one place", "fp8", edit_header(_one_place), "model.safetensors"),
    Damage("offsets exchanged", "fp8", edit_header(_exchanged), W1 + "weight", False),
    Damage("a scale called F16", "fp8", edit_header(lambda h: h[W2 + "weight_scale"].update(dtype="F16")), W2, False),
]
