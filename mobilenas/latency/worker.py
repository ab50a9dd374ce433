"""The process that measures: no torch, fixed threads, models side by side.

`python -m mobilenas.latency.worker` reads one JSON object a line from stdin and answers each with
one line, until stdin ends. It has nothing to do but wait while its parent works, so that the
parent's work is not in the times:

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
    """Answer requests until there are no more."""
    # Whatever a library prints to stdout goes to stderr; the answers have a file of their own.
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
