import io

from rich.console import Console

from remora.cli.progress import Board, LineProgress, LiveProgress, SilentProgress, choose_progress
from remora.study.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(progress: LiveProgress) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=False).print(progress.render())
    return stream.getvalue()


def lines_and_clock() -> tuple[list[str], Clock, LineProgress]:
    clock, lines = Clock(), list[str]()
    return lines, clock, LineProgress(lines.append, Board(clock=clock), lambda: "12:00:00")


def test_lines_say_stage_end_of_trial_and_time_left() -> None:
    lines, clock, progress = lines_and_clock()
    progress.stage("tuning", 3)
    progress.trial_started("lora-s0")
    clock.now = 10
    progress.trial_finished("lora-s0", "done", 0.8125)
    progress.trial_finished("dora-s0", "diverged", None)
    assert lines == [
        "12:00:00 tuning: 3 trials",
        "12:00:00 tuning 1/3: lora-s0 done 81.2, about 20 s left",
        "12:00:00 tuning 2/3: dora-s0 diverged, about 5 s left",
    ]


def test_kept_trials_do_not_count_as_pace() -> None:
    lines, clock, progress = lines_and_clock()
    progress.stage("final", 4)
    progress.trial_finished("a", "kept", 0.5)
    assert lines[-1] == "12:00:00 final 1/4: a kept 50.0"
    clock.now = 6
    progress.trial_finished("b", "done", 0.5)
    assert lines[-1].endswith("about 12 s left")


def test_a_sign_of_life_only_after_a_silence() -> None:
    lines, clock, progress = lines_and_clock()
    progress.stage("final", 1)
    for second in range(61):
        clock.now = second
        progress.trial_step("lora", second, 100, 0.5, 0.75)
    assert lines[1:] == [
        "12:00:00 final: lora at step 30/100, loss 0.500, metric 75.0",
        "12:00:00 final: lora at step 60/100, loss 0.500, metric 75.0",
    ]


def test_live_table_shows_bars_counts_and_brackets_as_text() -> None:
    clock = Clock()
    progress = LiveProgress(Console(file=io.StringIO()), Board(clock=clock))
    progress.board.stage("final", 2)
    progress.trial_started("lora[red]")
    progress.trial_step("lora[red]", 63, 189, 0.4123, None)
    progress.trial_step("lora[red]", 70, 189, 0.4, 0.9)
    clock.now = 30
    progress.trial_finished("ia3", "failed", None)
    text = drawn(progress)
    assert "lora[red]" in text
    assert "70/189" in text
    assert "0.400" in text
    assert "90.0" in text
    assert "1/2 trials" in text
    assert "about 30 s left" in text
    assert "failed" in text


def test_live_table_keeps_running_trials_when_there_are_too_many() -> None:
    progress = LiveProgress(Console(file=io.StringIO()))
    progress.board.stage("tuning", 40)
    for number in range(30):
        progress.trial_finished(f"old-{number}", "done", 0.5)
    for number in range(5):
        progress.trial_started(f"new-{number}")
    names = [row.trial for row in progress.board.visible()]
    assert names == [f"old-{n}" for n in range(21, 30)] + [f"new-{n}" for n in range(5)]


def test_live_progress_runs_its_life_and_leaves_a_line_per_stage() -> None:
    stream = io.StringIO()
    progress = LiveProgress(Console(file=stream, width=100, force_terminal=True))
    progress.stage("tuning", 1)
    progress.note("3 texts were truncated")
    progress.trial_finished("a", "done", 0.5)
    progress.stage("final", 1)
    progress.trial_finished("b", "done", 0.5)
    progress.finished()
    text = stream.getvalue()
    assert "3 texts were truncated" in text
    assert "tuning: 1/1 trials in" in text
    assert "final: 1/1 trials in" in text


def test_silent_passes_notes_on(capsys: object) -> None:
    progress: Progress = choose_progress(silent=True)
    assert isinstance(progress, SilentProgress)
    progress.stage("tuning", 1)
    progress.trial_started("a")
    progress.trial_step("a", 1, 2, 0.1, None)
    progress.trial_finished("a", "done", 0.5)
    progress.finished()


def test_without_a_terminal_lines_are_chosen() -> None:
    assert isinstance(choose_progress(silent=False), LineProgress)
