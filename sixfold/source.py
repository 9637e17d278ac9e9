"""A checkpoint together with what is known of its architecture: what every exporter receives."""

from dataclasses import dataclass

from sixfold.architecture import Architecture
from sixfold.checkpoint import Checkpoint


@dataclass(frozen=True)
class Source:
    checkpoint: Checkpoint
    architecture: Architecture
