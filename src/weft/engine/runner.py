"""Many threads, one queue. Kernels and file calls release the interpreter lock, so threads are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TypeVar

Task = TypeVar("Task")
State = TypeVar("State")


class Runner:
    """Runs a step for every task of a stream on a number of threads, each with a state of its own.

    Args:
        threads: how many; with one, everything runs in the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def run(
        self, tasks: Iterable[Task], start: Callable[[], State], step: Callable[[State, Task], None]
    ) -> list[State]:
        """Work through the tasks.

        Args:
            tasks: consumed lazily, by one thread at a time.
            start: makes the state of a thread.
            step: does one task.

        Returns:
            The states, in no particular order. What is computed must not depend on which thread did what.

        Raises:
            Exception: the first that a step raised; the other threads stop after their current task.
        """
        queue = iter(tasks)
        lock, stop = Lock(), Event()
        states = [start() for _ in range(self._threads)]

        def work(state: State) -> None:
            try:
                while not stop.is_set():
                    with lock:
                        task = next(queue, stop)
                    if isinstance(task, Event):
                        return
                    step(state, task)
            except BaseException:
                stop.set()
                raise

        if self._threads == 1:
            work(states[0])
            return states
        with ThreadPoolExecutor(self._threads, thread_name_prefix="weft") as pool:
            futures = [pool.submit(work, state) for state in states]
            try:
                wait(futures)
            finally:
                stop.set()
            for future in futures:
                future.result()
        return states
