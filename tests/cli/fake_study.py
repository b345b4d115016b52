"""A stand-in for `remora.study.api`: writes a synthetic run directory in place of training one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from remora.config.schema import StudyConfig
from remora.results.summary import summarise
from remora.results.summary_schema import StudySummary
from remora.study.progress import Progress
from tests.results.synthetic import build_run


@dataclass(frozen=True, kw_only=True)
class FakePlan:
    num_trials: int = 40
    seconds: float = 300.0
    peak_bytes: int = 600_000_000
    trials_per_pack: int = 8
    cuts: tuple[str, ...] = ()
    reductions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FakeResult:
    run_dir: Path
    summary: StudySummary
    exit_code: int


@dataclass(kw_only=True)
class FakeStudy:
    """Remembers what it was asked for.

    Args:
        folder: where run directories go when none is named.
        exit_code: what a run ends with.
        during: called in the middle of a run.
        plan: what planning gives.
    """

    folder: Path
    exit_code: int = 0
    during: Callable[[], None] = lambda: None
    plan: FakePlan = field(default_factory=FakePlan)
    ran: list[tuple[StudyConfig, Path | None]] = field(default_factory=list[tuple[StudyConfig, Path | None]])
    planned: list[StudyConfig] = field(default_factory=list[StudyConfig])

    def run_study(self, config: StudyConfig, out: Path | None, *, progress: Progress) -> FakeResult:
        self.ran.append((config, out))
        progress.stage("final", 1)
        progress.trial_started("lora")
        progress.trial_step("lora", 1, 2, 0.5, None)
        self.during()
        progress.trial_finished("lora", "done", 0.9)
        progress.finished()
        run_dir = out or self.folder / "run"
        build_run(run_dir, num_seeds=2, num_test=60)
        return FakeResult(run_dir=run_dir, summary=summarise(run_dir), exit_code=self.exit_code)

    def plan_study(self, config: StudyConfig) -> FakePlan:
        self.planned.append(config)
        return self.plan

    def module(self) -> ModuleType:
        """The stand-in for the module `remora.study.api`."""
        module = ModuleType("remora.study.api")
        vars(module).update(run_study=self.run_study, plan_study=self.plan_study)
        return module
