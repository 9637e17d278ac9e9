"""How long a pass takes, from shapes and from what was measured of this machine."""

from calibration.forward_pass.memory import statistics_bytes
from sixfold.model.products import met, products_of_a_token
from sixfold.model.source import Source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.machine_speed import MachineSpeed, SideBySide


def pass_seconds(source: Source, profile: Calibration, speed: MachineSpeed) -> SideBySide:
    """While a layer is run, the next is read and what the one before gave is put away ("statistics"); the "disk" does
    both.

    Products are those of the Linears of decoder layers, 2 for each weight that a token meets, and of the second moments
    where they are summed, 2 for each pair of an input's channels; attention over other tokens is not counted.
    """
    products = products_of_a_token(source.architecture)
    if profile.moments:
        inputs = {(li.site, li.expert): (li.in_features, share) for li, share in met(source.architecture)}
        products += sum(2 * channels**2 * share for channels, share in inputs.values())
    read = sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    kept = statistics_bytes(source, [profile])
    return (
        {"disk": speed.disk_seconds(read, kept)},
        {"products": profile.samples * profile.length * products / speed.products},
        {"statistics": kept / speed.kept},
    )
