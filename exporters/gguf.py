"""GGUF files for llama.cpp, straight from safetensors: no BF16 GGUF is written on the way.

The recipe's `scheme` is one of llama.cpp's presets: types are picked per tensor as llama-quantize picks them, weights
are rounded by llama.cpp's own functions, and the importance matrix is the calibration's mean square of every input
channel: what llama-quantize makes of the same weights and the same imatrix.gguf, byte for byte. Or it is AUTO, and
types are chosen to the recipe's budget (exporters/mix).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
from gguf import GGMLQuantizationType
from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt

from exporters.ggml import layout
from exporters.ggml.architectures.entry import DRAFTS, NUMBERS
from exporters.ggml.architectures.rotary import Config
from exporters.ggml.compensated import compensated, quantize_compensated
from exporters.ggml.header.hyperparameters import as_stated, differences
from exporters.ggml.header.metadata import PROVENANCE, Importance, has_tokenizer, headers
from exporters.ggml.header.pre_tokenizer_names import known_name
from exporters.ggml.importance import layer_importance, weighted_linears
from exporters.ggml.kernels import PLAIN, encodes_on_gpu, quantize, type_named
from exporters.ggml.mxfp4 import MXFP4, held_in_mxfp4, is_held, repacked
from exporters.ggml.projector.file import projector_plan
from exporters.ggml.stated_types import stated_notes, stated_types
from exporters.ggml.tensors import Tensor, expert_of, gguf_tensors
from exporters.ggml.transforms import changes_columns, head_rows, tiled_columns, transformed, values
from exporters.ggml.type_mix import PRESETS, Choice, Shape, needs_importance, tensor_types
from exporters.mix.choose import Options as Offered
from exporters.mix.gguf_mix import AUTO, check_budget, mixed_types, offered_types, wanted_roundings
from exporters.mix.prepare import prepared
from exporters.protocol import Decided, Decisions, Tokens
from exporters.rounding.compensated_where_known import each
from exporters.rounding.device import at_device
from exporters.rounding.factor import Factor, unrelated
from exporters.rounding.inputs import Inputs
from sixfold.artifact.plan import ExportPlan, PlannedFile, PlannedTensor, Unit
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.gguf.architectures import decoder_config, gguf_architecture
from sixfold.model.gguf.arrangements import latent_halves, row_parts
from sixfold.model.gguf.drafts import blocks_behind
from sixfold.model.gguf.tensor_names import gguf_tensor_names, numbers_of_layers
from sixfold.model.meta_model import completed
from sixfold.model.source import Source
from sixfold.name_lists import by_layer, some
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.gguf_weights import weights_of
from sixfold.statistics.importance_matrix import ImportanceMatrix, open_importance_matrix
from sixfold.statistics.importance_matrix_fit import check_fit
from sixfold.statistics.statistics import Statistics

IMATRIX_FILE = "imatrix.gguf"
"""Name of the importance matrix that calibration leaves for llama.cpp's own tools."""

_KEY_BYTES = 127
"""Of the dataset's name, that llama-quantize keeps."""

_UNWEIGHTED = ("F32", "F16", "BF16", "Q8_0")
"""Presets whose rounding no importance matrix changes."""


class Options(BaseModel):
    """Options of the gguf exporter."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    imatrix: bool = True
    """Weight the rounding by what calibration measured; without it no calibration is needed."""
    tokenizer_pre: Annotated[str, AfterValidator(known_name)] | None = None
    """llama.cpp's name of the pre-tokenizer, where it is not recognized."""
    split_bytes: PositiveInt = 50_000_000_000
    """Model files larger than this are split."""
    projector: Literal["BF16", "F16", "none"] = "BF16"
    """What a model that sees keeps its tower and projector in, in a file of their own (mmproj-*.gguf)."""


