"""The trials of a study in the order in which they run, and the processes that run them: what is done and estimated."""

from collections.abc import Sequence
from dataclasses import dataclass

from remora.study.context import StudyContext
from remora.study.launch import shares
from remora.study.machine import available_cores, num_gpus
from remora.study.packs import Packing, PlannedPack, packing, plan_packs
from remora.study.rows import UNTRAINED, StudyRow
from remora.study.trials import PlannedTrial, TrialMaker


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What a study trains.

    Args:
        first: the untrained baseline and the tuning trials.
        final: at each row's first learning rate, since which one is taken is found by tuning.
        how: lanes and packs.
        workers: processes.
        threads: of each process.
    """

    first: tuple[PlannedTrial, ...]
    final: tuple[PlannedTrial, ...]
    how: Packing
    workers: int
    threads: int

    def packs(self) -> tuple[tuple[PlannedPack, ...], ...]:
        """The packs of every stage that has trials."""
        return tuple(plan_packs(trials, self.how) for trials in (self.first, self.final) if trials)


def plan_stages(context: StudyContext, rows: Sequence[StudyRow]) -> Stages:
    """The stages of a study on this machine."""
    maker, config = TrialMaker(context), context.config
    first = [trial for row in rows if row.id == UNTRAINED for trial in maker.untrained(row)]
    first += [trial for row in rows for trial in maker.tuning(row)]
    trained = [row for row in rows if row.method is not None]
    final = [trial for row in trained for trial in maker.final(row, row.lrs[0])]
    mean = float(context.encoded("train").lengths.mean())
    how = packing(config.engine, config.protocol.batch_size, mean)
    most = max(len(plan_packs(trials, how)) for trials in (first, final))
    configured = {"workers": config.engine.workers, "threads": config.engine.threads}
    workers, threads = shares(available_cores(), most, configured, num_gpus(config.engine))
    return Stages(first=tuple(first), final=tuple(final), how=how, workers=workers, threads=threads)
