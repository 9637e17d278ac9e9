"""Shared by all tests: two workers run side by side, so each keeps to one thread unless a test asks for more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LLAMA_ARG_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
