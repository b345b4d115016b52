"""Who coordinates a run directory: one process at a time, by a lease that ends with it or when it shows no life."""

import shlex
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from remora.errors import RemoraError, ResourceError
from remora.results.store import PACKS, within
from remora.study.board import COORDINATOR
from remora.study.leases import Heart, Lease, Leases, Standing, State
from remora.study.progress import Progress

_LOOK_SECONDS = 0.2


@contextmanager
def coordinating(run_dir: Path, patience: float, progress: Progress, *, afterwards: State = "done") -> Generator[Lease]:
    """Be the coordinator of a run directory.

    Args:
        run_dir: made when missing.
        patience: seconds without a sign of life after which a coordinator on another machine counts as dead.
        progress: told when that is waited for.
        afterwards: what the lease says when the block ran to its end.

    Yields:
        The lease, kept alive.

    Raises:
        ResourceError: another process coordinates, or the folder cannot be written.
    """
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lease = _take(run_dir, Leases(within(run_dir, PACKS), patience), progress)
    except OSError as error:
        raise ResourceError(f"{run_dir} cannot be written: {error.strerror}", "give another --out") from error
    try:
        with Heart(patience) as heart, holding(run_dir, heart.keep(lease), afterwards=afterwards):
            yield lease
    finally:
        if made and [path.name for path in run_dir.iterdir()] == [PACKS]:
            shutil.rmtree(run_dir)  # nothing was begun: a file that is missing, a setting that is wrong


@contextmanager
def holding(run_dir: Path, lease: Lease, *, afterwards: State = "done") -> Generator[None]:
    """Hold the coordinator's lease for a block; it says ``released`` when that did not run to its end.

    Args:
        run_dir: of the lease.
        lease: taken, and kept alive by the caller.
        afterwards: what it says when the block ran to its end.

    Raises:
        ResourceError: something cannot be written.
    """
    state: State = "released"
    try:
        yield
        state = afterwards
    except OSError as error:
        if isinstance(error, RemoraError):
            raise
        raise ResourceError(
            f"{run_dir}: {error.strerror or error}", "finished trials are kept; free space and repeat the command"
        ) from error
    finally:
        lease.end(state)
        _forget_former(run_dir, lease)


def _take(run_dir: Path, leases: Leases, progress: Progress) -> Lease:
    first: Standing | None = None
    while True:
        lease = leases.take(COORDINATOR)
        if lease is not None:
            return lease
        standing = leases.standing(COORDINATOR)
        if standing is None:
            continue
        if leases.is_alive_here(COORDINATOR, standing) or (first is not None and first.raw != standing.raw):
            raise ResourceError(
                f"another process is running the study in {run_dir} (process {standing.pid} on {standing.host})",
                f"wait for it, stop it, or take part in it: remora worker {shlex.quote(str(run_dir))}",
            )
        if first is None:
            first = standing
            progress.note(
                f"{run_dir} was left by process {standing.pid} on {standing.host}, or that one still runs: "
                f"waiting up to {leases.patience:.0f} s for a sign of life"
            )
        time.sleep(_LOOK_SECONDS)


def _forget_former(run_dir: Path, lease: Lease) -> None:
    leases = Leases(run_dir / PACKS)
    with suppress(OSError):
        standing = leases.standing(COORDINATOR)
        if standing is not None and standing.nonce == lease.ticket.nonce:
            leases.forget(COORDINATOR, but=standing.number)
