import pytest

from minserve.block_pool import BlockPool, OutOfBlocks
from minserve.evictor import Evictor
from minserve.hashing import block_digests


def test_equal_prefixes_have_equal_digests():
    left = block_digests([1, 2, 3, 4, 5, 6], 2)
    right = block_digests([1, 2, 3, 4, 5, 7], 2)
    assert left[:2] == right[:2]
    assert left[2] != right[2]


def test_the_least_recently_used_block_goes_first():
    evictor = Evictor()
    evictor.add(0, prefix_tokens=16, last_used=2)
    evictor.add(1, prefix_tokens=16, last_used=1)
    evictor.add(2, prefix_tokens=32, last_used=1)
    assert [evictor.evict() for _ in range(3)] == [2, 1, 0]


def test_a_shared_prefix_takes_its_blocks_once():
    pool = BlockPool(num_blocks=4, block_size=2)
    first = pool.allocate([1, 2, 3, 4])
    second = pool.allocate([1, 2, 3, 4, 5])
    assert second[:2] == first
    with pytest.raises(OutOfBlocks):
        pool.allocate([9, 9, 9, 9])
    assert pool.num_free == 1
