"""What vLLM's own model class and weight loader take from a folder, for schemes that no CPU kernel computes.

Usage, in vLLM's environment: vllm_load.py OUT FOLDER...

Of each folder the model is made, and loads one tensor at a time into parameters that hold all zeros, and again into
parameters that hold all ones: what is equal afterwards, the tensor has written. OUT is JSON, folder -> what was found:
    error       why the model could not be made, and nothing else
    tensors     name -> [elements in the folder, elements written]
    refused     name -> what the loader raised
    parameters  name -> [elements, elements written by any tensor, elements written by more than one]; buffers, too,
                where any tensor wrote to them
    swapped     names whose elements are not those that arrived, in any order

Only the choice of kernels is replaced, which raises where no accelerator is: nothing is computed here.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


def without_kernels() -> None:
    """The patches: each stands for a choice that raises in a constructor on a CPU."""
    from vllm.model_executor.kernels.linear.nvfp4.base import NvFp4LinearLayerConfig
    from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
    from vllm.model_executor.layers.fused_moe.oracle.nvfp4 import NvFp4MoeBackend
    from vllm.model_executor.layers.quantization import auto_awq, modelopt
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_w4a4_nvfp4 as experts,
    )
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_w8a8_fp8 as fp8_experts,
    )
    from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
        compressed_tensors_w4a4_nvfp4 as linear,
    )
    from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
        compressed_tensors_w8a8_fp8 as fp8_linear,
    )

    for nvfp4 in (experts, modelopt):
        nvfp4.select_nvfp4_moe_backend = lambda **given: (NvFp4MoeBackend.EMULATION, None)
    for nvfp4 in (linear, modelopt):
        nvfp4.init_nvfp4_linear_kernel = lambda **given: EmulationNvFp4LinearKernel(NvFp4LinearLayerConfig())
    for fp8 in (fp8_experts, modelopt):
        fp8.select_fp8_moe_backend = lambda **given: (Fp8MoeBackend.TRITON, None)
    for fp8 in (fp8_linear, modelopt):
        fp8.init_fp8_linear_kernel = lambda **given: SimpleNamespace(input_quant_key=lambda: None)
    auto_awq.check_moe_marlin_supports_layer = lambda *given, **more: True
    auto_awq.select_wna16_moe_backend = lambda *given, **more: (auto_awq.WNA16MoEBackend.MARLIN, None)


def made(folder: str, meeting: str) -> tuple[Any, Any, Iterator[tuple[str, torch.Tensor]]]:
    """The configuration, the model with parameters as torch.empty leaves them, and the folder's tensors as vLLM reads
    them. meeting: a folder in which this process finds itself."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    arguments = EngineArgs(model=folder, dtype="bfloat16", enforce_eager=True, max_model_len=128)
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{meeting}/place", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        with set_default_torch_dtype(config.model_config.dtype):
            model = initialize_model(vllm_config=config)
        loader = get_model_loader(config.load_config)
        return config, model, loader.get_all_weights(config.model_config, model)


def held(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers, but for empty ones, by name."""
    both = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    return {key: tensor.data for key, tensor in both.items() if tensor.numel()}


def written_by(model: Any, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Parameter -> bool of its elements."""
    seen: list[dict[str, torch.Tensor]] = []
    for byte in (0, 255):
        for values in held(model).values():
            values.view(-1).view(torch.uint8).fill_(byte)
        model.load_weights([(name, tensor)])
        now = {key: bits(values) for key, values in held(model).items()}
        seen.append(
            {key: values.clone() for key, values in now.items() if values.min() != byte or values.max() != byte}
        )
    either = seen[0].keys() | seen[1].keys()
    last = held(model)
    zeros = {key: seen[0].get(key, torch.zeros(1, dtype=torch.uint8)) for key in either}
    same = {key: (zeros[key] == bits(last[key])).all(-1) for key in either}
    return {key: values for key, values in sorted(same.items()) if values.any()}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """uint8 [elements, bytes of one]."""
    return tensor.reshape(-1).view(torch.uint8).view(tensor.numel(), -1)


def loaded(folder: str, meeting: str) -> dict[str, Any]:
    from vllm.config import set_current_vllm_config

    try:
        config, model, weights = made(folder, meeting)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    with set_current_vllm_config(config):
        return taken(model, weights)


def taken(model: Any, weights: Iterator[tuple[str, torch.Tensor]]) -> dict[str, Any]:
    trained = {key for key, _ in model.named_parameters()}
    counts = {key: torch.zeros(values.numel(), dtype=torch.int32) for key, values in held(model).items()}
    tensors: dict[str, list[int]] = {}
    refused: dict[str, str] = {}
    swapped: list[str] = []
    for name, tensor in weights:
        try:
            written = written_by(model, name, tensor)
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}"
            continue
        now = held(model)
        arrived = [now[key].flatten()[mask].to(torch.float64) for key, mask in written.items()]
        if not arrived or not torch.equal(torch.cat(arrived).sort()[0], tensor.to(torch.float64).flatten().sort()[0]):
            swapped.append(name)
        tensors[name] = [tensor.numel(), sum(int(mask.sum()) for mask in written.values())]
        for key, mask in written.items():
            counts[key] += mask
    parameters = {
        key: [len(count), int((count > 0).sum()), int((count > 1).sum())]
        for key, count in counts.items()
        if key in trained or count.any()
    }
    return {"tensors": tensors, "refused": refused, "swapped": swapped, "parameters": parameters}


def main(out: str, *folders: str) -> None:
    without_kernels()
    with tempfile.TemporaryDirectory() as meeting:
        found = {folder: loaded(folder, meeting) for folder in folders}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
