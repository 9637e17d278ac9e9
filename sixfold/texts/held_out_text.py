"""Text that no calibration reads, cut into windows of tokens: what pruning and quantizing cost is measured on.

From every file the first CHARACTERS are taken (conversations through the model's chat template), of these at most
TOKENS, in windows of WINDOW tokens that do not overlap, without a BOS token of their own. A last window of one token,
which predicts nothing, is left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sixfold.artifact.workspace import digest_of
from sixfold.errors import SixfoldError
from sixfold.texts.chat_template import Chat, render

TEXTS = Path(__file__).parents[2] / "calibration" / "texts" / "heldout"
CHARACTERS = 12_000
TOKENS = 1024
WINDOW = 512


@dataclass(frozen=True)
class Windows:
    """ids: int64 [length] each, longest first. domains: of each. digest: of both."""

    ids: tuple[torch.Tensor, ...]
    domains: tuple[str, ...]
    digest: str

    @property
    def tokens(self) -> int:
        return sum(len(window) for window in self.ids)

    @property
    def by_domain(self) -> Mapping[str, tuple[torch.Tensor, ...]]:
        """Domains in alphabetical order."""
        return {
            domain: tuple(w for w, of in zip(self.ids, self.domains, strict=True) if of == domain)
            for domain in sorted(set(self.domains))
        }


def held_out(tokenizer: Any, folder: Path = TEXTS, tokens: int = TOKENS) -> Windows:
    """Every .txt and .jsonl file of `folder`; its subfolders are the domains. tokens: at most of each file, with
    CHARACTERS in proportion. Raises SixfoldError where that is nothing."""
    cut: list[tuple[torch.Tensor, str]] = []
    for path in _files(folder):
        text = _text(tokenizer, path)[: CHARACTERS * tokens // TOKENS]
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:tokens])
        domain = path.relative_to(folder).parts[0]
        cut += [(window, domain) for window in ids.long().split(WINDOW) if len(window) > 1]
    if not cut:
        raise SixfoldError(
            f"the tokenizer makes no tokens of the held-out texts in {folder}",
            "check that tokenizer.json holds the model's vocabulary, and that there are texts",
        )
    cut.sort(key=lambda item: -len(item[0]))
    digest = digest_of([(domain, window.tolist()) for window, domain in cut])
    return Windows(tuple(w for w, _ in cut), tuple(domain for _, domain in cut), digest)


def most_tokens(folder: Path = TEXTS) -> int:
    """Of `held_out` with any tokenizer, at most."""
    return TOKENS * len(_files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl"))


def _text(tokenizer: Any, path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        return text
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in text.splitlines() if line.strip()]
    return "".join(render(tokenizer, Chat(row["messages"], row.get("tools") or []))[0] for row in rows)
