"""Which cached block to give up first.

The order: least recently used; of those, the one with the longest prefix before it (a shorter
prefix is more likely to be shared); of those, the lowest block id.
"""


class Evictor:
    """Holds the blocks that are cached but that no request uses."""

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._blocks

    def add(self, block_id: int, prefix_tokens: int, last_used: int) -> None:
        """A block became free. `last_used` is the step in which it was last read."""
        self._blocks[block_id] = (last_used, prefix_tokens)

    def touch(self, block_id: int, last_used: int) -> None:
        """A free block was looked at again, without being taken."""
        prefix_tokens = self._blocks[block_id][1]
        self._blocks[block_id] = (last_used, prefix_tokens)

    def remove(self, block_id: int) -> None:
        """A request took the block. Raises KeyError when it is not here."""
        del self._blocks[block_id]

    def evict(self) -> int:
        """Takes out the next block to give up. Raises LookupError when there is none."""
        if not self._blocks:
            raise LookupError("no block to evict")
        victim = None
        victim_order = None
        for block_id, (last_used, prefix_tokens) in self._blocks.items():
            order = (last_used, -prefix_tokens, block_id)
            if victim_order is None or order < victim_order:
                victim, victim_order = block_id, order
        del self._blocks[victim]
        return victim
