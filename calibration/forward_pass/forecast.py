"""How long a pass takes, from shapes and from what was measured of this machine."""

from calibration.forward_pass.memory import statistics_bytes
from sixfold.model.products import products_of_a_token
from sixfold.model.source import Source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.machine_speed import MachineSpeed, SideBySide


def pass_seconds(source: Source, profile: Calibration, speed: MachineSpeed) -> SideBySide:
    """While a layer is run, the next is read and what the one before gave is put away ("statistics"); the "disk" does
    both.

    Products are those of the Linears of decoder layers, 2 for each weight that a token meets, and of the second moments
    where they are summed, 2 for each pair of an input's channels; attention over other tokens is not counted.
    """
    architecture = source.architecture
    met = architecture.experts_per_token / architecture.experts if architecture.experts else 1.0
    linears = [linear for linear in architecture.linears if linear.layer is not None]
    products = products_of_a_token(architecture)
    if profile.moments:
        inputs = {(li.site, li.expert): li.in_features for li in linears}
        products += sum(2 * n * n * (1.0 if expert is None else met) for (_, expert), n in inputs.items())
    read = sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    kept = statistics_bytes(source, [profile])
    return (
        {"disk": speed.disk_seconds(read, kept)},
        {"products": profile.samples * profile.length * products / speed.products},
        {"statistics": kept / speed.kept},
    )
