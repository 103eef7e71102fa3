"""Runs a plan: scopes one after the other or side by side, statistics first, then the map; copies at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from weft.engine.collector import collector_waits
from weft.engine.compiling import blamed_methods, compile_loops
from weft.engine.cost import bytes_to_move, bytes_to_move_for
from weft.engine.joined import compute_joined
from weft.engine.journal import Journal
from weft.engine.mapping import Bench, Sink, compute, copy
from weft.engine.planning import Plan, as_copy
from weft.engine.progress import Progress
from weft.engine.reading import Buffers, Reader, Residency
from weft.engine.runner import Runner
from weft.engine.scope import Scope
from weft.engine.scopes import scopes
from weft.engine.settings import Budget
from weft.engine.settling import settle
from weft.engine.watch import ConstantMasks, OnNonfinite, Watch
from weft.engine.whole import Allowance, is_whole, one_thread_each
from weft.engine.work import Copied, Work
from weft.kernels.cache import kernels_cached

_LARGE = 64
"""Tiles of a tensor that is shared among the threads even if it stands alone."""

_SMALL = 1 << 16
"""Parameters of a tensor for which computing takes about as long as asking for it."""


_MANY = 256
"""Small tensors for which it is worth while to compile a loop over many at once."""


@collector_waits()
def execute(
    plan: Plan,
    budget: Budget,
    sink: Sink,
    progress: Progress,
    on_nonfinite: OnNonfinite = "error",
    journal: Journal | None = None,
) -> tuple[str, ...]:
    """Compute and copy every tensor of a plan.

    Args:
        plan: what to do.
        budget: tiles, memory and threads; whatever they are, the output's bytes are the same.
        sink: where output goes.
        progress: is told how far it is.
        on_nonfinite: what to do about inputs that are not finite.
        journal: what an earlier run did already, and where to note what this one does.

    Returns:
        What was noted on the way, in words.

    Raises:
        InputError: for inputs that are not finite, if that is an error. Masks, which hold infinities and are the same
            in every input, are copied.
    """
    journal = journal or Journal()
    if not kernels_cached():
        progress.phase("compiling, once for every kind of merge and number of models", 0)
        for work in plan.works:
            compile_loops(work)
    progress.phase("merging", bytes_to_move(plan))
    bench = Bench(Allowance(budget.whole), budget.device)
    run = _Execution(budget, Residency(budget.resident), sink, progress, on_nonfinite, journal, bench)
    masks = [work for work in plan.works if work.spec.name in journal.masks]
    run.masks.extend(masks)
    apart = set(masks)
    works = [work for work in plan.works if work.spec.size and work not in apart]
    with one_thread_each(works), blamed_methods(works):
        run.all(works)
    run.copies(plan.copies)
    return journal.noticed()


@dataclass(frozen=True)
class _Execution:
    """What all scopes of one merge share.

    Attributes:
        bench: with what tensors are computed that are seen whole.
        masks: tensors that turned out to be constant masks.
    """

    budget: Budget
    residency: Residency
    sink: Sink
    progress: Progress
    on_nonfinite: OnNonfinite
    journal: Journal
    bench: Bench
    masks: list[Work] = field(default_factory=list)

    def all(self, works: Sequence[Work]) -> None:
        """Scopes that share statistics first, then what stands alone, at last what is seen whole."""
        whole = [work for work in works if is_whole(work) and not shares_statistics(work)]
        apart = set(whole)
        together, alone = scopes([work for work in works if work not in apart])
        for scope in together:
            self.scope(scope, Runner(self.budget.threads))
        for work in alone:
            if self.is_large(work):
                self.scope([work], Runner(self.budget.threads))
        self.side_by_side([work for work in alone if not self.is_large(work)])
        self.one_in_each_thread(whole)

    def is_large(self, work: Work) -> bool:
        """Whether all threads work on this tensor together, so that none is left with it while the others are done."""
        return work.spec.size > _LARGE * self.budget.tile

    def scope(self, works: Sequence[Work], runner: Runner, memory: Buffers | None = None) -> None:
        """Statistics, then the map; once more without the tensors that turn out to be masks.

        Args:
            works: the tensors that share statistics.
            runner: by how many threads.
            memory: that of the thread, if it is one.
        """
        while works and not self._is_written(works):
            reader = Reader(self.residency, self.progress)
            watch = Watch(self.on_nonfinite, self.journal)
            scope = Scope(works, reader, runner, self.budget.tile, watch, self.journal, memory)
            try:
                compute(scope, settle(scope), self.sink, self.progress, self.bench)
                return
            except ConstantMasks as found:
                works = self._without(works, found.works)
            finally:
                reader.release()

    def _is_written(self, works: Sequence[Work]) -> bool:
        if any(True for work in works for _ in self.journal.left(work.spec.name, 0, work.spec.size)):
            return False
        self.progress.advance(sum(bytes_to_move_for(work) for work in works))
        return True

    def _without(self, works: Sequence[Work], masks: frozenset[Work]) -> list[Work]:
        """The other tensors of a scope, which are computed anew if they shared statistics with the masks."""
        self.masks.extend(masks)
        others = [work for work in works if work not in masks]
        shared = any(work.program.stages for work in works)
        names = [work.spec.name for work in others]
        self.journal.set_aside([mask.spec.name for mask in masks], names if shared else [])
        return others if shared else []

    def side_by_side(self, works: Sequence[Work]) -> None:
        """Tensors that stand alone: each whole on one thread, many at once.

        Small ones, if there are many, joined to strips. What is left of them all on this thread: what they cost is
        Python, in which threads only stand in each other's way.
        """
        one = Runner(1)

        def step(memory: Buffers, work: Work) -> None:
            self.scope([work], one, memory)

        small = [work for work in works if work.spec.size < _SMALL]
        Runner(self.budget.threads).run([work for work in works if work.spec.size >= _SMALL], Buffers, step)
        if len(small) >= _MANY:
            reader = Reader(self.residency, self.progress)
            small = compute_joined(small, self.budget, reader, self.sink, self.on_nonfinite, self.journal)
        one.run(small, Buffers, step)

    def one_in_each_thread(self, works: Sequence[Work]) -> None:
        """Tensors that are seen whole; a device of its own has only one thread to serve."""
        one = Runner(1)
        threads = Runner(self.budget.threads if self.bench.device == "cpu" else 1)
        threads.run(works, Buffers, lambda memory, work: self.scope([work], one, memory))

    def copies(self, copies: Sequence[Copied]) -> None:
        """Tensors that are taken as they are."""
        found = [_copied(mask) for mask in self.masks]
        for work in found:
            if isinstance(work, Work):
                self.scope([work], Runner(self.budget.threads))
        every = (*copies, *(copied for copied in found if isinstance(copied, Copied)))
        reader, runner = Reader(self.residency, self.progress), Runner(self.budget.threads)
        copy(every, reader, runner, self.budget.tile, self.sink, self.progress, self.journal)


def shares_statistics(work: Work) -> bool:
    """Whether the numbers that it needs are about other tensors too."""
    return bool(work.program.stages) and work.program.is_about_the_model


def _copied(mask: Work) -> Work | Copied:
    """A mask, taken as it is."""
    copied = as_copy(mask.spec, next(o for (name, _), o in mask.operands.items() if name == "tuned"))
    return replace(copied, aliases=mask.aliases, rule=mask.rule)
