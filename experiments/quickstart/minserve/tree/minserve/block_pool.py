"""Cache blocks: handed out to requests, shared between equal prefixes, kept until needed."""

from minserve.evictor import Evictor
from minserve.hashing import block_digests


class OutOfBlocks(Exception):
    """No block is free and none can be evicted."""


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._unused = list(range(num_blocks - 1, -1, -1))
        self._evictor = Evictor()
        self._by_digest: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        self._prefix_tokens: dict[int, int] = {}
        self._users = [0] * num_blocks
        self._step = 0

    @property
    def num_free(self) -> int:
        return len(self._unused) + len(self._evictor)

    def allocate(self, token_ids: list[int]) -> list[int]:
        """Blocks for a prompt; full blocks of a known prefix are shared."""
        self._step += 1
        block_ids: list[int] = []
        try:
            for index, digest in enumerate(block_digests(token_ids, self._block_size)):
                block_ids.append(self._shared(digest, (index + 1) * self._block_size))
            if len(token_ids) % self._block_size:
                block_ids.append(self._take())
        except OutOfBlocks:
            self.free(block_ids)
            raise
        return block_ids

    def free(self, block_ids: list[int]) -> None:
        """Gives the blocks of a request back; those with a digest stay cached."""
        for block_id in reversed(block_ids):
            self._users[block_id] -= 1
            if self._users[block_id]:
                continue
            if block_id in self._digests:
                self._evictor.add(block_id, self._prefix_tokens[block_id], self._step)
            else:
                self._unused.append(block_id)

    def _shared(self, digest: bytes, prefix_tokens: int) -> int:
        block_id = self._by_digest.get(digest)
        if block_id is None:
            block_id = self._take()
            self._by_digest[digest] = block_id
            self._digests[block_id] = digest
            self._prefix_tokens[block_id] = prefix_tokens
            return block_id
        if block_id in self._evictor:
            self._evictor.remove(block_id)
        self._users[block_id] += 1
        return block_id

    def _take(self) -> int:
        if self._unused:
            block_id = self._unused.pop()
        elif len(self._evictor):
            block_id = self._evictor.evict()
            del self._by_digest[self._digests.pop(block_id)]
            del self._prefix_tokens[block_id]
        else:
            raise OutOfBlocks("no free block")
        self._users[block_id] = 1
        return block_id
