"""healing.json of a healed checkpoint: how its kept experts were refitted, and what that did to the calibration text.

schema    1
method    version of the method, sweeps over the experts, steps for their gate and up projections, the dampings that
          were tried
texts     tokens of the calibration, random ones beside them, and kinds of text that were left out in turn
device    "cpu" (in float32) or "cuda": its float sums decide the last bits
layers    of each layer with experts:
    layer
    damping    that was chosen, null where the layer stayed as it was
    held_back  squared error on the kinds of text that a fit had not seen, relative to what it was without the fit
    before     norm of what the pruned layer's output misses, of earlier layers too, relative to what the original's
               experts gave
    after      the same with the refitted weights
"""

from dataclasses import asdict

from pruning.healing.gate_up import STEPS
from pruning.healing.heal import VERSION, Healed
from pruning.healing.refit import DAMPINGS, SWEEPS
from pruning.healing.text import Text
from sixfold.artifact.workspace import json_bytes

FILE = "healing.json"
SCHEMA = 1


def record_text(healed: Healed, text: Text, device: str) -> bytes:
    texts = {"tokens": text.ids.numel(), "random": text.random.numel(), "kinds": healed.kinds}
    return json_bytes(
        {
            "schema": SCHEMA,
            "method": {"version": VERSION, "sweeps": SWEEPS, "steps": STEPS, "dampings": list(DAMPINGS)},
            "texts": texts,
            "device": device,
            "layers": [{"layer": layer, **_rounded(asdict(fit))} for layer, fit in healed.fits.items()],
        }
    )


def _rounded(fit: dict[str, float | None]) -> dict[str, float | None]:
    return {key: None if value is None else float(f"{value:.6g}") for key, value in fit.items()}
