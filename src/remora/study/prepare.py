"""Settings of a study as its run directory keeps them: how they are written before anything runs, and found again."""

import shlex
from collections.abc import Callable
from pathlib import Path

from remora.config.load import dump_yaml, fingerprint, read_study
from remora.config.schema import StudyConfig
from remora.errors import ConfigError
from remora.results.schema import Study
from remora.results.store import STUDY_FILE, read_record, write_atomic
from remora.study.coordinator import coordinating
from remora.study.progress import Progress


def resume_config(config: StudyConfig, run_dir: Path) -> tuple[StudyConfig, str]:
    """The configuration as it was cut when the run directory was begun, and the fingerprint of what was asked for.

    Raises:
        ConfigError: the folder holds another study.
    """
    origin = fingerprint(config)
    if not (run_dir / STUDY_FILE).is_file():
        return config, origin
    begun = read_record(run_dir / STUDY_FILE, Study)
    written = read_study(run_dir / "study.yaml")
    if origin == begun.fingerprint or origin == fingerprint(written):
        return written, begun.fingerprint
    raise ConfigError(
        f"{run_dir} holds another study ({begun.name}, {begun.fingerprint[:8]})",
        "give another --out, or go on with that study: remora resume " + shlex.quote(str(run_dir)),
    )


def with_absolute_paths(config: StudyConfig) -> StudyConfig:
    """The same study, readable from any working directory: workers and a later resume may have another."""

    def absolute(value: str | None) -> str | None:
        return str(Path(value).resolve()) if value is not None and Path(value).exists() else value

    data = config.data.model_copy(
        update={name: absolute(getattr(config.data, name)) for name in ("path", "local", "train", "validation", "test")}
    )
    return config.model_copy(
        update={"data": data, "model": config.model.model_copy(update={"id": absolute(config.model.id)})}
    )


def prepare_study(
    config: StudyConfig, run_dir: Path, settle: Callable[[StudyConfig], StudyConfig], progress: Progress
) -> StudyConfig:
    """Write the settings of a study that other processes will run, begun or not; nothing is trained.

    Args:
        config: the study.
        run_dir: its run directory; made when missing.
        settle: gives the settings that those processes shall have.
        progress: see `coordinating`.

    Returns:
        The settings written.

    Raises:
        ConfigError: the folder holds another study.
        ResourceError: the study runs now.
    """
    with coordinating(run_dir, config.engine.lease_seconds, progress, afterwards="released"):
        config = with_absolute_paths(config)
        try:
            settings, _ = resume_config(settle(config), run_dir)
        except ConfigError:  # it may have been begun by another command, which settled nothing
            settings, _ = resume_config(config, run_dir)
        settings = settle(settings)
        write_atomic(run_dir / "study.yaml", dump_yaml(settings).encode())
    return settings
