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

_SHORT = 64
"""Tokens in the shortest window that is recommended."""


@dataclass(frozen=True)
class TokenBatches:
    """ids: int64 [samples, length], no padding. record: what they are made of, for manifest and card."""

    ids: torch.Tensor
    record: dict[str, Any]


def special_ids(tokenizer: Any) -> set[int]:
    """Tokens that represent no text: BOS, EOS, turn markers."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def ordinary_ids(tokenizer: Any) -> torch.Tensor:
    """int64: all tokens that stand for text, whatever text."""
    special = special_ids(tokenizer) | set(tokenizer.added_tokens_decoder)
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))


def token_batches(profile: Calibration, tokenizer: Any) -> TokenBatches:
    """`profile.samples` windows of `profile.length` tokens, drawn with `profile.seed`, domain by domain by weight.

    Conversations go through the chat template; calibration.texts.draw says how rows become windows. A domain that
    runs out leaves its turns to the others, which the record says. Raises SixfoldError where all of them run out, or
    one fills no window at all.
    """
    texts = text_files(profile.texts)
    bos = _bos(tokenizer)
    tally = Tally()
    names = dict.fromkeys(text.domain for text in texts)
    domains = [Domain(name, texts, profile, tokenizer, bos, tally) for name in names]
    ids = torch.empty((profile.samples, profile.length), dtype=torch.int64)
    tokens: Counter[int] = Counter()
    rows: set[Owner] = set()
    overlap = Overlap()
    for number, window in enumerate(draw(domains, profile.samples)):
        ids[number] = torch.tensor(window.ids)
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
    )


def _check_enough(profile: Calibration, domains: list[Domain], texts: tuple[Texts, ...], tally: Tally) -> None:
    reasons = [
        f"{len(why)} rows of {texts[index].name} could not be used: {why[0]}" for index, why in tally.unusable.items()
    ]
    # A text that is named and never read would leave a calibration on other texts than its user means.
    empty = [domain.name for domain in domains if domain.exhausted and not domain.drawn]
    if empty and len(empty) < len(domains):
        raise SixfoldError(
            f"the calibration text {empty[0]} fills no window of {profile.length} tokens"
            f"{''.join(f' ({reason})' for reason in reasons)}",
            _longer("a longer text", profile.length),
        )
    found = sum(domain.drawn for domain in domains)
    texts_named = ", ".join(text.name for text in profile.texts)
    if not found:
        raise SixfoldError(
            f"the calibration texts ({texts_named}) fill no window of {profile.length} tokens"
            f"{''.join(f' ({reason})' for reason in reasons)}",
            _longer("longer texts", profile.length),
        )
    if found == profile.samples:
        return
    raise SixfoldError(
        f"the calibration texts ({texts_named}) hold {found} of the {profile.samples} samples of {profile.length}"
        f" tokens that are asked for{''.join(f' ({reason})' for reason in reasons)}",
        f"name more texts, or ask for fewer, such as --set calibration.samples={found}",
    )


def _longer(texts: str, length: int) -> str:
    """The remedy where not even one window was filled. Very short windows are no way out: they say little."""
    if length <= _SHORT:
        return f"name {texts}"
    return f"name {texts}, or ask for shorter windows, such as --set calibration.length={max(_SHORT, length // 4)}"


def _bos(tokenizer: Any) -> int | None:
    """The id that the tokenizer itself puts before every text, None where it puts none."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else None
