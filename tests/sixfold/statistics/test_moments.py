"""What is packed of second moments comes back, to what float16 holds of correlations."""

import pytest
import torch

from sixfold.statistics.moments import pack, packed_nbytes, packed_shape, unpack


@pytest.mark.parametrize("channels", [1, 2, 7, 64, 129])
def test_moments_come_back(channels: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 200, channels) * torch.logspace(-3, 3, channels)
    moments = rows.mT @ rows

    packed = pack(moments)

    assert packed.shape == (3, *packed_shape(channels))
    assert packed[0].numel() * 2 == packed_nbytes(channels)
    sum_sq = moments.diagonal(dim1=-2, dim2=-1)
    found = unpack(packed, sum_sq)
    root = sum_sq.sqrt()
    assert ((found - moments).abs() / (root[..., :, None] * root[..., None, :])).max() <= 2**-11
    assert torch.equal(found, found.mT)
    assert torch.equal(found.diagonal(dim1=-2, dim2=-1), sum_sq)


def test_each_correlation_is_stored_once() -> None:
    """A packed matrix of C channels has room for one triangle and nothing else."""
    rows, columns = packed_shape(64)
    assert rows * columns == 64 * 65 // 2


def test_a_channel_that_carried_nothing_stays_nothing() -> None:
    rows = torch.randn(50, 6)
    rows[:, 2] = 0
    moments = rows.mT @ rows

    found = unpack(pack(moments), moments.diagonal())

    assert torch.isfinite(found).all()
    assert not found[2].any()
    assert not found[:, 2].any()
