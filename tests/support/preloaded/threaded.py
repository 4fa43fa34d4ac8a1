"""Has a thread from when it is imported, as libraries of native code have; for `preload`."""

import queue
import threading

_asked: queue.SimpleQueue[tuple[int, queue.SimpleQueue[int]]] = queue.SimpleQueue()


def _serve() -> None:
    while True:
        number, answer = _asked.get()
        answer.put(number * 2)


threading.Thread(target=_serve, name="of a library", daemon=True).start()


def doubled(number: int) -> int:
    """Have the thread compute: where there is none, this waits for ever."""
    answer: queue.SimpleQueue[int] = queue.SimpleQueue()
    _asked.put((number, answer))
    return answer.get(timeout=30)
