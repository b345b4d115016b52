"""A fake run directory as successive halving would have left it."""

import json
from pathlib import Path

from remora.results.store import STUDY_FILE, read_run

NUM_STEPS, QUARTER, HALF = 114, 29, 57  # 38 steps per epoch, 3 epochs


def halve(run_dir: Path) -> Path:
    """Rewrite the tuning trials of every row: the third rate goes on to its end, the second stops at half."""
    run = read_run(run_dir)
    for plan in run.study.rows:
        by_rate = sorted(run.of(plan.label, "tuning"), key=lambda trial: float(str(trial.hyperparameters["lr"])))
        names = [trial.trial for trial in by_rate]
        for place, name in enumerate(names):
            path = run_dir / "trials" / name / "result.json"
            values = json.loads(path.read_text())
            score = 0.5 + place / 100
            first = {"step": QUARTER, "went_on": {names[1]: 0.51, names[2]: 0.52}}
            second = {"step": HALF, "went_on": {names[2]: 0.62}}
            rungs = [{"num_steps": NUM_STEPS, "score": score, "loss": 1.5, **rung} for rung in (first, second)]
            values["rungs"] = rungs if place in (1, 2) else rungs[:1]
            if place != 2:
                stopped = {"status": "stopped", "metrics": {}, "losses": {}, "steps": values["rungs"][-1]["step"]}
                values |= {**stopped, "curve": []}
            path.write_text(json.dumps(values))
    path = run_dir / STUDY_FILE
    study = json.loads(path.read_text())
    study["protocol"]["stop"] = "halving"
    path.write_text(json.dumps(study))
    return run_dir
