"""Damages of rarer kinds, over all formats and a second family, for `python -m benchmarks.soundness.damages`: too
many for the fast suite, which has one of each kind that once was missed."""

from tests.verification.corpus.rare.configs import CONFIGS
from tests.verification.corpus.rare.gguf import GGUF
from tests.verification.corpus.rare.headers import HEADERS
from tests.verification.corpus.rare.tokenizers import TOKENIZERS
from tests.verification.corpus.rare.weights import WEIGHTS

RARE = [*CONFIGS, *HEADERS, *TOKENIZERS, *WEIGHTS, *GGUF]
