"""A job array for SLURM: a script whose tasks all call ``remora worker`` on one run directory, one task for each pack.

Packs come in stages, since tuning decides the final trials. So a task is bound to no pack: it takes part until the
study is complete, and whichever task is there first coordinates. A task that is preempted, or comes near its time
limit, writes checkpoints, gives its packs back and is queued again.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.config.schema import EngineConfig, StudyConfig
from remora.errors import ConfigError
from remora.study.context import open_context
from remora.study.packs import packing, plan_packs
from remora.study.rows import study_rows
from remora.study.stages import plan_stages

SCRIPT = "array.sbatch"
LOGS = "slurm"
_WARNING_SECONDS = 120
"""Before its time limit a task is told; SLURM may do so up to a minute earlier."""
_PLAIN = re.compile(r"[\w.,:/+=@ -]+")


@dataclass(frozen=True, kw_only=True)
class ArrayJob:
    """What a job array asks of the cluster.

    Args:
        name: of the job.
        run_dir: absolute; on a disk that all nodes share.
        tasks: of the array.
        at_once: most tasks that run at a time; None for no limit.
        cpus: of a task.
        gpus: of a task; 0 for none.
        partition: None for the cluster's usual one.
        time: limit of a task, as SLURM writes it; None for the partition's.
        memory: of a task, as SLURM writes it; None for the partition's.
        container: an Apptainer image in which the command runs; None for the environment of this process.
        binds: folders and files outside the container that the study reads or writes.
        plugins: files of methods.
    """

    name: str
    run_dir: Path
    tasks: int
    at_once: int | None = None
    cpus: int = 1
    gpus: int = 0
    partition: str | None = None
    time: str | None = None
    memory: str | None = None
    container: Path | None = None
    binds: Sequence[Path] = ()
    plugins: Sequence[Path] = ()

    def command(self) -> list[str]:
        """What a task runs."""
        more = [part for file in self.plugins for part in ("--plugin", str(file))]
        words = ["worker", str(self.run_dir), *more]
        if self.container is None:
            return [sys.executable, "-P", "-m", "remora", *words]
        binds = [part for path in dict.fromkeys((self.run_dir, *self.binds)) for part in ("--bind", str(path))]
        nvidia = ["--nv"] if self.gpus else []
        return ["apptainer", "exec", *nvidia, *binds, str(self.container), "remora", *words]

    def script(self) -> str:
        """The batch script.

        Raises:
            ConfigError: a value with characters that have a meaning of their own there.
        """
        limit = "" if self.at_once is None else f"%{self.at_once}"
        asked = {
            "job-name": self.name,
            "array": f"0-{self.tasks - 1}{limit}",
            "ntasks": "1",
            "cpus-per-task": str(self.cpus),
            "gpus": str(self.gpus) if self.gpus else None,
            "partition": self.partition,
            "time": self.time,
            "mem": self.memory,
            "signal": f"B:USR1@{_WARNING_SECONDS}",
            "open-mode": "append",
        }
        for name, value in (*asked.items(), ("output", str(self.run_dir))):
            if value is not None and name != "array" and not _PLAIN.fullmatch(value):
                raise ConfigError(f"--{name} of a batch script cannot be {value!r:.200}", "take a plainer name")
        lines = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None]
        lines += ["#SBATCH --requeue", f'#SBATCH --output="{self.run_dir}/{LOGS}/%A_%a.log"']
        return _SCRIPT.format(lines="\n".join(lines), command=shlex.join(self.command()))


# The signal goes to the whole process group, since between this shell and the program there may be a container. The
# exit code 143 says that everything is kept and can go on.
_SCRIPT = """\
#!/bin/bash
{lines}

near_the_limit=
trap 'near_the_limit=yes; trap "" USR1; kill -USR1 0' USR1
trap 'trap "" TERM; kill -TERM 0' TERM

{command} &
task=$!
code=143
while kill -0 "$task" 2>/dev/null; do
    wait "$task"
    code=$?
done
wait "$task" 2>/dev/null
last=$?
[ "$last" = 127 ] || code=$last

if [ -n "$near_the_limit" ] && [ "$code" = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def for_tasks(config: StudyConfig, *, cpus: int, gpus: int) -> StudyConfig:
    """A study as tasks of an array run it: one worker each that has all that the task has, unless the study says else.

    The threads of a worker are part of the plan (last bits depend on them), so they are settled here.
    """
    engine = config.engine
    if gpus:
        update: dict[str, object] = {"device": "cuda"}
    else:
        update = {"workers": engine.workers or 1, "threads": engine.threads or max(1, cpus // (engine.workers or 1))}
    return config.model_copy(update={"engine": engine.model_copy(update=update)})


def num_packs(config: StudyConfig) -> int:
    """Packs of the largest stage of a study, also of one that is to run on GPUs which this machine has not.

    Raises:
        RemoraError: data or model cannot be used.
    """
    here = config.engine.model_copy(update={"device": "cpu"})
    context = open_context(config.model_copy(update={"engine": here}))
    stages = plan_stages(context, study_rows(context.config, context.base))
    mean = float(context.encoded("train").lengths.mean())
    there: EngineConfig = config.engine if config.engine.device == "cuda" else here
    how = packing(there, config.protocol.batch_size, mean)
    return max(1, *(len(plan_packs(trials, how)) for trials in (stages.first, stages.final)))


def files_of(config: StudyConfig) -> list[Path]:
    """What a study reads from this machine's disks: data and model, where they are no names of the Hub."""
    data = config.data
    named = (config.model.id, data.path, data.local, data.train, data.validation, data.test)
    return [Path(name) for name in named if name is not None and Path(name).is_absolute() and Path(name).exists()]