class GgufExporter:
    Options: type[BaseModel] = Options
    provenance = PROVENANCE
    libraries = ("gguf", "libggml-python", "tokenizers")
    importance_suffices = True

    def needs_statistics(self, recipe: Recipe) -> bool:
        weighted = _options(recipe).imatrix and _scheme(recipe) not in _UNWEIGHTED
        return recipe.scheme == AUTO or weighted or self.compensates(recipe)

    def compensates(self, recipe: Recipe) -> bool:
        return recipe.compensates and _options(recipe).imatrix and _scheme(recipe) not in _UNWEIGHTED

    def prepare(
        self, source: Source, recipe: Recipe, statistics: Statistics, tokens: Tokens | None, progress: Progress
    ) -> None:
        """Foretells the damage that a mix is chosen by."""
        if _scheme(recipe) == AUTO:
            check_budget(recipe)
            tensors = _tensors(source)
            wanted = wanted_roundings(source, recipe, tensors, stated_types(source, recipe, tensors))
            prepared(source, statistics, wanted, tokens, progress)

    def offered(self, source: Source, recipe: Recipe, statistics: Statistics) -> Offered | None:
        tensors = _tensors(source)
        return offered_types(source, recipe, statistics, tensors, stated_types(source, recipe, tensors))

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        checkpoint, scheme, options = source.checkpoint, _scheme(recipe), _options(recipe)
        check_budget(recipe)
        if scheme == AUTO and not options.imatrix:
            raise UsageError(
                f"{recipe.name}: types are chosen by what calibration measured, and options.imatrix turns it off",
                "set options.imatrix=true, or choose a scheme of llama.cpp's",
            )
        arch = gguf_architecture(checkpoint.config)
        config = decoder_config(completed(checkpoint.config))
        tensors = _tensors(source)
        held = {DRAFTS: blocks_behind(tensors, config["num_hidden_layers"]), NUMBERS: _numbers(source)}
        config = {**config, **held}
        matrix = _matrix(source, recipe) if self.needs_statistics(recipe) else None
        weighted = weighted_linears(source).keys() & tensors.keys() if self.needs_statistics(recipe) else set()
        weighted = weighted if matrix is None else weighted & matrix.entries.keys()
        weighted = {name for name in weighted if not is_held(tensors[name])}
        stated = stated_types(source, recipe, tensors)
        recorded = _recorded(source, recipe, matrix) if weighted else None

        def laid(choices: Mapping[str, Choice]) -> tuple[list[PlannedFile], list[PlannedTensor]]:
            groups = layout.split(tensors, choices, options.split_bytes)
            starts = headers(
                checkpoint,
                config,
                arch,
                groups,
                preset=None if scheme == AUTO else scheme,
                tokenizer_pre=options.tokenizer_pre,
                importance=recorded,
            )
            names = layout.file_names(f"{checkpoint.name}-{recipe.label}", len(groups))
            return layout.place(names, starts, groups, tensors)

        mix: tuple[str, ...] = ()
        if scheme == AUTO:
            choices, mix = mixed_types(
                source, recipe, statistics, tensors, stated, lambda tried: sum(file.nbytes for file in laid(tried)[0])
            )
        else:
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            choices = tensor_types(shapes, scheme, _shape(arch, config), importance=bool(weighted), kept=stated)
        _check(choices, tensors, weighted, recipe)
        files, planned = laid(choices)
        sees = projector_plan(checkpoint, None if options.projector == "none" else options.projector)
        licenses = [name for name in checkpoint.extras if name.upper().startswith(("LICEN", "NOTICE"))]
        return ExportPlan(
            variant=recipe.name,
            folder=f"{checkpoint.name}-{recipe.suffix}",
            tensors=(*planned, *sees.tensors),
            units=(
                *layout.units(planned, tensors, {**checkpoint.tensors, **checkpoint.quantized}, weighted),
                *sees.units,
            ),
            files=(*files, *sees.files),
            texts={name: (checkpoint.folder / name).read_bytes() for name in licenses},
            notes=(
                *mix,
                *stated_notes(source, recipe, tensors),
                *_notes(source, config, choices, tensors, weighted, sees.inputs, compensates=self.compensates(recipe)),
                *sees.notes,
            ),
            manifest=f"{files[0].name}.manifest.json",
        )

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        """The importance of each tensor of the layer by GGUF name: float32 [C], of stacked experts [E, C], of halves of
        kv_b_proj [heads, C]."""
        if statistics is None:
            raise SixfoldError(
                f"{recipe.name} needs the calibration's statistics",
                "run `sixfold calibrate MODEL` first, or set options.imatrix=false",
            )
        return layer_importance(weighted_linears(source, layer), statistics, layer)

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        name, _, transform = unit.encoding.partition(" ")
        qtype = type_named(name)
        if not unit.inputs:
            return [quantize(values(transform), qtype)]
        if qtype == MXFP4:
            return [repacked(inputs[0], transform)]
        on_disk = unit.inputs[0].name
        importance = decisions[unit.outputs[0].name] if unit.layer is not None else None
        rows = transformed(inputs[0], transform)
        if importance is None or importance.dim() == 1:
            weights = None if importance is None else tiled_columns(importance, transform)
            return [_quantized(rows, qtype, weights, on_disk)]
        expert = expert_of(on_disk)
        if expert is not None:
            return [_quantized(rows, qtype, importance[expert], on_disk)]
        first = unit.inputs[0].start // head_rows(transform)
        heads = [_quantized(head, qtype, importance[first + n], on_disk) for n, head in enumerate(rows)]
        return [torch.cat(heads)]

    def compensate(
        self,
        units: Sequence[Unit],
        inputs: Sequence[Sequence[torch.Tensor]],
        decisions: Sequence[Decisions],
        recipe: Recipe,
        known: Inputs,
    ) -> Sequence[Sequence[torch.Tensor]]:
        name, _, transform = units[0].encoding.partition(" ")
        qtype = type_named(name)

        def rounded(places: Sequence[int], factor: Factor) -> list[Sequence[torch.Tensor]]:
            rows = [transformed(inputs[n][0], transform) for n in places]
            made = quantize_compensated(rows, qtype, factor, [units[n].inputs[0].name for n in places])
            return [[blocks] for blocks in made]

        # The halves of kv_b_proj read something else than kv_b_proj.
        possible = compensated(qtype) and not changes_columns(transform)
        factors = [_factor(unit, inputs[n], known, qtype) if possible else None for n, unit in enumerate(units)]
        return each(factors, lambda n: self.encode(units[n], inputs[n], decisions[n], recipe), rounded)


