"""Tokens and log-probabilities of a model folder by vLLM, in this process and no other.

Usage, in vLLM's environment: vllm_score.py FOLDER IDS OUT

IDS: an .npy of int64 [samples, length]. OUT: an .npz of `logprobs` float32 [samples, length - 1, vocabulary], of the
token after each but the last, and `tokens` int64 [samples, GENERATED], the most likely continuation.
"""

import os
import sys

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1"}

import numpy as np
from vllm import LLM, SamplingParams

GENERATED = 16


def main(folder: str, ids: str, out: str) -> None:
    given = np.load(ids)
    llm = LLM(folder, dtype="bfloat16", enforce_eager=True, max_model_len=512, max_logprobs=-1, seed=0)
    vocabulary = llm.model_config.get_vocab_size()
    wanted = SamplingParams(temperature=0, max_tokens=GENERATED, ignore_eos=True, prompt_logprobs=vocabulary)
    done = llm.generate([{"prompt_token_ids": row.tolist()} for row in given], wanted, use_tqdm=False)
    logprobs = np.zeros((len(given), given.shape[1] - 1, vocabulary), np.float32)
    for sample, result in enumerate(done):
        for place, choices in enumerate(result.prompt_logprobs[1:]):
            for token, choice in choices.items():
                logprobs[sample, place, token] = choice.logprob
    np.savez(out, logprobs=logprobs, tokens=np.array([result.outputs[0].token_ids for result in done]))


if __name__ == "__main__":
    main(*sys.argv[1:])
