"""Logits of a model folder by transformers itself, in a process of its own.

Usage: transformers_logits.py FOLDER IDS OUT DTYPE

IDS: an .npy of int64 [samples, length]. OUT: an .npy of float32 [samples, length, vocabulary]. The folder is loaded as
any user loads it, in DTYPE; what transformers reports of names that it misses or does not know ends the run.
"""

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main(folder: str, ids: str, out: str, dtype: str) -> None:
    torch.set_num_threads(1)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), device_map="cpu", output_loading_info=True
    )
    wrong = {key: sorted(map(str, names))[:5] for key, names in report.items() if names}
    if wrong:
        sys.exit(f"transformers does not load {folder} as it is: {wrong}")
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(np.load(ids)), use_cache=False).logits
    np.save(out, logits.float().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
