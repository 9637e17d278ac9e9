"""The outputs of each expert of a layer, and with which others it is chosen: the basis of pruning."""

import torch

from sixfold.runner.process_group import Team


class ExpertAccumulator:
    """The expert statistics of one layer (sixfold.statistics.statistics), summed in float64 over batches in order."""

    def __init__(self, experts: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.gate_sum, self.norm_sum, self.norm_sq_sum, self.saliency_sum = (zeros(experts) for _ in range(4))
        self.norm_max = zeros(experts, dtype=torch.float32)
        self.output_max = zeros(experts, dtype=torch.float32)
        self.coactivation = zeros(experts, experts, dtype=torch.int64)

    def add_one(self, expert: int, output: torch.Tensor, gates: torch.Tensor) -> None:
        """output [N, hidden] of one expert, before the gate; gates [N]."""
        if not len(output):
            return
        norms = torch.linalg.vector_norm(output.float(), dim=1)
        gates = gates.double()
        self.gate_sum[expert] += gates.sum()
        self.norm_sum[expert] += norms.sum(dtype=torch.float64)
        self.norm_sq_sum[expert] += norms.double().square().sum()
        self.saliency_sum[expert] += gates.dot(norms.double())
        self.norm_max[expert] = torch.maximum(self.norm_max[expert], norms.amax())
        self.output_max[expert] = torch.maximum(self.output_max[expert], output.abs().amax().float())

    def add(self, output: torch.Tensor, gates: torch.Tensor, counts: torch.Tensor) -> None:
        """Of all experts at once: output and gates sorted by expert; counts int64 [experts]."""
        values = output.float()
        norms = torch.linalg.vector_norm(values, dim=1)
        largest = values.abs_().amax(1)
        lengths, gates = counts.to(output.device), gates.double()

        def reduced(values: torch.Tensor, how: str) -> torch.Tensor:
            return torch.segment_reduce(values, how, lengths=lengths, initial=0)

        self.gate_sum += reduced(gates, "sum")
        self.norm_sum += reduced(norms.double(), "sum")
        self.norm_sq_sum += reduced(norms.double().square(), "sum")
        self.saliency_sum += reduced(gates * norms, "sum")
        torch.maximum(self.norm_max, reduced(norms, "max"), out=self.norm_max)
        torch.maximum(self.output_max, reduced(largest, "max"), out=self.output_max)

    def add_sums(
        self,
        coactivation: torch.Tensor,
        gate_sum: torch.Tensor,
        norm_sum: torch.Tensor,
        norm_sq_sum: torch.Tensor,
        saliency_sum: torch.Tensor,
        norm_max: torch.Tensor,
        output_max: torch.Tensor,
    ) -> None:
        """What was summed elsewhere. coactivation: int64 [experts, experts]. The rest: float32 [experts]."""
        self.coactivation += coactivation
        self.gate_sum += gate_sum
        self.norm_sum += norm_sum
        self.norm_sq_sum += norm_sq_sum
        self.saliency_sum += saliency_sum
        torch.maximum(self.norm_max, norm_max, out=self.norm_max)
        torch.maximum(self.output_max, output_max, out=self.output_max)

    def add_choices(self, index: torch.Tensor) -> None:
        """index int64 [tokens, top-k]: the experts of each token, all different."""
        chosen = torch.zeros(len(index), len(self.coactivation), device=index.device)
        chosen.scatter_(1, index, 1.0)
        self.coactivation += (chosen.T @ chosen).long()  # exact: float32 counts to 2^24, and a batch has fewer tokens

    def join(self, team: Team) -> None:
        """Make this process's sums and extremes those of all processes together."""
        team.add(self.gate_sum, self.norm_sum, self.norm_sq_sum, self.saliency_sum, self.coactivation)
        team.largest(self.norm_max, self.output_max)

    def finish(self) -> dict[str, torch.Tensor]:
        """The statistics by name, on the CPU."""
        found = {
            "routed": self.coactivation.diagonal().clone(),
            "gate_sum": self.gate_sum,
            "norm_sum": self.norm_sum,
            "norm_sq_sum": self.norm_sq_sum,
            "norm_max": self.norm_max,
            "saliency_sum": self.saliency_sum,
            "output_max": self.output_max,
            "coactivation": self.coactivation,
        }
        return {name: value.cpu() for name, value in found.items()}
