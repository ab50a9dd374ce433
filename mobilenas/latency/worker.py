"""The measuring process: no torch, fixed number of threads, models side by side.

`python -m mobilenas.latency.worker` reads a JSON object per line from stdin and answers each with a
line, until stdin ends. It is idle while its parent works, so the parent's work does not affect the
times:

    {"threads": 1, "provider": "...", "warmup": 5}   the first line; answer {}
    {"path": "...", "held": true}                    load; {"run_ns": ...} or {"failed": "reason"}
    {"order": [4, 0, 2]}                             time what is loaded; {"timings": [[ns, false]]}
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenas.latency.kit_runner import Bench, Job, ModelError

if TYPE_CHECKING:
    from mobilenas.latency.kit_runner import Json


def main() -> int:
    """Answer requests until stdin ends."""
    # Anything that a library prints to stdout goes to stderr; answers go to a duplicate of stdout.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    settings = json.loads(sys.stdin.readline())
    bench, jobs = Bench(**settings), list[Job]()
    answer: dict[str, object] = {}
    gc.disable()
    try:
        while True:
            print(json.dumps(answer), file=answers, flush=True)
            line = sys.stdin.readline()
            if not line:
                return 0
            answer = _answer(bench, jobs, json.loads(line))
    except (BrokenPipeError, KeyboardInterrupt):
        return 1  # the parent is gone or going


def _answer(bench: Bench, jobs: list[Job], request: "Json") -> "Json":
    if "order" in request:
        return {"timings": [jobs[number].time() for number in request["order"]]}
    try:
        jobs.append(bench.load(Path(request["path"]), held=request["held"]))
    except ModelError as error:
        return {"failed": str(error)}
    return {"run_ns": jobs[-1].run_ns}


if __name__ == "__main__":
    sys.exit(main())
