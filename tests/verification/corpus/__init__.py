"""The corpus of damaged folders: what was done, to which variant, and the tensor, file or key that must be named."""

from tests.verification.corpus.awq import AWQ
from tests.verification.corpus.bf16 import BF16
from tests.verification.corpus.files import FILES
from tests.verification.corpus.fp8 import FP8
from tests.verification.corpus.modelopt import MODELOPT
from tests.verification.corpus.nvfp4 import NVFP4

CORPUS = [*FILES, *FP8, *NVFP4, *AWQ, *MODELOPT, *BF16]
