"""Progress on stderr: live on a terminal, plain lines elsewhere."""

import sys
from contextlib import AbstractContextManager, nullcontext

from mobilenas.core.progress import NullReporter, Reporter

from .plain import PlainReporter


def make_reporter(quiet: bool) -> AbstractContextManager[Reporter]:
    """Choose how progress is shown: on stderr, so that `--json` is not affected."""
    if quiet:
        return nullcontext(NullReporter())
    if sys.stderr.isatty():
        from .live import LiveReporter

        return LiveReporter()
    return PlainReporter()
