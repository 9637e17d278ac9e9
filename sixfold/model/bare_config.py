"""A checkpoint known only by its config.json: what it would hold on disk, derived from transformers' own model.

The model is built without memory, and its parameters go through transformers' own way of saving: the names, shapes and
numbers of tensors are those that it would write, and reads again. Weights have the dtype that config.json states (BF16
where it states none or a quantized one, as exporters see them), and correction biases are F32, as they are published.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import torch

from sixfold.checkpoint.carried_files import carried_files
from sixfold.checkpoint.checkpoint import CONFIG, Checkpoint, Contents, SourceTensor, checked_name, read_config
from sixfold.checkpoint.config_bounds import check_bounds
from sixfold.checkpoint.config_fields import COUNT, GROUPS, TOP_K, count_keys, largest, mtp_layers, with_counts
from sixfold.checkpoint.provenance import Provenance, read_provenance
from sixfold.checkpoint.storage.safetensors_header import DTYPE_NAMES, tensor_nbytes
from sixfold.checkpoint.storage.source_encodings import check_quantization
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.meta_model import meta_model, transformers_config
from sixfold.model.module_map import tied_parameters

_CORRECTION_BIAS = re.compile(r"correction_bias$")
_AS_PUBLISHED = (
    (re.compile(r"^(language_model\.model)\.(blocks|encoder\.layers)\."), r"\1.layers."),
    (re.compile(r"^language_model\.model\.model\."), "language_model.model."),
)
"""Names that transformers gives a decoder when it saves, a tower's (Kimi-K2.5, Qianfan-OCR) or with a module twice (of
models that hear), and those that publishers give it. transformers loads both."""

_SENSES = re.compile(r"vision|visual|audio|image")


def open_config(
    path: Path, model: str, *, name: str = "", provenance: Provenance | None = None, experts: int | None = None
) -> Checkpoint:
    """The checkpoint that `path` describes, which cannot be read. model: as the user named it; a folder's other files
    (tokenizer, license) count as the checkpoint's, the neighbors of a file do not.

    experts: instead of the number in the config. Raises SixfoldError where transformers does not know the model or the
    weights would be quantized already, UsageError where it cannot have so many experts.
    """
    folder = path.parent
    whole = Path(model).expanduser().is_dir()
    names = {entry.name for entry in folder.iterdir() if entry.is_file()} if whole else set()
    config = read_config(path, model)
    check_quantization(config, names, model)
    if experts is not None:
        config = _with_experts(config, experts, model)
    own = folder.resolve().name if path.name == CONFIG else path.stem
    past = read_provenance(folder, provenance) if whole else provenance or Provenance()
    called = checked_name(name or past.name or own, model)
    return described(config, model, folder, name=called, extras=carried_files(names), provenance=past)


def described(
    config: Mapping[str, Any],
    location: str,
    folder: Path,
    *,
    name: str,
    extras: tuple[str, ...] = (),
    provenance: Provenance | None = None,
    held: Collection[str] = (),
) -> Checkpoint:
    """The checkpoint that a config describes, its tensors in the order in which transformers would save them.

    held: names of tensors that are at hand, which tell where a family has two names for one.

    Raises SixfoldError where transformers does not know the model, or the config describes none.
    """

    check_bounds(config, location)

    refuse = partial(_refuse, location)
    contents = Contents(refuse, refuse, partial(_fingerprint, config))
    past = provenance or Provenance()
    empty = Checkpoint(name, location, folder, "", config, {}, extras, past, contents, bare=True)
    tensors = _tensors(empty, held)
    return replace(empty, tensors=tensors, quantized=_quantized(config, tensors))


def _refuse(location: str, what: TensorSlice | str, out: torch.Tensor | None = None) -> NoReturn:
    name = what if isinstance(what, str) else what.name
    raise SixfoldError(
        f"{location} is a configuration without weights, so {name} cannot be read", "get the whole checkpoint"
    )


def _fingerprint(config: Mapping[str, Any]) -> str:
    return sha256(b"sixfold config 1\n" + json.dumps(config, sort_keys=True).encode()).hexdigest()


def config_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """For a bare checkpoint: what was assumed, and what is not counted."""
    if not checkpoint.bare:
        return
    yield (
        "known from config.json alone: names and shapes by transformers' own model, weights in"
        f" {_dtype_name(checkpoint.config)}, correction biases in float32"
    )
    if (mtp := mtp_layers(checkpoint.config)) is not None:
        yield (
            f"multi-token prediction layers ({mtp[0]}: {mtp[1]}) are not counted: transformers does not run them, and a"
            " checkpoint may or may not hold them"
        )
    if "text_config" in checkpoint.config and not any(_SENSES.search(name) for name in checkpoint.tensors):
        yield "only the text model is counted; vision and audio parts come on top"
    if not checkpoint.extras:
        yield "tokenizer, license and other small files are not known, and come on top"


def _with_experts(config: Mapping[str, Any], experts: int, model: str) -> dict[str, Any]:
    try:
        parsed = transformers_config(config)
    except KeyError:
        return dict(config)  # the model is refused by its type, where it is built
    stated = largest(parsed.to_dict(), COUNT)
    if not stated:
        raise UsageError(f"{model} has no routed experts, so there cannot be {experts}", "leave --experts out")
    chosen, groups = largest(parsed.to_dict(), TOP_K), max(largest(parsed.to_dict(), GROUPS), 1)
    if experts < chosen or experts % groups:
        raise UsageError(
            f"{model} cannot have {experts} experts: its router chooses {chosen} for a token"
            + (f", from {groups} groups of the same size" if groups > 1 else ""),
            f"give at least {chosen}" + (f", and a multiple of {groups}" if groups > 1 else ""),
        )
    layers = parsed.get_text_config().num_hidden_layers
    return with_counts(config, count_keys(config, stated, parsed), dict.fromkeys(range(layers), experts))


def _tensors(checkpoint: Checkpoint, held: Collection[str]) -> dict[str, SourceTensor]:
    from transformers.core_model_loading import revert_weight_conversion

    model: Any = meta_model(checkpoint, dtype=getattr(torch, _dtype_name(checkpoint.config)))
    tied = tied_parameters(model)
    state = {
        name: tensor.float() if _CORRECTION_BIAS.search(name) else tensor
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    found = {}
    try:
        stored = revert_weight_conversion(model, state)
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise SixfoldError(
            f"{checkpoint.config_location} describes no model that could be saved ({reason})",
            "compare it with the original model's config.json",
        ) from None
    renamed = [rule for rule in _AS_PUBLISHED if not any(map(rule[0].match, held))]
    for name, tensor in stored.items():
        for saved, published in renamed:
            name = saved.sub(published, name)
        dtype, shape = DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)
        found[name] = SourceTensor(name, dtype, shape, tensor_nbytes(dtype, shape))
    return found


def _quantized(config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The blocks that a checkpoint in MXFP4 stores in place of its experts' weights [experts, in, out]."""
    if (config.get("quantization_config") or {}).get("quant_method") != "mxfp4":
        return {}
    stacks = [t for t in tensors.values() if t.name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    shapes = {f"{t.name}_blocks": (t.shape[0], t.shape[2], t.shape[1] // 32, 17) for t in stacks}
    return {name: SourceTensor(name, "U8", shape, tensor_nbytes("U8", shape)) for name, shape in shapes.items()}


def _dtype_name(config: Mapping[str, Any]) -> str:
    """torch's name of the dtype that config.json states, if it is one that weights are published in."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if part.get(key) in ("bfloat16", "float16", "float32"):
                return str(part[key])
    return "bfloat16"
