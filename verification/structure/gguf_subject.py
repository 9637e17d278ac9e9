"""What every check of a GGUF file looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sixfold.model.module_map import transformers_config
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
        dropped = ("quantization_config", "auto_map")
        known = {k: v for k, v in self.source.checkpoint.config.items() if k not in dropped}
        completed = transformers_config(known).to_dict()
        return {**completed, **{k: v for k, v in known.items() if v is not None or k not in completed}}
