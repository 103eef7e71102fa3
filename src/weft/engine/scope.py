"""The tensors that a statistic is about, and how one goes over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from weft.engine.journal import Journal
from weft.engine.ranking import depends_on_place
from weft.engine.reading import Buffers, Reader, StripInputs
from weft.engine.runner import Runner
from weft.engine.watch import Watch
from weft.engine.work import Strip, Tile, Work, tiles


@dataclass(frozen=True)
class Scope:
    """The tensors that a statistic is about, and how to run over them.

    Attributes:
        works: the tensors; tied ones once.
        reader, runner: how they are read, and by how many threads.
        tile: elements of a tile.
        watch: examines the inputs.
        journal: remembers what is settled.
        memory: that of the one thread that all of it runs on; None if there are several.
    """

    works: Sequence[Work]
    reader: Reader
    runner: Runner
    tile: int
    watch: Watch
    journal: Journal
    memory: Buffers | None = None

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the other scopes of a merge, and from itself with fewer tensors."""
        return (self.works[0].spec.name, len(self.works))

    @property
    def is_worth_keeping(self) -> bool:
        """Whether what is found out about it is noted; a single tile is gone over again more quickly than noted."""
        return self.count > self.tile

    @cached_property
    def count(self) -> int:
        """Number of parameters."""
        return sum(work.spec.size for work in self.works)

    def end_of(self, work: Work) -> int:
        """Index of the scope's last parameter if it lies in this tensor, else -1.

        Tensors are in order of name; one with several names has the first.
        """
        return work.spec.size - 1 if work is self._last else -1

    def end_at_last(self, work: Work) -> int:
        """The same for a method that looks at each tensor on its own, though what comes before it does not."""
        program = work.program
        alone = program.is_about_the_model and not program.whole_model
        return work.spec.size - 1 if alone else self.end_of(work)

    @cached_property
    def _last(self) -> Work:
        return max(self.works, key=lambda work: min((work.spec.name, *work.aliases)))

    def buffers(self) -> Buffers:
        """Memory for a thread."""
        return Buffers() if self.memory is None else self.memory

    def may_join(self, work: Work) -> bool:
        """Whether it may be computed together with other small tensors: not what took computing and is kept, and not
        where rows or names matter.
        """
        if work.program.change is not None and depends_on_place(work.program):
            return False
        return not self._computed or all(id(o.checkpoint) not in self._computed for o in work.operands.values())

    @cached_property
    def _computed(self) -> set[int]:
        """The checkpoints that are computed as they are read."""
        every = {id(o.checkpoint): o.checkpoint for work in self.works for o in work.operands.values()}
        return {key for key, checkpoint in every.items() if checkpoint.is_computed}

    def inputs(self, strip: Strip[Work], buffers: Buffers, keep: bool) -> StripInputs:
        """What is read of a strip. Of a scope of one tile all is read once, whatever the number of passes."""
        if self.memory is not None and strip.size == self.count:
            return self._held
        return StripInputs(self.reader, strip, buffers, keep, self.watch)

    @cached_property
    def _held(self) -> StripInputs:
        strip = Strip(tuple(tiles(self.works[0], self.count)))
        return StripInputs(self.reader, strip, self.buffers(), False, self.watch)

    def tiles(self) -> Iterator[Tile[Work]]:
        """All of it, in pieces."""
        for work in self.works:
            yield from tiles(work, self.tile)
