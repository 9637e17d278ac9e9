"""A tokenizer whose ids can be read."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def words_tokenizer(bos: bool) -> Any:
    """One token per known word, and BOS in front where wanted."""
    words = {word: number for number, word in enumerate(["<unk>", "<s>", *(f"w{i}" for i in range(200))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
