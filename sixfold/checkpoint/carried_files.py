"""Which files beside the weights are carried into artifacts: those needed to load the model, and its license."""

from collections.abc import Iterable
from fnmatch import fnmatch

CARRIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
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
