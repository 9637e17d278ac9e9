"""Which files beside the weights are carried into artifacts: those needed to load the model, and its license."""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from sixfold.errors import SixfoldError

CARRIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "tiktoken.model",
    "tekken.json",
    "spiece.model",
    "chat_template*",
    "*.jinja",
    "generation_config.json",
    "*preprocessor_config.json",
    "processor_config.json",
    "*.py",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)
"""Shell patterns of names at the top of the folder; "*.py" is what auto_map names. README.md is not carried: a card is
written instead."""

_NEVER = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.incomplete", "*.lock")


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raises SixfoldError for a carried file that is a symbolic link out of the folder: what it leads to would be
    published. The Hub's cache links a snapshot to the blobs beside it."""
    inside = [folder.resolve()]
    if folder.parent.name == "snapshots":
        inside.append(folder.parent.parent.resolve() / "blobs")
    for name in names:
        target = (folder / name).resolve()
        if not any(target.is_relative_to(place) for place in inside):
            raise SixfoldError(
                f"{folder / name} is a link to {target}, out of the folder, which would land in artifacts",
                "copy the file there if it belongs to the model, or remove the link",
            )


def carried_files(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the relative names in a folder that are carried, sorted."""
    return tuple(
        sorted(
            name
            for name in names
            if "/" not in name
            and any(fnmatch(name, pattern) for pattern in CARRIED)
            and not any(fnmatch(name, pattern) for pattern in _NEVER)
        )
    )
