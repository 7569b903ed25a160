"""The attention of packed rows: what it refuses, and keys that are all that is asked for."""

import pytest
import torch
from torch import nn

from mmlens.core.errors import MMLensError
from mmlens.execution.cell_attention import KernelCall, KeysKnown, PackedAttention
from mmlens.models.decoder import NotAloneError


def attend(lent: PackedAttention, queries: int, keys: int) -> torch.Tensor:
    query, key = torch.randn(1, 2, queries, 4), torch.randn(1, 2, keys, 4)
    return lent.attend(lambda: None, nn.Identity(), query, key, key + 1, None, {})


def test_attention_outside_of_a_block_is_refused() -> None:
    with pytest.raises(MMLensError, match="Identity ran outside the blocks of a packed run"):
        attend(PackedAttention([]), 3, 3)


@pytest.mark.parametrize(("queries", "keys"), [(3, 4), (4, 3)])
def test_keys_of_other_rows_are_refused(queries: int, keys: int) -> None:
    lent = PackedAttention([])
    lent.call = KernelCall(1, [], [], [])
    with pytest.raises(NotAloneError, match="block 1 has keys that are not its own rows'"):
        attend(lent, queries, keys)


def test_keys_alone_end_the_block() -> None:
    lent = PackedAttention([])
    lent.call = KernelCall(0, [], [], [], only_keys=True)
    with pytest.raises(KeysKnown):
        attend(lent, 3, 3)
    assert lent.call.stash is not None
    key, value = lent.call.stash
    assert key.shape == (2, 3, 4)
    assert torch.equal(value, key + 1)
