"""A lock for each product in this process's memory (S1.31 to S1.33): no other process sees it."""

from threading import Lock


class Locks:
    def __init__(self) -> None:
        self._locks: dict[int, Lock] = {}

    def of(self, product_id: int) -> Lock:
        """The product's lock, made when it is first asked for; not yet taken."""
        return self._locks.setdefault(product_id, Lock())

    def drop_free(self) -> int:
        """Forget the locks that nobody holds, so that the map does not grow for ever; how many there were.

        The flaw (S1.33): whoever was handed a lock and has not taken it yet holds what the map no longer knows, and
        the next one is handed another.
        """
        free = [product_id for product_id, lock in list(self._locks.items()) if not lock.locked()]
        for product_id in free:
            del self._locks[product_id]
        return len(free)
