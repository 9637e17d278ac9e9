"""What every check of a GGUF file looks at."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sixfold.model.meta_model import completed, usual_names
from sixfold.model.source import Source
from verification.reading.gguf.by_library import is_library_name, known_by_library, library_places
from verification.reading.gguf.multipliers import multipliers_of
from verification.reading.gguf.place import ARCHITECTURES, Place, place_of
from verification.reading.gguf.tables import (
    AROUND_DRAFTS,
    AXIAL_GLM_4,
    BAMBA,
    FALCON_TWO_NORMS,
    GRANITE_4,
    LAST_OF_DRAFTS,
    SECOND_OF_DRAFTS,
)
from verification.reading.gguf.weights import GgufWeights
from verification.reading.gguf_file import Gguf
from verification.structure.gguf.expected import listed_type

_AS_TOWERS = ("blocks", "encoder.layers")
"""What layers of a decoder are called that is saved with a tower beside it whose layers are called so."""

_DENSE = re.compile(r"(.*layers\.(\d+)\.block_sparse_moe\.)gate_proj\.weight")
_LIGHTNING = re.compile(r"(.*layers\.(\d+)\.self_attn\.)out_proj\.weight")
_IN_LAYER = re.compile(r"\.(layers|blocks)\.\d+\.")


@dataclass(frozen=True)
class GgufSubject:
    """source: None without --against."""

    file: Gguf
    source: Source | None

    @cached_property
    def weights(self) -> GgufWeights:
        return GgufWeights(
            self.file.cut(self._rows).parted(self._parts),
            {} if known_by_library(self.file.arch) else self._decoder,
            self.place_of,
            multipliers_of(self.file.arch, self.config),
        )

    @property
    def names_known(self) -> bool:
        return self.file.arch in ARCHITECTURES or known_by_library(self.file.arch)

    def place_of(self, name: str) -> Place | None:
        """Where a tensor of the file lies on disk; None where its architecture has no tensor of this name. Where the
        libraries tell, and there is no source, its own name stands for that on disk."""
        if known_by_library(self.file.arch):
            alone = Place(name) if is_library_name(self.file.arch, name) else None
            return alone if self.source is None else self._library_places.get(name)
        return place_of(self._table or self.file.arch, name)

    @cached_property
    def _library_places(self) -> Mapping[str, Place]:
        assert self.source is not None
        architecture, towers = self.source.architecture, set(self.source.architecture.towers)
        return library_places(
            self.file.arch,
            self.config["model_type"],
            architecture.layers,
            {self._in_a_text_model(name): name for name in self.source.checkpoint.tensors if name not in towers},
            {norm.weight for norm in architecture.norms if norm.one_plus},
        )

    def _in_a_text_model(self, name: str) -> str:
        for begins, instead in self._decoder.items():
            if name.startswith(instead):
                return begins + name.removeprefix(instead)
        return name

    @property
    def _rows(self) -> Mapping[str, int]:
        """Of tensors that llama.cpp asks for more rows of than the source has."""
        rows = self.config.get("vocab_size_per_layer_input") if self.file.arch == "gemma3n" else None
        return {"per_layer_token_embd.weight": rows} if rows else {}

    @property
    def _parts(self) -> Mapping[str, int]:
        """Of tensors that the source has in parts."""
        parts = self.config.get("split_ngram_parts") if self.config.get("ple_layer_ids") else None
        return {"per_layer_token_embd.weight": parts} if parts and self.file.arch == "qwen4exp" else {}

    @property
    def _table(self) -> str:
        """Of names on disk, where it is not that of the file's architecture; "" where it is."""
        kind = self.config.get("model_type")
        if kind == "granitemoehybrid" and self.file.arch != "granitehybrid":
            return GRANITE_4
        if kind == "bamba":
            return BAMBA
        if self.file.arch == "falcon" and "blk.0.attn_norm_2.weight" in self.file.tensors:
            return FALCON_TWO_NORMS
        return AXIAL_GLM_4 if self.file.arch == "glm4" and self.file.key("rope.dimension_sections") is not None else ""

    @property
    def _decoder(self) -> Mapping[str, str]:
        """What stands before the names of the language model's tensors in the source, by what does in a text model: the
        longest first."""
        if self.source is None:
            return {}
        names = [name for name in self.source.checkpoint.tensors if not _IN_LAYER.search(name)]
        if any(name.startswith("wte.") for name in names):  # GPT-2 as published
            return {"transformer.": ""}
        inside = next(
            (n.removesuffix("embed_tokens.weight") for n in names if n.endswith("embed_tokens.weight")), "model."
        )
        head = next((n.removesuffix("weight") for n in names if n.endswith("lm_head.weight")), "lm_head.")
        saved = (f"{inside}{called}." for called in _AS_TOWERS)  # by transformers, whatever publishers call them
        layers = next((n for n in saved if any(name.startswith(n) for name in self.source.checkpoint.tensors)), None)
        return {
            **self._drafts,
            **self._turned_around,
            **self._dense,
            **self._lightning,
            **self._two_stacks,
            **self._ngrams,
            **self._published,
            **({} if self._published else {"model.layers.": layers or f"{inside}layers."}),
            "model.": inside,
            "lm_head.": head,
        }

    @property
    def _dense(self) -> Mapping[str, str]:
        """The same of the feed-forward of layers without experts, which transformers may save under experts' module."""
        assert self.source is not None
        found = map(_DENSE.fullmatch, self.source.checkpoint.tensors)
        return {f"model.layers.{name[2]}.mlp.": name[1] for name in found if name}

    @property
    def _lightning(self) -> Mapping[str, str]:
        """The same of what the output of lightning attention is projected by, which attention calls otherwise."""
        assert self.source is not None
        found = map(_LIGHTNING.fullmatch, self.source.checkpoint.tensors if self.file.arch == "minimax-01" else ())
        return {f"model.layers.{name[2]}.self_attn.o_proj.": f"{name[1]}out_proj." for name in found if name}

    @property
    def _two_stacks(self) -> Mapping[str, str]:
        """The same of HRM-Text's low-level layers, and of the high-level ones behind them."""
        each = self.config["num_layers_per_stack"] if self.file.arch == "hrm_text" else 0
        stacks = enumerate(("L", "H"))
        return {
            f"model.layers.{at * each + n}.": f"model.{stack}_module.layers.{n}."
            for at, stack in stacks
            for n in range(each)
        }

    @property
    def _ngrams(self) -> Mapping[str, str]:
        """The same of Qwen4-Exp's table of n-grams, which lies in the layer that reads it."""
        assert self.source is not None
        called = "ngram_embedding."
        within = (name.partition(called)[0] for name in self.source.checkpoint.tensors if f".{called}" in name)
        return {f"model.{called}": f"{one}{called}" for one in within}

    @property
    def _turned_around(self) -> Mapping[str, str]:
        """The same of HY-V4 where transformers has saved it, which turns its publisher's names around."""
        assert self.source is not None
        if not any(name.startswith("model.hc_pre.") for name in self.source.checkpoint.tensors):
            return {}
        layers = [f"model.layers.{n}." for n in range(self.source.architecture.layers)]
        gates = {
            f"{at}mlp.{of}gate_proj.": f"{at}mlp.{of}linear_gate." for at in layers for of in ("", "shared_experts.")
        }
        around = (f"hc_{block}_layer" for block in ("attn", "mlp"))
        mixed = {f"{at}{name}.hc_pre.": f"{at}hc_pre.{name}." for name in around for at in layers}
        return {**gates, **mixed, "model.hc_head.": "model.hc_pre.hc_head."}

    @property
    def _published(self) -> Mapping[str, str]:
        """The same of DeepSeek-V4 under its publisher's names."""
        assert self.source is not None
        if "embed.weight" not in self.source.checkpoint.tensors:
            return {}
        layers = range(self.source.architecture.layers)
        norms = {f"model.layers.{n}.attn.norm.": f"layers.{n}.attn.kv_norm." for n in layers}
        outside = {"model.embed_tokens.": "embed.", "model.norm.": "norm.", "model.hc_head.hc_": "hc_head_"}
        return {**norms, **outside, "model.layers.": "layers."}

    @property
    def _drafts(self) -> Mapping[str, str]:
        """The same of layers of multi-token prediction, which a source may keep in a module of their own."""
        assert self.source is not None
        layers = self.source.architecture.layers
        if self.file.arch == "nemotron_h_moe":
            return self._drafts_of_two
        mine = f"model.layers.{layers}."
        held = tuple(name for name in self.source.checkpoint.tensors if name.startswith(mine))
        for called in LAST_OF_DRAFTS:
            if any(name.startswith(tuple(mine + own for own in called.values())) for name in held):
                blocks = [f"model.layers.{layers + n}." for n in range(self.draft_layers)]
                return {block + part: block + own for block in blocks for part, own in called.items()}
        if not any(name.startswith("mtp.") for name in self.source.checkpoint.tensors):
            return {}
        around = {f"{mine}{begins}": instead for begins, instead in AROUND_DRAFTS.items()}
        count = self.draft_layers
        return around | {f"model.layers.{layers + n}.": f"mtp.layers.{n}." for n in range(count)}

    @property
    def _drafts_of_two(self) -> Mapping[str, str]:
        """The same where attention and experts of one are two layers on disk."""
        assert self.source is not None
        found: dict[str, str] = {}
        for draft in range(self.draft_layers):
            block = f"backbone.layers.{self.source.architecture.layers + draft}."
            first, second = (f"mtp.layers.{2 * draft + n}." for n in (0, 1))
            found |= {block + part: second + own for part, own in SECOND_OF_DRAFTS.items()} | {block: first}
        return found

    @property
    def draft_layers(self) -> int:
        """Blocks of the file with what joins embeddings and hidden states for multi-token prediction."""
        return sum(name.endswith(".nextn.eh_proj.weight") for name in self.file.tensors)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The source's config.json with transformers' defaults for what it leaves out; {} without a source."""
        if self.source is None:
            return {}
        stated = self.source.checkpoint.config
        filled = completed(stated)
        text = filled.get("text_config") or {}
        own = {k: v for k, v in stated.items() if v is not None and not isinstance(v, Mapping)}
        kind = listed_type(stated) or filled.get("model_type")
        return {
            **usual_names({**filled, "model_type": kind}),
            **filled,
            **own,
            **text,
            "model_type": kind,
            "tie_word_embeddings": filled.get("tie_word_embeddings"),
        }
