"""Random tokens beside the calibration's texts: as long as these, a quarter as many, of ordinary tokens alone."""

import torch

from calibration.texts.tokens import ordinary_ids, special_ids
from pruning.healing.text import Text
from sixfold.checkpoint.tokenizer import load_tokenizer
from tests.small_demo import DEMO


def test_a_quarter_as_many_windows_of_ordinary_tokens() -> None:
    ordinary = torch.tensor([3, 5, 900])
    text = Text(torch.zeros(10, 64, dtype=torch.int64), ordinary)
    assert text.random.shape == (3, 64)
    assert set(text.random.flatten().tolist()) == {3, 5, 900}
    assert text.tokens == 13 * 64
    assert torch.equal(text.random, Text(torch.ones(10, 64, dtype=torch.int64), ordinary).random)


def test_ordinary_tokens_are_all_but_special_and_added_ones() -> None:
    tokenizer = load_tokenizer(DEMO)
    found = set(ordinary_ids(tokenizer).tolist())
    assert not found & special_ids(tokenizer)
    assert found | set(tokenizer.added_tokens_decoder) == set(range(len(tokenizer)))
