"""The packs of a stage as files in the run directory, for whoever trains there, on this machine or another.

The coordinator writes one file for each pack that has trials to be trained; that plan, and not who trains a pack or
when, decides what comes out. A process that is free takes the first pack that nobody has a lease of (`study.leases`).
What workers of other processes survived they leave in notes, which the coordinator reads.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from remora.results.store import PACKS, within, write_atomic
from remora.study.leases import Lease, Leases
from remora.study.packs import PlannedPack
from remora.study.trials import PlannedTrial

COORDINATOR = "coordinator"
"""The name of the lease that the coordinator of a run directory holds."""
_OFFER = re.compile(r"\d{5}-([0-9a-z]+)-\d\.json")
_NOTES = ".notes"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A pack that is to be trained.

    Args:
        pack: its trials.
        lives: holders it may cost before the coordinator does something else about it.
        threads: of the process that trains it; part of the plan, as sums may depend on it.
    """

    pack: PlannedPack
    lives: int
    threads: int

    def to_bytes(self) -> bytes:
        """For the file."""
        pack = {"id": self.pack.id, "slots": self.pack.slots, "parts": self.pack.parts}
        trials = [trial.to_json() for trial in self.pack.trials]
        return json.dumps({**pack, "lives": self.lives, "threads": self.threads, "trials": trials}).encode()

    @staticmethod
    def from_bytes(content: bytes) -> "Offer":
        """The inverse of `to_bytes`."""
        values = json.loads(content)
        trials = tuple(PlannedTrial.from_json(trial) for trial in values["trials"])
        pack = PlannedPack(id=values["id"], trials=trials, slots=values["slots"], parts=values["parts"])
        return Offer(pack=pack, lives=values["lives"], threads=values["threads"])


@dataclass(frozen=True, kw_only=True)
class TakenPack:
    """A pack and the lease of it."""

    pack: PlannedPack
    lease: Lease


class Board:
    """The packs on offer in a run directory, as one process sees them.

    Args:
        run_dir: of the study.
        patience: seconds without a sign of life after which a holder counts as dead.
    """

    def __init__(self, run_dir: Path, patience: float) -> None:
        self._run_dir = run_dir
        self._folder = within(run_dir, PACKS)
        self.leases = Leases(self._folder, patience)
        self._known: dict[str, Offer] = {}
        self._own_notes = self._folder / f"{secrets.token_hex(8)}{_NOTES}"
        self._read_notes: dict[str, int] = {}

    def open(self, packs: Sequence[PlannedPack], *, lives: int, threads: int) -> None:
        """Offer packs and nothing else, in their order; whoever trains one of them now goes on.

        Args:
            packs: of a stage.
            lives: see `Offer`; counted anew.
            threads: see `Offer`.
        """
        wanted = {pack.id for pack in packs}
        for offer in self.offers():
            if offer.pack.id not in wanted:
                self.withdraw(offer.pack.id)
        for name in self.leases.numbers():
            if name != COORDINATOR:
                standing = self.leases.standing(name)
                alive = name in wanted and standing is not None and not self.leases.is_free(name)
                self.leases.forget(name, but=standing.number if alive and standing is not None else None)
        self._write([Offer(pack=pack, lives=lives, threads=threads) for pack in packs])

    def replace(self, old: Offer, packs: Sequence[PlannedPack], *, lives: int) -> None:
        """Offer other packs in place of one, before the others."""
        others = [offer for offer in self.offers() if offer.pack.id != old.pack.id]
        self.withdraw(old.pack.id)
        self._write([*(replace(old, pack=pack, lives=lives) for pack in packs), *others])

    def withdraw(self, pack: str) -> None:
        """Offer a pack no more; whoever trains it finds out before it commits anything."""
        for name, known in self._names().items():
            if known == pack:
                (self._folder / name).unlink(missing_ok=True)
        self.leases.forget(pack)

    def close(self) -> None:
        """Remove everything but the coordinator's lease."""
        for offer in self.offers():
            self.withdraw(offer.pack.id)
        for name in self.leases.numbers():
            if name != COORDINATOR:
                self.leases.forget(name)
        for path in self._folder.glob(f"*{_NOTES}"):
            path.unlink(missing_ok=True)

    def offers(self) -> tuple[Offer, ...]:
        """What is on offer, in the order of the plan."""
        names = self._names()
        for name in names:
            if name not in self._known:
                with suppress(FileNotFoundError):  # withdrawn in between
                    self._known[name] = Offer.from_bytes((self._folder / name).read_bytes())
        self._known = {name: offer for name, offer in self._known.items() if name in names}
        return tuple(self._known[name] for name in sorted(self._known))

    def free(self) -> tuple[Offer, ...]:
        """What could be taken now."""
        numbers = self.leases.numbers()
        return tuple(offer for offer in self.offers() if self._is_free(offer, numbers))

    def take(self) -> TakenPack | None:
        """The first pack that nobody has, with the lease of it; None when there is none."""
        for offer in self.free():
            lease = self.leases.take(offer.pack.id)
            if lease is None:
                continue
            if offer.pack.id in self._names().values():
                return TakenPack(pack=offer.pack, lease=lease)
            lease.end("released")  # it was done and withdrawn after this process had looked
            self.leases.forget(offer.pack.id)
        return None

    def is_spent(self, offer: Offer, numbers: Mapping[str, list[int]]) -> bool:
        """Whether a pack has cost as many holders as it may."""
        return self.leases.ended_badly(offer.pack.id, numbers) >= offer.lives

    def note(self, text: str) -> None:
        """Leave a sentence for the coordinator."""
        with suppress(OSError), self._own_notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(text) + "\n")

    def notes(self) -> list[str]:
        """Sentences left by others since the last call."""
        found: list[str] = []
        for path in sorted(self._folder.glob(f"*{_NOTES}")):
            lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last break is still being written
            for line in lines[self._read_notes.get(path.name, 0) :]:
                found.append(str(json.loads(line)))
            self._read_notes[path.name] = len(lines)
        return found

    def _is_free(self, offer: Offer, numbers: Mapping[str, list[int]]) -> bool:
        standing = self.leases.standing(offer.pack.id, numbers)
        if standing is None:
            return True
        if standing.state == "done":
            return False  # its results are on their way
        return not self.is_spent(offer, numbers) and self.leases.is_free(offer.pack.id, numbers)

    def _names(self) -> Mapping[str, str]:
        """File of an offer -> id of its pack."""
        with suppress(FileNotFoundError):
            matches = [_OFFER.fullmatch(name) for name in os.listdir(self._folder)]
            return {match[0]: match[1] for match in matches if match}
        return {}

    def _write(self, offers: Sequence[Offer]) -> None:
        before = self._names()
        named = {f"{number:05d}-{offer.pack.id}-{offer.lives}.json": offer for number, offer in enumerate(offers)}
        for name, offer in named.items():
            write_atomic(self._folder / name, offer.to_bytes())
        for name in before:
            if name not in named:
                (self._folder / name).unlink(missing_ok=True)
        self._known = {}
