"""llmcompressor as an exporter: any of its recipes, guarded against its silent failures.

What is guarded: names on disk, routers and heads left alone (also in the saved configuration), float32 correction
biases, AWQ's router mapping, one global scale for fused Linears, missing input scales of experts, fields that
transformers' configuration classes drop, file modes, and pinned memory on a machine without an accelerator.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from exporters.foreign.llmcompressor_recipe import group_sizes, guarded, module_name, read_recipe, scheme_recipe
from exporters.foreign.llmcompressor_result import finish
from exporters.protocol import Tokens
from exporters.selection import select
from sixfold.artifact.safetensors_layout import config_text
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.architecture import Linear, require_quantizable
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.runner.whole_model import load_model

SHARD_SIZE = "5GB"


class Options(BaseModel):
    """How llmcompressor is run. Calibration texts, samples and length are those of the recipe's profile."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    entrypoint: Literal["oneshot", "model_free_ptq"] = "oneshot"
    """oneshot runs the model on calibration text where the recipe needs it; model_free_ptq only rounds weights."""
    recipe: dict[str, Any] | None = None
    """An llmcompressor recipe: inline, or the path of its YAML. Without one, every Linear is rounded to the scheme."""
    moe_calibrate_all_experts: bool = True
    """Whether every expert sees every calibration token, or the routed ones alone."""

    @field_validator("recipe", mode="before")
    @classmethod
    def _content(cls, given: Any) -> Any:
        """A path becomes what the file says, so that manifests record that."""
        return given if given is None else read_recipe(given)


class LlmcompressorExporter:
    Options: type[BaseModel] = Options
    libraries = ("llmcompressor", "compressed-tensors")

    def run(self, source: Source, recipe: Recipe, tokens: Tokens | None, folder: Path) -> Sequence[str]:
        """Writes the artifact. Raises SixfoldError where the tool fails or what it wrote is not sound."""
        _require_tool()
        options = Options.model_validate(recipe.options)
        if options.entrypoint == "model_free_ptq" and options.recipe is not None:
            raise UsageError(
                f"{recipe.name}: model_free_ptq takes no llmcompressor recipe",
                "leave options.recipe out, or use oneshot",
            )
        require_quantizable(source.architecture, recipe.name)
        stated = options.recipe or scheme_recipe(recipe.scheme)
        sizes = group_sizes(stated)
        selection = select(source.architecture.linears, recipe, lambda linear: _misfit(linear, sizes))
        written = folder / "llmcompressor"
        with _quiet(), _without_pinned_memory():
            try:
                if options.entrypoint == "oneshot":
                    _oneshot(source, recipe, options, stated, selection.quantized, tokens, written)
                else:
                    _model_free(source, recipe, selection.quantized, written)
            except SixfoldError:
                raise
            except Exception as error:  # an external tool runs in there and may raise anything
                reason = " ".join(str(error).split())[:300]
                raise SixfoldError(
                    f"{recipe.name}: llmcompressor failed with {type(error).__name__}: {reason}",
                    "check its recipe and scheme against its documentation",
                ) from error
        notes = finish(source, written, folder)
        shutil.rmtree(written)
        return [*selection.notes, *notes]


def _require_tool() -> None:
    if find_spec("llmcompressor") is None:
        raise SixfoldError("llmcompressor is not installed", "run `pip install -e .[llmcompressor]` in the checkout")


def _misfit(linear: Linear, sizes: set[int]) -> str:
    size = next((size for size in sorted(sizes) if linear.in_features % size), None)
    return f"rows of {linear.in_features} do not divide into groups of {size}" if size else ""


