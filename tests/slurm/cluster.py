"""A SLURM cluster of one node, this machine, started in a folder and ended with the test: munged, slurmctld, slurmd."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")

CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
JobRequeue=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty when there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)} not found; Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "the daemons of SLURM want root"


class Cluster:
    """Commands for the running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr, self.logs())
        return done.stdout.strip()

    def waiting_or_running(self) -> list[str]:
        return self.ask("squeue", "--noheader", "--format=%i %T %r").splitlines()

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.log")))


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start the daemons, wait until the node is idle, and end them afterwards, jobs first."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    host, ports = socket.gethostname().split(".")[0], _free_ports()
    (folder / "slurm.conf").write_text(CONF.format(host=host, ports=ports, folder=folder))
    cluster = Cluster(folder)
    files = {name: f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")}
    munged = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    commands = ([*munged, *files.values()], ["slurmctld", "-D"], ["slurmd", "-D", "-N", host])
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out.log").open("wb") as out:
                started = subprocess.Popen(command, env=cluster.environment, stdout=out, stderr=out)
            daemons.append(started)
            time.sleep(0.5)
        end = time.monotonic() + 60
        while "idle" not in _state(cluster):
            assert time.monotonic() < end, cluster.logs()
            time.sleep(0.2)
        yield cluster
    finally:
        subprocess.run(["scancel", "--user=root"], env=cluster.environment, capture_output=True, check=False)
        end = time.monotonic() + 30
        while _jobs(cluster) and time.monotonic() < end:
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait()


def _state(cluster: Cluster) -> str:
    command = ["sinfo", "--noheader", "--format=%T"]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False).stdout


def _jobs(cluster: Cluster) -> str:
    command = ["squeue", "--noheader"]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False).stdout


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
