"""SkinnyLinear against the usual product."""

from __future__ import annotations

import pytest
import torch

from cai.modeling.skinny_linear import SkinnyLinear


@pytest.mark.parametrize("bias", [False, True])
def test_few_rows_are_multiplied_as_many_are(bias: bool) -> None:
    layer = SkinnyLinear(24, 40, bias=bias)
    rows_NI = torch.randn(300, 24)
    expected_NO = torch.nn.functional.linear(
        rows_NI.double(), layer.weight.double(), layer.bias.double() if bias else None
    ).float()
    for count in (*range(1, 35), 47, 255, 256, 257):
        torch.testing.assert_close(layer(rows_NI[:count]), expected_NO[:count])
        torch.testing.assert_close(layer(rows_NI[:count, None]), expected_NO[:count, None])
        assert layer(rows_NI[:count].T.contiguous().T).shape == (count, 40)
