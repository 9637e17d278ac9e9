"""What every check of a GGUF file looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sixfold.model.meta_model import completed
from sixfold.model.source import Source
from verification.reading.gguf_blocks import GgufWeights
from verification.reading.gguf_file import Gguf
from verification.structure.gguf.expected import listed_type


@dataclass(frozen=True)
class GgufSubject:
    """source: None without --against."""

    file: Gguf
    source: Source | None

    @cached_property
    def weights(self) -> GgufWeights:
        return GgufWeights(self.file, self._decoder)

    @property
    def _decoder(self) -> Mapping[str, str]:
        """What stands before the names of the language model's tensors in the source, by what does in a text model."""
        names = self.source.checkpoint.tensors if self.source is not None else ()
        inside = next(
            (n.removesuffix("embed_tokens.weight") for n in names if n.endswith("embed_tokens.weight")), "model."
        )
        head = next((n.removesuffix("weight") for n in names if n.endswith("lm_head.weight")), "lm_head.")
        return {"model.": inside, "lm_head.": head}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The source's config.json with transformers' defaults for what it leaves out; {} without a source."""
        if self.source is None:
            return {}
        stated = self.source.checkpoint.config
        filled = completed(stated)
        text = filled.get("text_config") or {}
        own = {k: v for k, v in stated.items() if v is not None and not isinstance(v, Mapping)}
        return {
            **filled,
            **own,
            **text,
            "model_type": listed_type(stated) or filled.get("model_type"),
            "tie_word_embeddings": filled.get("tie_word_embeddings"),
        }
