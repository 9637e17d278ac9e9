"""An endpoint over transformers' generate: as much of OpenAI's chat and completions as evaluation asks for.

Usage: python -m evaluation.engines.transformers_server FOLDER PORT

One request at a time. At temperature 0 the most likely token is taken; above it, seed and question alone decide.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError


class Model:
    """A folder's model and tokenizer, and what they make of a request."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.tokenizer = load_tokenizer(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = _loaded(folder).eval().to(device)
        self.lock = threading.Lock()

    def prompt(self, body: dict[str, Any]) -> list[int]:
        """Token ids. Raises ValueError where a chat is asked for and there is no template."""
        if "messages" not in body:
            return list(self.tokenizer(body["prompt"])["input_ids"])
        if not self.tokenizer.chat_template:
            raise ValueError("this model has no chat template")
        text = self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def go_on(self, ids: list[int], body: dict[str, Any]) -> tuple[str, str, int]:
        """(text, finish_reason, tokens)"""
        temperature, stop = float(body.get("temperature", 0)), list(body.get("stop") or ())
        sampled = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        room = self._context() - len(ids)
        if room < 1:
            raise ValueError(f"the prompt of {len(ids)} tokens fills the context of {self._context()}")
        with self.lock, torch.inference_mode():
            torch.manual_seed(int(body.get("seed") or 0))
            out = self.model.generate(
                torch.tensor([ids], device=self.model.device),
                attention_mask=torch.ones((1, len(ids)), dtype=torch.long, device=self.model.device),
                max_new_tokens=min(int(body["max_tokens"]), room),
                do_sample=temperature > 0,
                stop_strings=stop or None,
                tokenizer=self.tokenizer,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                **sampled,
            )
        made = out[0, len(ids) :].tolist()
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        cut = min((found for s in stop if (found := text.find(s)) >= 0), default=-1)
        ended = cut >= 0 or (bool(made) and made[-1] in self._ends())
        return (text[:cut] if cut >= 0 else text), "stop" if ended else "length", len(made)

    def _ends(self) -> set[int]:
        ids = self.model.generation_config.eos_token_id
        return set(ids if isinstance(ids, list) else [ids]) | {self.tokenizer.eos_token_id}

    def _context(self) -> int:
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self.prompt(body)
        text, finish, tokens = self.go_on(ids, body)
        said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        return {
            "model": self.name,
            "choices": [{"index": 0, "finish_reason": finish, **said}],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": tokens, "total_tokens": len(ids) + tokens},
        }


def _loaded(folder: Path) -> Any:
    """Raises ValueError where weights would be made up or left out: transformers only warns of it, and answers."""
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    wrong = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
    if getattr(model.config, "quantization_config", None):
        wrong += report["unexpected_keys"]  # scales of experts that it does not know how to apply
    if wrong:
        raise ValueError(f"it does not read {len(wrong)} of its tensors, such as {sorted(wrong)[0]}")
    return model


class _Handler(BaseHTTPRequestHandler):
    model: Model

    def do_GET(self) -> None:
        known = self.path in ("/health", "/v1/models")
        self._send(200 if known else 404, {"data": [{"id": self.model.name}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self._send(200, self.model.answer(body))
        except ValueError as error:
            self._send(400, {"error": {"message": str(error)}})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of each request."""


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    try:
        model = Model(folder)
    except (SixfoldError, ValueError, OSError, ImportError) as error:
        sys.exit(f"error: transformers cannot load {folder.name}: {' '.join(str(error).split())[:300]}")
    handler = type("Handler", (_Handler,), {"model": model})
    ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


if __name__ == "__main__":
    main()
