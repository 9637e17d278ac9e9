"""What is declared of a kind of projector that llama.cpp knows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporters.ggml.tensors import Tensor
from sixfold.checkpoint.checkpoint import SourceTensor

Config = Mapping[str, Any]


class NotRun(Exception):
    """What llama.cpp does not run of a kind that it knows, in words for a reader: there is no file then, and the
    language model goes without."""


@dataclass(frozen=True)
class Seeing:
    """What the files of a checkpoint say of how it sees. whole: config.json, completed. tower: what that says of the
    tower, with what the entry states otherwise; ear: its audio_config, {} where it has none. processor:
    preprocessor_config.json and processor_config.json in one. tensors: on disk. token: the number of a token by its
    text, None where the tokenizer does not have it."""

    whole: Config
    tower: Config
    ear: Config
    processor: Config
    tensors: Mapping[str, SourceTensor]
    token: Callable[[str], int | None]

    @property
    def text(self) -> Config:
        return {**self.whole, **(self.whole.get("text_config") or {})}


Value = Callable[[Seeing], Any]
Keys = tuple[tuple[str, Value], ...]
"""gguf-py's writer methods, or keys that it has no method for (floats, and unsigned numbers), and their values; None is
not written."""

Step = Callable[[Seeing, str, SourceTensor], Sequence[Tensor]]
"""From a tensor's GGUF name and the tensor on disk to what the file holds of it."""


def nothing(seeing: Seeing) -> Config:
    return {}


def every_layer(seeing: Seeing) -> None:
    return None


def vision_config(whole: Config) -> Config:
    return mapping_in(whole, "vision_config")


def mapping_in(whole: Config, name: str) -> Config:
    """{} where config.json has something else there."""
    found = whole.get(name)
    return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Projector:
    """A kind of projector, with the tower before it.

    kind: as `clip.projector_type` names it, "" of a model that hears alone; hears: as `clip.audio.projector_type` does,
    "" of one that sees alone. tower: the model type that vision_config must have, where one family is made with
    several.
    holds: an expression on the names of tensors on disk that belong to it.
    renamed: expressions, and what makes a name on disk one that gguf-py's table has.
    own: names of modules (renamed) that this table lacks, or has for another -> their GGUF names.
    left_out: an expression on names (renamed) of what llama.cpp does not run.
    layers: how many of the tower's llama.cpp runs; None for all. Those behind are left out.
    beside: an expression on tensors of the language model, and the GGUF name of what the file holds of one.
    eyes: what config.json, completed, says of the tower; {} where it has none.
    steps: expressions on names (renamed), and what is done to a tensor; the first that fits.
    float32, float16: expressions on names (renamed) of what is kept so, whatever the file's type is.
    convolved: the same of what llama.cpp convolves with, beside patches, and has no kernels for in BF16.
    keys: beyond those of every tower (audio_keys of every ear). stated: fields of vision_config that the file states
    otherwise. prepared: what the publisher's code does to pictures, where no file beside the checkpoint says it.
    """

    kind: str
    holds: str
    keys: Keys
    hears: str = ""
    audio_keys: Keys = ()
    tower: str = ""
    eyes: Callable[[Config], Config] = vision_config
    renamed: tuple[tuple[str, str], ...] = ()
    own: Callable[[Seeing], Mapping[str, str]] = nothing
    left_out: str = r"(?!)"
    layers: Callable[[Seeing], int | None] = every_layer
    beside: tuple[tuple[str, str], ...] = ()
    steps: tuple[tuple[str, Step], ...] = field(default=())
    float32: str = r"(?!)"
    float16: str = r"(?!)"
    convolved: str = r"(?!)"
    stated: Callable[[Seeing], Config] = nothing
    prepared: Config = field(default_factory=dict)
