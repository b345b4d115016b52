"""Takes part in a study: trains packs that another process plans, and coordinates where nobody does, or does no more.

All processes of a job array run this, so that it does not matter which of them a cluster stops. The plan of packs, and
not who trains them, decides the results.
"""

import time
from pathlib import Path

from remora.config.load import read_study
from remora.config.schema import StudyConfig
from remora.results.schema import Study
from remora.results.store import PACKS, STUDY_FILE, read_record, within
from remora.results.summary import SUMMARY_FILE
from remora.results.summary_schema import StudySummary
from remora.study.api import StudyResult, conduct
from remora.study.board import COORDINATOR, Board, Offer
from remora.study.coordinator import holding
from remora.study.launch import Workers
from remora.study.leases import Heart, Lease, Leases
from remora.study.machine import available_cores, num_gpus
from remora.study.processes import Start, starting
from remora.study.progress import Progress, Teller
from remora.study.versions import machine_difference, refuse_other_versions

_LOOK_SECONDS = 0.5


def join_study(
    config: StudyConfig, run_dir: Path, progress: Progress, *, again: bool = False, start: Start | None = None
) -> StudyResult:
    """Take part in a study until it is complete.

    Args:
        config: of the study, where the run directory holds none yet.
        run_dir: its run directory; made when missing.
        progress: told what this process does.
        again: whether to coordinate a study that was completed before, so that what failed is tried again.
        start: starts its processes; by default in the way that suits the study's device.

    Raises:
        RemoraError: anything that stops the study, or this process alone (other versions of packages, no resources).
    """
    if start is None:
        with starting(num_gpus(config.engine) is not None) as suitable:
            return join_study(config, run_dir, progress, again=again, start=suitable)
    patience = config.engine.lease_seconds
    leases = Leases(within(run_dir, PACKS), patience)
    with Heart(patience) as heart:
        lease = leases.take(COORDINATOR) if again or not _is_complete(leases) else None
        while lease is None and not _is_complete(leases):
            lease = _take_part(run_dir, leases, heart, progress, start)
        if lease is not None:
            heart.keep(lease)
            with holding(run_dir, lease):
                return conduct(_settings(config, run_dir), run_dir, progress, lease, start)
    progress.finished()
    return StudyResult(run_dir=run_dir, summary=read_record(run_dir / SUMMARY_FILE, StudySummary))


def _is_complete(leases: Leases) -> bool:
    standing = leases.standing(COORDINATOR)
    return standing is not None and standing.state == "done"


def _settings(config: StudyConfig, run_dir: Path) -> StudyConfig:
    path = run_dir / "study.yaml"
    return read_study(path) if path.is_file() else config


def _take_part(run_dir: Path, leases: Leases, heart: Heart, progress: Progress, start: Start) -> Lease | None:
    """Train packs of another's plan until the study is complete (None), or until this process is to coordinate."""
    board = Board(run_dir, leases.patience)
    won: list[Lease] = []

    def goes_on() -> bool:
        if _is_complete(leases):
            return False
        lease = leases.take(COORDINATOR)
        if lease is not None:
            won.append(heart.keep(lease))
        return lease is None

    progress.note(f"taking part in {run_dir}")
    offers: tuple[Offer, ...] = ()
    while not offers and goes_on():
        time.sleep(_LOOK_SECONDS)
        offers = board.offers()
    if not offers:
        return won[0] if won else None
    engine = read_study(run_dir / "study.yaml").engine
    begun = read_record(run_dir / STUDY_FILE, Study).versions
    refuse_other_versions(begun, run_dir)

    def warn(text: str) -> None:
        progress.note(f"warning: {text}")
        board.note(text)

    if difference := machine_difference(begun, engine):
        warn(difference)
    threads, gpus = offers[0].threads, num_gpus(engine)
    count = gpus if gpus is not None else engine.workers or max(1, available_cores() // threads)
    progress.stage("training", sum(len(offer.pack.trials) for offer in offers))
    with Workers(run_dir, count, threads, gpus=gpus is not None, board=board, start=start) as workers:
        workers.follow(goes_on, Teller(progress, warn).tell)
        if not won:
            workers.dismiss()
    return won[0] if won else None
