"""How much memory processes hold: their own, what they share through files, their peak, and what there is left.

A mapped base and the libraries are resident in every process and exist once; anonymous memory exists once per process.
Linux tells the two apart; elsewhere everything counts as the process's own, which overstates several workers.
"""

import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_LINUX = sys.platform == "linux"
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Memory of one process that is in RAM now, in bytes.

    Args:
        own: exists for this process alone.
        shared: of files (libraries, a mapped base) that other processes may have mapped too.
    """

    own: int
    shared: int


def resident(pid: int | None = None) -> Resident:
    """What a process holds now; this one by default.

    Raises:
        OSError: there is no such process (any more).
    """
    if not _LINUX:
        return Resident(own=psutil.Process(pid).memory_info().rss, shared=0)
    fields = _status(pid)
    return Resident(own=fields["RssAnon"], shared=fields["RssFile"] + fields["RssShmem"])


def file_pages(pid: int | None = None) -> dict[str, int]:
    """Bytes of every mapping of a file that are in a process's RAM now, by address range (Linux).

    Args:
        pid: this process by default.

    Raises:
        OSError: there is no such process (any more).
    """
    found: dict[str, int] = {}
    place = ""
    for line in Path(f"/proc/{pid or 'self'}/smaps").read_text().splitlines():
        if line.startswith("Rss:") and place:
            found[place] = int(line.split()[1]) * 1024
        elif not line[0].isupper():  # address range, rights, offset, device, inode and the file if there is one
            fields = line.split(maxsplit=5)
            place = fields[0] if len(fields) == 6 and fields[5].startswith("/") else ""
    return found


def reset_peak(device: torch.device | None = None) -> None:
    """Start the high-water mark of this process anew (Linux), or that of a CUDA device.

    Elsewhere the mark stays that of the process's whole life.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _LINUX:
        with suppress(OSError):  # some containers forbid it
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device | None = None) -> int:
    """The high-water mark of this process, or of what torch allocated on a CUDA device."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _LINUX:
        return _status(None)["VmHWM"]
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def held_bytes(device: torch.device | None = None) -> int:
    """What `peak_bytes` would be if it were reset now."""
    if device is not None and device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def free_bytes() -> int:
    """Memory that new allocations may take: of the machine, or less where the process's control group is limited."""
    return min(psutil.virtual_memory().available, _free_in_group())


def _status(pid: int | None) -> dict[str, int]:
    name = "self" if pid is None else str(pid)
    sizes: dict[str, int] = {"RssAnon": 0, "RssFile": 0, "RssShmem": 0, "VmHWM": 0}
    for line in Path(f"/proc/{name}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in sizes:
            sizes[key] = int(value.split()[0]) * 1024
    return sizes


def _free_in_group() -> int:
    """What the limits of this process's control groups leave (version 2, else 1); page cache can be given back."""
    groups = Path("/proc/self/cgroup")
    if not groups.is_file():
        return _UNLIMITED
    left = _UNLIMITED
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inside = root / path.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder == root.parent:
                break
            left = min(left, _left_in(folder, *names))
    return left


def _left_in(folder: Path, limit: str, usage: str, cache: str) -> int:
    with suppress(OSError, ValueError):  # no such file or no limit: nothing is known here
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, most - used + int(stat.get(cache, 0)))
    return _UNLIMITED
