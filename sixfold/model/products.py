"""How much arithmetic a token takes."""

from collections.abc import Iterator

from sixfold.model.architecture import Architecture, Linear


def products_of_a_token(architecture: Architecture) -> float:
    """Float operations of the Linears of decoder layers, 2 for each weight that a token meets; attention over other
    tokens is not counted."""
    return sum(2 * li.in_features * li.out_features * share for li, share in met(architecture))


def traffic(architecture: Architecture) -> float:
    """Numbers of a token that go into the Linears of decoder layers, and come out."""
    return sum((li.in_features + li.out_features) * share for li, share in met(architecture))


def met(architecture: Architecture) -> Iterator[tuple[Linear, float]]:
    """Linears of decoder layers, and the share of the tokens that meets each."""
    met = architecture.experts_per_token / architecture.experts if architecture.experts else 1.0
    linears = (linear for linear in architecture.linears if linear.layer is not None)
    return ((linear, 1.0 if linear.expert is None else met) for linear in linears)
