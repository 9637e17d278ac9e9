"""One artifact as templates see it: its files as facts, and shortcuts to those used most."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cards.facts.model_facts import ArtifactFacts, ModelFacts
from cards.facts.traced import Derived, Fact, Shown, derived, shown
from sixfold.artifact.manifest import is_projector

_TABLES = Path(__file__).parents[1]


def fact_of(content: Any, path: Path, folder: Path) -> Fact:
    """The content of a file, as a fact whose path is relative to the card's folder."""
    return Fact(content, os.path.relpath(path, folder).replace(os.sep, "/"))


@cache
def table(name: str) -> Fact:
    """A YAML file that ships with the cards."""
    return Fact(yaml.safe_load((_TABLES / name).read_text(encoding="utf-8")), f"sixfold:cards/{name}")


@dataclass(frozen=True)
class Variant:
    """artifact: what it is of. folder: of the card, which the facts' paths are relative to."""

    artifact: ArtifactFacts
    manifest: Fact
    verification: Fact
    evaluation: Fact
    speed: Fact
    config: Fact
    statistics: Fact

    @property
    def label(self) -> Shown:
        recipe = self.manifest.recipe
        if self.artifact.file is not None and recipe.budget:
            return shown(derived("mix_label", recipe.scheme, recipe.budget))
        return shown(recipe.suffix if self.artifact.file is None else recipe.scheme)

    @property
    def is_bf16(self) -> bool:
        return self.artifact.exporter == "bf16"

    @property
    def size(self) -> Derived:
        return derived("artifact_bytes", self.manifest["files"])

    @property
    def weights(self) -> Derived:
        return derived("weight_bytes", self.manifest["files"])

    @property
    def parts(self) -> Derived:
        """How many files its weights are in."""
        return derived("weight_files", self.manifest["files"])

    @property
    def first_file(self) -> Shown:
        """The file that an engine is told to open; of a split GGUF its first part."""
        return self._file(self.artifact.weight_files[0])

    @property
    def projector(self) -> Shown | None:
        """The file that llama.cpp sees with; None where there is none."""
        return next((self._file(name) for name in self.artifact.manifest["files"] if is_projector(name)), None)

    def _file(self, name: str) -> Shown:
        return shown(Fact(name, self.manifest.path, f"{self.manifest['files'][name].pointer}#"))

    @property
    def divergence(self) -> Fact:
        return self.verification.divergence

    @property
    def alone(self) -> Fact:
        return self.divergence.scores.weights

    @property
    def as_run(self) -> Fact:
        """Weights and inputs rounded as the engine rounds them; the weights alone where it rounds no inputs."""
        return self.divergence.scores.engine or self.alone

    @property
    def in_16_bit_cache(self) -> Fact:
        """As run, but for a cache that the variant has in FP8; without a value where it has none."""
        return self.divergence.scores["engine-16-bit-cache"]

    @property
    def since_original(self) -> Fact:
        """As run, against the unpruned model; without a value where that was not at hand."""
        return self.divergence.original.scores.engine or self.divergence.original.scores.weights

    @property
    def passed(self) -> bool:
        return self.artifact.verdict is not None and self.artifact.verdict.passed

    @property
    def layout(self) -> str:
        """As cards/formats.yaml names it."""
        if self.artifact.file is not None:
            return "gguf"
        return str((self.artifact.config.get("quantization_config") or {}).get("quant_method", "none"))


def variant_of(artifact: ArtifactFacts, folder: Path) -> Variant:
    statistics = artifact.statistics
    return Variant(
        artifact=artifact,
        manifest=fact_of(artifact.manifest, artifact.manifest_path, folder),
        verification=fact_of(artifact.verification, artifact.verification_path, folder),
        evaluation=fact_of(artifact.evaluation, artifact.evaluation_path, folder),
        speed=fact_of(artifact.speed, artifact.speed_path, folder),
        config=fact_of(artifact.config, artifact.config_path, folder),
        statistics=Fact(None, "")
        if statistics is None
        else fact_of(dict(statistics.manifest), statistics.folder / "manifest.json", folder),
    )


def variants_of(model: ModelFacts, folder: Path) -> tuple[Variant, ...]:
    """All of a model's artifacts, smallest first."""
    ordered = sorted(model.artifacts, key=lambda artifact: artifact.nbytes)
    return tuple(variant_of(artifact, folder) for artifact in ordered)
