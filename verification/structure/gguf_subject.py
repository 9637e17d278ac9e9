"""What every check of a GGUF file looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sixfold.model.meta_model import completed
from sixfold.model.source import Source
from verification.reading.gguf_blocks import GgufWeights
from verification.reading.gguf_file import Gguf


@dataclass(frozen=True)
class GgufSubject:
    """source: None without --against."""

    file: Gguf
    source: Source | None

    @cached_property
    def weights(self) -> GgufWeights:
        return GgufWeights(self.file)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The source's config.json with transformers' defaults for what it leaves out; {} without a source."""
        if self.source is None:
            return {}
        stated = self.source.checkpoint.config
        filled = completed(stated)
        return {**filled, **{k: v for k, v in stated.items() if v is not None and not isinstance(v, Mapping)}}
