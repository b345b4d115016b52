"""How sequences of lanes lie in a pass: rows, positions, virtual tokens, buckets, chunks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.engine.layout import LaneBatch, Layout, build_layout, token_chunks
from remora.engine.pooling import pooled_rows


def lane(*lengths: int, num_virtual: int = 0, key: int = 0) -> LaneBatch:
    ids = [np.arange(10, 10 + length) for length in lengths]
    types = [np.ones(length, np.int64) for length in lengths]
    return LaneBatch(ids=ids, type_ids=types, index=range(len(lengths)), num_virtual=num_virtual, dropout_key=key)


def lay_out(*lanes: LaneBatch, kind: str = "packed", offset: int = 0) -> Layout:
    return build_layout(
        lanes,
        kind=kind,
        position_offset=offset,
        pad_id=1,
        training=True,
        device=torch.device("cpu"),  # type: ignore[arg-type]
    )


def test_packed_rows() -> None:
    layout = lay_out(lane(2, 3), lane(1, num_virtual=2), offset=2)
    assert layout.input_ids.tolist() == [[10, 11, 10, 11, 12, 1, 1, 10]]
    assert layout.position_ids.tolist() == [[2, 3, 2, 3, 4, 2, 3, 4]]
    assert layout.type_ids.tolist() == [[1, 1, 1, 1, 1, 0, 0, 1]]
    assert layout.attention_mask is None
    assert layout.lane_rows == (slice(0, 5), slice(5, 8))
    assert layout.lane_sequences == (slice(0, 2), slice(2, 3))
    assert layout.first_S.tolist() == [0, 2, 7]
    assert layout.last_S.tolist() == [1, 4, 7]
    assert layout.virtual_T.tolist() == [-1, -1, -1, -1, -1, 0, 1, -1]
    assert layout.num_tokens == 8


def test_padded_rows() -> None:
    layout = lay_out(lane(2, 3), lane(1, num_virtual=1), kind="padded", offset=2)
    assert layout.input_ids.tolist() == [[10, 11, 1], [10, 11, 12], [1, 10, 1]]
    assert layout.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0]]
    assert layout.position_ids[1].tolist() == [2, 3, 4]
    assert layout.lane_rows == (slice(0, 6), slice(6, 9))
    assert layout.first_S.tolist() == [0, 3, 7]
    assert layout.last_S.tolist() == [1, 5, 7]
    assert layout.virtual_T.tolist() == [-1, -1, -1, -1, -1, -1, 0, -1, -1]
    assert layout.num_tokens == 7


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_buckets_hold_every_row_once_and_lead_back(lengths: list[int]) -> None:
    layout = lay_out(lane(*lengths))
    gathered = torch.cat([bucket.rows_NL.reshape(-1) for bucket in layout.buckets])
    real = torch.cat([bucket.real_NL.reshape(-1) for bucket in layout.buckets])
    assert sorted(gathered[real].tolist()) == list(range(sum(lengths)))
    assert gathered[layout.unbucket_T].tolist() == list(range(sum(lengths)))
    for bucket in layout.buckets:
        assert bucket.full == bool(bucket.real_NL.all())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120), st.integers(0, 5))
def test_chunks_hold_every_example_once_within_the_budget(lengths: list[int], tokens: int, room: int) -> None:
    ids = [np.zeros(length, np.int64) for length in lengths]
    chunks = list(token_chunks(ids, tokens, room))
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * (max(lengths[i] for i in chunk) + room) <= tokens


def test_no_examples_no_chunks() -> None:
    assert list(token_chunks([], 10)) == []


def test_masks_do_not_depend_on_the_layout() -> None:
    packed, padded = lay_out(lane(2, 5, key=9)), lay_out(lane(2, 5, key=9), kind="padded")
    site = 17
    left = packed.dropout.keys(site)
    right = padded.dropout.keys(site).view(2, 5)
    assert torch.equal(left, torch.cat([right[0, :2], right[1]]))
    assert len(set(left.tolist())) == 7


@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_pooled_rows_skip_virtual_tokens_and_padding(kind: str) -> None:
    layout = lay_out(lane(3, 1, num_virtual=2), kind=kind)
    hidden = torch.arange(layout.num_rows, dtype=torch.float64)[:, None].expand(-1, 2)
    starts = layout.start_S.tolist()
    assert pooled_rows(hidden, layout, "first")[0][:, 0].tolist() == [starts[0] + 2, starts[1] + 2]
    assert pooled_rows(hidden, layout, "last")[0][:, 0].tolist() == [starts[0] + 4, starts[1] + 2]
    mean, rows = pooled_rows(hidden, layout, "mean")
    assert mean[:, 0].tolist() == [starts[0] + 3, starts[1] + 2]
    assert rows.tolist() == layout.first_S.tolist()
