"""Which engine serves an artifact here."""

from pathlib import Path

from evaluation.engines import transformers_engine, vllm
from evaluation.engines.engine import Demand, Engine
from evaluation.engines.llama_server import llama_server


def engine_for(artifact: Path, demand: Demand) -> Engine:
    """llama-server for a GGUF file; for a folder vLLM where it is installed, else transformers. Raises SixfoldError
    where the one that it needs is missing."""
    if artifact.is_file():
        return llama_server(artifact, demand)
    executable = vllm.program()
    if executable is not None:
        return vllm.vllm(executable, artifact, demand)
    return transformers_engine.transformers_engine(artifact, demand)
