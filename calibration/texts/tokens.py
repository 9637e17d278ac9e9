"""Texts -> the token ids that a calibration runs, and the record of what they are made of."""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from calibration.texts.corpus import Texts, text_files
from calibration.texts.draw import Domain, Owner, Tally, draw
from calibration.texts.evaluation_sets import Overlap
from sixfold.errors import SixfoldError
from sixfold.recipes.recipe import Calibration

KINDS, _FEW = 8, 4
"""Kinds of text that are told apart at most, and the fewest that are enough."""


@dataclass(frozen=True)
class TokenBatches:
    """ids: int64 [samples, length], no padding. record: what they are made of, for manifest and card. texts: int64
    [samples], the text (as `text_files` counts them) that each sample begins with. domains: int64 [samples]."""

    ids: torch.Tensor
    record: dict[str, Any]
    texts: torch.Tensor
    domains: torch.Tensor

    @property
    def kinds(self) -> torch.Tensor:
        """int64 [samples], from 0: by domain where there are a few, else by text, else parts of what there is. No more
        than KINDS."""
        for labels in (self.domains, self.texts):
            found, numbers = labels.unique(return_inverse=True)
            if len(found) >= _FEW:
                return numbers % KINDS
        return torch.arange(len(self.ids)) * _FEW // len(self.ids)


def special_ids(tokenizer: Any) -> set[int]:
    """Tokens that represent no text: BOS, EOS, turn markers."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def token_batches(profile: Calibration, tokenizer: Any) -> TokenBatches:
    """`profile.samples` windows of `profile.length` tokens, drawn with `profile.seed`, domain by domain by weight.

    Conversations go through the chat template; calibration.texts.draw says how rows become windows. A domain that
    runs out leaves its turns to the others, which the record says. Raises SixfoldError where all of them run out.
    """
    texts = text_files(profile.texts)
    bos = _bos(tokenizer)
    tally = Tally()
    names = dict.fromkeys(text.domain for text in texts)
    domains = [Domain(name, texts, profile, tokenizer, bos, tally) for name in names]
    ids = torch.empty((profile.samples, profile.length), dtype=torch.int64)
    begin = torch.zeros(profile.samples, dtype=torch.int64)
    tokens: Counter[int] = Counter()
    rows: set[Owner] = set()
    overlap = Overlap()
    for number, window in enumerate(draw(domains, profile.samples)):
        ids[number] = torch.tensor(window.ids)
        begin[number] = window.owners[0][0]
        rows.update(window.owners)
        for (index, _), part in window.parts():
            tokens[index] += len(part)
            overlap.add(texts[index].name, tokenizer.decode(part))
    _check_enough(profile, domains, texts, tally)
    used = Counter(index for index, _ in rows)
    return TokenBatches(
        ids,
        {
            "samples": profile.samples,
            "length": profile.length,
            "ids_sha256": sha256(ids.numpy().data).hexdigest(),
            "bos": bos,
            "domains": {d.name: {"samples": d.drawn, "exhausted": d.exhausted} for d in domains},
            "conversations": dict(sorted(tally.rendered.items())),
            "files": {
                text.name: {
                    **text.record(),
                    "tokens": tokens[index],
                    "rows": used[index],
                    "unusable_rows": len(tally.unusable.get(index, ())),
                    "overlap": overlap.of(text.name),
                }
                for index, text in enumerate(texts)
            },
        },
        begin,
        torch.tensor([list(names).index(text.domain) for text in texts])[begin],
    )


def _check_enough(profile: Calibration, domains: list[Domain], texts: tuple[Texts, ...], tally: Tally) -> None:
    found = sum(domain.drawn for domain in domains)
    if found == profile.samples:
        return
    reasons = [
        f"{len(why)} rows of {texts[index].name} could not be used: {why[0]}" for index, why in tally.unusable.items()
    ]
    raise SixfoldError(
        f"the calibration texts ({', '.join(text.name for text in profile.texts)}) hold {found} samples"
        f" of {profile.length} tokens, {profile.samples} are asked for{''.join(f' ({reason})' for reason in reasons)}",
        "name more texts, or ask for fewer samples",
    )


def _bos(tokenizer: Any) -> int | None:
    """The id that the tokenizer itself puts before every text, None where it puts none."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else None
