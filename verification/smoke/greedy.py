"""Text continued by a model, the most likely token at a time, with guesses that save runs of it."""

from collections.abc import Callable, Sequence

import torch

Logits = Callable[[torch.Tensor], torch.Tensor]
"""int64 [samples, length] on the CPU -> float32 [samples, length, vocabulary], wherever the model is."""


def continued(
    run: Logits, prompts: Sequence[Sequence[int]], end: int | None, guesses: Sequence[Sequence[int]], tokens: int
) -> list[tuple[list[int], bool]]:
    """The most likely `tokens` behind each prompt, up to `end`, and whether all logits were finite.

    guesses: what they may be. All are tried at once; what stands behind the first wrong one is guessed again from what
    the model said. So each turn finds one token at least, and the last one finds nothing to change.
    """
    starts = [len(prompt) for prompt in prompts]
    ids = torch.zeros((len(prompts), max(starts) + tokens), dtype=torch.int64)
    for row, (prompt, guess) in enumerate(zip(prompts, guesses, strict=True)):
        text = [*prompt, *guess[:tokens]]
        ids[row, : len(text)] = torch.tensor(text)
    found: list[tuple[list[int], bool]] = [([], True) for _ in prompts]
    going = list(range(len(prompts)))
    for _ in range(tokens + 1):
        if not going:
            break
        length = max(starts[row] for row in going) + tokens - 1
        logits = run(ids[going, :length])
        best, finite = logits.argmax(-1).cpu(), logits.isfinite().all(-1).cpu()
        changed = []
        for row, every, fine in zip(going, best, finite, strict=True):
            said = slice(starts[row] - 1, starts[row] - 1 + tokens)
            answer = ids[row, starts[row] : starts[row] + tokens]
            before = _up_to(end, answer.tolist())
            answer.copy_(every[said])
            made = _up_to(end, answer.tolist())
            found[row] = made, bool(fine[said][: len(made) + 1].all())
            if made != before:
                changed.append(row)
        going = changed
    return found


def _up_to(end: int | None, ids: list[int]) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
