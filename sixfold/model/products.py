"""How much arithmetic a token takes."""

from sixfold.model.architecture import Architecture


def products_of_a_token(architecture: Architecture) -> float:
    """Float operations of the Linears of decoder layers, 2 for each weight that a token meets; attention over other
    tokens is not counted."""
    met = architecture.experts_per_token / architecture.experts if architecture.experts else 1.0
    linears = [linear for linear in architecture.linears if linear.layer is not None]
    return sum(2 * li.in_features * li.out_features * (1.0 if li.expert is None else met) for li in linears)