def _quantized(
    rows: torch.Tensor, qtype: GGMLQuantizationType, importance: torch.Tensor | None, name: str
) -> torch.Tensor:
    """On a GPU where there is one: the bytes are the same."""
    if not encodes_on_gpu(qtype):
        return quantize(rows, qtype, importance, name=name)
    (blocks,) = at_device([rows], lambda weights: [quantize(weights[0], qtype, importance, name=name)])
    return blocks


def _factor(unit: Unit, inputs: Sequence[torch.Tensor], known: Inputs, qtype: GGMLQuantizationType) -> Factor | None:
    """None of a tensor of a layer whose input nothing is known of: it is weighted by importance; and of any such tensor
    in Q8_0, which has no better scale to be searched."""
    factor = known.factor(unit.inputs[0].name.removesuffix(".weight"))
    if factor is None and unit.layer is None and qtype != GGMLQuantizationType.Q8_0:
        return unrelated(inputs[0].shape[-1], known.device)
    return factor


EXPORTER = GgufExporter()


def _options(recipe: Recipe) -> Options:
    return Options.model_validate(recipe.options)


def _tensors(source: Source) -> dict[str, Tensor]:
    found = gguf_tensors(decoder_config(completed(source.checkpoint.config)), source.checkpoint.tensors)
    tensors = {tensor.name: tensor for tensor in found}
    return {**tensors, **held_in_mxfp4(tensors, source.checkpoint)}


def _numbers(source: Source) -> dict[str, list[float] | list[int]]:
    """Values of the keys that the checkpoint has tensors for; zeros where there is no more than a config.json."""
    checkpoint = source.checkpoint

    def values_of(name: str) -> torch.Tensor:
        tensor = checkpoint.tensors[name]
        if checkpoint.bare:
            return torch.zeros(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype]).flatten()
        return checkpoint.read(TensorSlice(name, 0, tensor.shape[0] if tensor.shape else 1)).flatten()

    found = numbers_of_layers(checkpoint.config, checkpoint.tensors)
    return {key: torch.cat([values_of(name) for name in names]).tolist() for key, names in found.items()}


def _scheme(recipe: Recipe) -> str:
    if recipe.scheme not in (*PRESETS, AUTO):
        raise UsageError(
            f"recipe {recipe.name}: scheme {recipe.scheme!r} is not a GGUF type",
            f"use one of {', '.join((*PRESETS, AUTO))}",
        )
    return recipe.scheme


