"""Checks a search for a collapse after every epoch, and reacts as the settings say."""

import copy

from mobilenas.core.files import State
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.cost.budget import PENALTY
from mobilenas.search.collapse import Signals, alarms, last_good
from mobilenas.search.loop import Searcher
from mobilenas.search.records import SearchLine


class CollapseMonitor:
    """Keeps the signals and the alphas of every epoch since warm-up, and checks for alarms."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.stopped = False
        self._signals: list[Signals] = []
        self._alphas: list[State] = []

    def update(self, record: SearchLine) -> list[str]:
        """Add an epoch's log line; return its alarms, after stopping or rolling back if set."""
        searcher, settings = self.searcher, self.searcher.settings
        if searcher.epochs_done <= settings.warmup:
            return []
        self._signals.append(self._signals_of(record))
        self._alphas.append(copy.deepcopy(dict(searcher.alphas.state_dict())))
        found = alarms(self._signals)
        if found and settings.on_collapse != "warn":
            self.stopped = True
            if settings.on_collapse == "rollback":
                epochs = [past.epoch for past in self._signals]
                good = last_good(self._signals)
                # if every epoch has an alarm, none is better than the first
                then = epochs.index(good) if good in epochs else 0
                searcher.alphas.load_state_dict(self._alphas[then])
        return found

    def _signals_of(self, record: SearchLine) -> Signals:
        searcher = self.searcher
        s = searcher.settings
        is_lowered = s.entropy.weight > 0 or s.temperature.end < s.temperature.start
        kept = searcher.space.kept_edges
        return Signals(
            epoch=record.epoch,
            skips=record.skips["normal"] if kept else 0,
            kept=kept,
            utilization=None if kept or s.constraint == PENALTY else record.utilization,
            entropy=record.uncertainty,
            entropy_wanted=is_lowered,
            gap_points=record.gap_estimate,
        )

    def state_dict(self) -> State:
        """Return the state for resuming."""
        return {
            "stopped": self.stopped,
            "signals": to_plain(self._signals),
            "alphas": self._alphas,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.stopped, self._alphas = state["stopped"], state["alphas"]
        self._signals = from_plain(list[Signals], state["signals"], "signals")
