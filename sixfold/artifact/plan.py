"""What an export will write, computed from headers alone, before a weight is read.

An `ExportPlan` is the dry run, the disk budget, the unit of resume, and the list that checks hold the result against.
Tensors say WHAT is written (name, dtype, shape, place); units say HOW (what is read together, and what it becomes).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sixfold.checkpoint.tensor_slice import TensorSlice


@dataclass(frozen=True)
class OutputRange:
    """`nbytes` contiguous bytes from byte `start` of the planned tensor `name`."""

    name: str
    start: int
    nbytes: int


PROJECTOR = "mmproj-"
"""How the name begins of a GGUF file that llama.cpp sees with, beside those of the language model."""

LITTLE_QUANTIZED = "less than half of the decoder's weights are quantized"
"""How a note begins that a reader must see first."""


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output.

    dtype: the file format's own name (safetensors "BF16", "F8_E4M3", "U8"; GGUF "Q4_K", "F32").
    shape: as written on disk, slowest dimension first (also for GGUF, whose header lists them reversed).
    offset: absolute position of the first data byte in `file`.
    encoding: how it was made: "copy", "cast", "fp8", "nvfp4", "awq", a GGUF type name...
    inputs: the source tensors it is made of.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int
    encoding: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work: read `inputs` together, encode, write `outputs` (same order as `encode` returns).

    A unit is what must be seen together and nothing more: the gate and up projection of one expert (they share a
    global scale), one expert's rows of a stacked GGUF tensor, a block of rows of an embedding.
    layer: the decoder layer whose decisions `encode` receives; None where none are needed.
    """

    encoding: str
    inputs: tuple[TensorSlice, ...]
    outputs: tuple[OutputRange, ...]
    layer: int | None = None


@dataclass(frozen=True)
class PlannedFile:
    """A weight file: `header` is every byte before the first tensor's data; `nbytes` the whole file. shared: others in
    the folder have the same file, to the byte."""

    name: str
    header: bytes
    nbytes: int
    shared: bool = False


@dataclass(frozen=True)
class ExportPlan:
    """Everything an export writes, except README.md, manifest.json and run.json.

    texts: contents of small files, by name (config.json, model.safetensors.index.json, tokenizer files...).
    notes: one sentence per policy that was applied and a reader should know of ("kept in BF16: ...").
    manifest: name of the manifest in the folder; GGUF files that share one have one each.
    """

    variant: str
    folder: str
    tensors: tuple[PlannedTensor, ...]
    units: tuple[Unit, ...]
    files: tuple[PlannedFile, ...]
    texts: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    manifest: str = "manifest.json"

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files and texts together."""
        return sum(f.nbytes for f in self.files) + sum(len(t) for t in self.texts.values())

    @property
    def own_nbytes(self) -> int:
        """Without what it shares with others in its folder: the license and the projector beside a GGUF."""
        return sum(f.nbytes for f in self.files if not f.shared) if self.shares_its_folder else self.nbytes

    @property
    def shares_its_folder(self) -> bool:
        return self.manifest != "manifest.json"


def bytes_together(plans: Iterable[ExportPlan]) -> int:
    """Of several artifacts, with what some share counted once."""
    own = 0
    shared: dict[tuple[str, str], int] = {}
    for plan in plans:
        own += plan.own_nbytes
        if plan.shares_its_folder:
            shared |= {(plan.folder, name): len(text) for name, text in plan.texts.items()}
            shared |= {(plan.folder, file.name): file.nbytes for file in plan.files if file.shared}
    return own + sum(shared.values())
