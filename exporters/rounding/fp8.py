"""FP8 (E4M3) with one scale a row."""

from dataclasses import dataclass

import torch

_LARGEST = 448.0


@dataclass(frozen=True)
class Fp8:
    dtype: torch.dtype
    group: int
    tried: int = 24
    span: None = None

    def open(self, left, importance):
        """The row scale of the least weighted error."""
        largest = left.abs().amax(1) / _LARGEST
        best = scale = None
        for k in range(self.tried):
            s = (largest * 2 ** (k / self.tried)).to(self.dtype).float().clamp(min=torch.finfo(self.dtype).tiny)
            q = self._round(left, s[:, None])
            e = ((q - left).square_() * importance[..., None]).sum(1)
            if best is None:
                best, scale = e, s
            else:
                scale = torch.where(e < best, s, scale)
                best = torch.minimum(e, best)
        return scale[None]

    def candidates(self, left, importance, shared, index):
        return shared[:, :, None]

    def around(self, held, best, values, moments, shared):
        return held[:, :, None]

    def _round(self, values, scale):
        return (values / scale).clamp_(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).float() * scale

    def nearest(self, values, parameters, out):
        return out.copy_(self._round(values, parameters[0]))
