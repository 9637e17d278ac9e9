"""How important an expert is, by its weights alone."""

import torch

from pruning.anatomy import Anatomy
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source


def aimer(source: Source, anatomy: Anatomy, layer: int) -> torch.Tensor:
    """float64 [experts]: root mean square over mean absolute value of all the weights of an expert's matrices.

    AIMER (arXiv:2603.18492) is the reciprocal, and prunes where it is largest: where weights are most alike in size.
    Zero for an expert whose weights are.
    """
    checkpoint = source.checkpoint.as_stored
    sums = torch.zeros(3, anatomy.experts, dtype=torch.float64)  # of |w|, of w^2, and how many
    for name, found in anatomy.tensors.items():
        shape = checkpoint.tensors[name].shape
        if found.layer != layer or len(shape) != (2 if found.expert is not None else 3):
            continue
        for start in range(1 if found.expert is not None else anatomy.experts):
            expert = start if found.expert is None else found.expert
            rows = TensorSlice(name, start, start + 1) if found.expert is None else TensorSlice(name, 0, shape[0])
            weights = checkpoint.read(rows).double()
            sums[:, expert] += torch.stack([weights.abs().sum(), weights.square().sum(), torch.tensor(weights.numel())])
    size, square, count = sums
    mean = (size / count).clamp(min=torch.finfo(torch.float64).tiny)
    return (square / count).sqrt() / mean
