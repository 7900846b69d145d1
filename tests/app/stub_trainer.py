"""Stands for `onerec run`: writes status, metrics and obeys control.json, with no library at all.

As a program: `python stub_trainer.py HOME RUN STEPS SECONDS_A_STEP`.
"""

import json
import os
import sys
import time
from pathlib import Path


def write(path: Path, value: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)


def created() -> float:
    import psutil

    return psutil.Process().create_time()


def main(home: str, name: str, steps: int, pause: float) -> None:
    path = Path(home) / "runs" / name
    path.mkdir(parents=True, exist_ok=True)
    began, first = time.time(), created()
    write(path / "recipe.json", {"name": "stub", "recipe": {}, "dataset": {"name": "toy"}})

    def status(step: int, state: str, message: str = "") -> None:
        now = {"pid": os.getpid(), "process_started": first, "started": began}
        now |= {"heartbeat": time.time(), "stage": "pretrain", "step": step, "of": steps}
        write(path / "status.json", now | {"state": state, "message": message})

    taken = 0
    with (path / "metrics.jsonl").open("a") as metrics:
        for step in range(1, steps + 1):
            while True:
                control = json.loads((path / "control.json").read_text())
                if control["stop"]:
                    status(step - 1, "stopped", "stopped as asked")
                    return
                if not control["pause"] or control["steps"] > taken:
                    taken += bool(control["pause"])
                    break
                status(step - 1, "paused")
                time.sleep(0.02)
            row = {"stage": "pretrain", "step": step, "of": steps, "seconds": time.time() - began}
            row |= {"loss": 9 / step, "loss_1": 3 / step, "loss_2": 3 / step, "loss_3": 3 / step}
            row |= {"grad_norm": 1.0, "lr": 0.001, "samples_per_second": 100.0}
            row |= {"flops_per_second": 2e9}
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            status(step, "running")
            time.sleep(pause)
    done = path / "pretrain"
    done.mkdir(exist_ok=True)
    write(done / "done.json", {"finished": time.time()})
    status(steps, "done", "finished")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
