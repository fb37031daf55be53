"""What was made last, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Bounded(Generic[T]):
    """Values by key, of ``most`` bytes together, the least recently used dropped first; safe between threads."""

    def __init__(self, most: int, size_of: Callable[[T], int]) -> None:
        self.most, self._size_of = most, size_of
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of ``key``, made where it is not there; two threads may make it at the same time."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()
        with self._lock:
            if key not in self._values:
                self.bytes += self._size_of(made)
                self._values[key] = made
            while self.bytes > self.most and self._values:
                self.bytes -= self._size_of(self._values.popitem(last=False)[1])
        return made