def _matrix(source: Source, recipe: Recipe) -> ImportanceMatrix | None:
    """The importance matrix that the recipe names. Raises SixfoldError where it is not of this model."""
    if recipe.calibration.imatrix is None:
        return None
    matrix = open_importance_matrix(recipe.calibration.imatrix)
    check_fit(matrix, source, weights_of(source))
    return matrix


def _recorded(source: Source, recipe: Recipe, matrix: ImportanceMatrix | None) -> Importance:
    """Of the matrix that the recipe names, or of imatrix.gguf, which is known before calibration: one entry for each
    tensor of the decoder layers."""
    if matrix is not None:
        dataset = next(iter(matrix.datasets), "").encode()[:_KEY_BYTES].decode(errors="ignore")
        return Importance(matrix.copy_name, dataset, len(matrix.entries), matrix.chunks)
    config = source.checkpoint.config
    observed = [li for li in source.architecture.linears if li.layer is not None and li.role != "other"]
    weights = [linear.weight for linear in observed]
    names = gguf_tensor_names(config, weights).values()
    entries = {part for name in names for part in latent_halves(config, name) or row_parts(name) or (name,)}
    texts = ", ".join(text.name for text in recipe.calibration.texts)
    return Importance(IMATRIX_FILE, texts, len(entries), recipe.calibration.samples)


def _shape(arch: str, config: Config) -> Shape:
    stated = as_stated(arch, config)
    heads = stated.get("num_attention_heads") or 0
    experts = next((stated[k] for k in ("num_local_experts", "num_experts", "n_routed_experts") if stated.get(k)), 0)
    layers = stated["num_hidden_layers"] + stated[DRAFTS]
    return Shape(arch, layers, heads, stated.get("num_key_value_heads") or heads, experts)


def _check(
    choices: Mapping[str, Choice], tensors: Mapping[str, Tensor], weighted: Collection[str], recipe: Recipe
) -> None:
    """Raises SixfoldError where llama-quantize would, and where the recipe wants no other type than asked for."""
    for name, choice in choices.items():
        if needs_importance(name, choice.qtype) and name not in weighted:
            raise SixfoldError(
                f"{recipe.name}: {name} would be {choice.qtype.name}, which is garbage without an importance matrix,"
                " and there is none for it",
                "choose a scheme of more bits"
                if _options(recipe).imatrix
                else "set options.imatrix=true, or choose a scheme of more bits",
            )
        if choice.wanted is not None and recipe.indivisible == "fail":
            raise SixfoldError(
                f"{recipe.name}: rows of {tensors[name].shape[-1]} do not fit {choice.wanted.name} in {name}",
                "set `indivisible: keep` to take the type that llama.cpp takes instead",
            )


def _notes(
    source: Source,
    config: Config,
    choices: Mapping[str, Choice],
    tensors: Mapping[str, Tensor],
    weighted: Collection[str],
    elsewhere: Collection[str],
    *,
    compensates: bool,
) -> Iterator[str]:
    if not has_tokenizer(source.checkpoint):
        yield "a lower bound: the tensors are exact, and the tokenizer's vocabulary, which is not known, comes on top"
    yield from differences(gguf_architecture(config), config)
    fallbacks: dict[tuple[str, str, int], list[str]] = {}
    for name, choice in choices.items():
        if choice.wanted is not None:
            key = (choice.qtype.name, choice.wanted.name, tensors[name].shape[-1])
            fallbacks.setdefault(key, []).append(name)
    for (qtype, wanted, columns), names in fallbacks.items():
        yield f"{qtype} instead of {wanted}, which cannot hold rows of {columns}: {some(names)}"
    rounded = [name for name, choice in choices.items() if choice.qtype not in (*PLAIN, MXFP4) and name not in weighted]
    if weighted and (outside := [name for name in rounded if not name.startswith("blk.")]) and not compensates:
        yield f"rounded without importance, as llama.cpp does unless told otherwise: {', '.join(outside)}"
    if weighted and (inside := [name for name in rounded if name.startswith("blk.")]):
        yield f"rounded without importance, as there are no statistics of what they read: {some(inside)}"
    named = gguf_tensor_names(source.checkpoint.config, source.checkpoint.tensors)
    left = [name for name in source.checkpoint.tensors if name not in named and name not in elsewhere]
    if left:
        yield f"left out, as llama.cpp does not run them or computes them itself: {by_layer(left)}"