def _oneshot(
    source: Source,
    recipe: Recipe,
    options: Options,
    stated: Mapping[str, Any],
    quantized: frozenset[str],
    tokens: Tokens | None,
    written: Path,
) -> None:
    """llmcompressor's `oneshot`, on weights as the checkpoint gives them: dequantized, biases in float32."""
    from llmcompressor import oneshot
    from llmcompressor.core import reset_session

    architecture = source.architecture
    model = load_model(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    # llmcompressor looks at the configuration behind the model's name: an unquantized one, as the weights now are.
    described = written / "source"
    described.mkdir(parents=True)
    (described / "config.json").write_bytes(config_text(source, None))
    model.config._name_or_path = model.name_or_path = str(described)
    untouched = [module_name(linear) for linear in architecture.linears if linear.name not in quantized]
    # Tied to the embeddings, the head is no tensor of its own on disk, but still a Linear here.
    head = model.get_output_embeddings()
    untouched += [name for name, module in model.named_modules() if module is head and name not in untouched]
    given = yaml.safe_dump(guarded(stated, architecture, untouched), sort_keys=False)
    try:
        oneshot(
            model=model,
            recipe=given,
            dataset=_dataset(tokens),
            processor=_no_tokenizer(),
            num_calibration_samples=recipe.calibration.samples,
            max_seq_length=recipe.calibration.length,
            shuffle_calibration_samples=False,
            moe_calibrate_all_experts=options.moe_calibrate_all_experts,
        )
        _forget_unrun_layers(model)
        model.save_pretrained(written, max_shard_size=SHARD_SIZE)
    finally:
        reset_session()


def _forget_unrun_layers(model: Any) -> None:
    """Saving would look for MTP layers in the folder that the model came from; they are copied from the source."""
    config = model.config.get_text_config()
    for field in ("num_mtp_layers", "mtp_num_hidden_layers"):
        if getattr(config, field, 0):
            setattr(config, field, 0)


def _dataset(tokens: Tokens | None) -> Any:
    from datasets import Dataset

    if tokens is None:
        return None
    ids = tokens()
    return Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})


def _no_tokenizer() -> Any:
    """llmcompressor insists on a tokenizer, also where it is given tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"": 0}, unk_token="")), pad_token="")


def _model_free(source: Source, recipe: Recipe, quantized: frozenset[str], written: Path) -> None:
    """llmcompressor's `model_free_ptq`: it reads the files themselves, so they must be what they seem."""
    from llmcompressor import model_free_ptq

    stored = sorted({tensor.stored_as for tensor in source.checkpoint.tensors.values()} - {"plain"})
    if stored:
        raise SixfoldError(
            f"{recipe.name}: model_free_ptq cannot read weights stored as {stored[0]}",
            "export the bf16 variant first and start from that, or use oneshot",
        )
    ignore = [
        name.removesuffix(".weight")
        for name, tensor in source.checkpoint.tensors.items()
        if len(tensor.shape) > 1 and name.removesuffix(".weight") not in quantized
    ]
    model_free_ptq(source.checkpoint.folder, written, scheme=recipe.scheme, ignore=ignore, max_workers=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """llmcompressor logs to stdout, for its developers (LLM_COMPRESSOR_LOG_DISABLED=false shows it); its progress bars
    go to stderr, and are for terminals."""
    silent = os.environ.setdefault("LLM_COMPRESSOR_LOG_DISABLED", "true").lower() == "true"
    with ExitStack() as stack:
        if not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(stack.enter_context(Path(os.devnull).open("w"))))
        import llmcompressor  # noqa: F401  # sets up its log when it is imported
        from loguru import logger

        for package in ("llmcompressor", "compressed_tensors") if silent else ():
            logger.disable(package)
        _register_level(logger)
        yield


def _register_level(logger: Any) -> None:
    """GPTQ reports at a level of llmcompressor's own, which a log that was never set up does not know."""
    try:
        logger.level("METRIC")
    except ValueError:
        logger.level("METRIC", no=38)


@contextmanager
def _without_pinned_memory() -> Iterator[None]:
    """AWQModifier pins memory also where there is no accelerator to pin it for, and crashes."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    original = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda *arguments, **named: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = original


EXPORTER = LlmcompressorExporter()
