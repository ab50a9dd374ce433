"""Reads the files of a run folder for the report."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mobilenas.baselines.records import NetworkRecord
from mobilenas.channels.records import TrialLine
from mobilenas.core.records import Json, Part, read_log, read_record
from mobilenas.onnx.misclassified import Misclassified
from mobilenas.onnx.record import EXPORT_FILE, ExportRecord
from mobilenas.report.records import ProfilePart, ResultPart, RunPart, SettingsPart
from mobilenas.report.table import read_networks
from mobilenas.search.records import (
    ArchRecord,
    CandidatesRecord,
    FinalistsRecord,
    ImageSizeRecord,
    RankRecord,
    SearchLine,
)
from mobilenas.spaces.base import Arch
from mobilenas.spaces.channels.space import ChannelsSpace
from mobilenas.spaces.networks import arch_from_dict

_Read = TypeVar("_Read")


_LOG = "search/log.jsonl"


class _AllSettings(Part, frozen=True, kw_only=True):
    settings: Json


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run folder; None or empty if a stage has not run."""

    folder: Path
    """The run folder."""

    @cached_property
    def run(self) -> RunPart | None:
        """run.json."""
        return self._record("run.json", RunPart)

    @cached_property
    def searched(self) -> ArchRecord | None:
        """The searched network."""
        return self._record("arch.json", ArchRecord)

    @cached_property
    def arch(self) -> Arch | None:
        """The searched network's arch."""
        source = str(self.folder / "arch.json")
        return arch_from_dict(self.searched.arch, source) if self.searched else None

    @cached_property
    def epochs(self) -> list[SearchLine]:
        """A line for each epoch of the search; empty in a search for channel sizes."""
        return [] if self._searches_channels else read_log(self.folder / _LOG, SearchLine)

    @cached_property
    def trials(self) -> list[TrialLine]:
        """A line for each trial of a search for channel sizes."""
        return read_log(self.folder / _LOG, TrialLine) if self._searches_channels else []

    @cached_property
    def finalists(self) -> FinalistsRecord | None:
        """The finalists and their scores."""
        return self._record("search/finalists.json", FinalistsRecord)

    @cached_property
    def image_size(self) -> ImageSizeRecord | None:
        """How the image size was chosen, if it was searched."""
        return self._record("search/image-size.json", ImageSizeRecord)

    @cached_property
    def rank(self) -> RankRecord | None:
        """Ranking quality of the supernet."""
        return self._record("search/rank.json", RankRecord)

    @cached_property
    def export(self) -> ExportRecord | None:
        """The exported files."""
        return self._record(EXPORT_FILE, ExportRecord)

    @cached_property
    def exports_of_others(self) -> dict[str, ExportRecord]:
        """Exported files of compared networks, by name."""
        exports = (
            (entry.name, PurePosixPath(entry.onnx).parent / EXPORT_FILE)
            for entry in self.entries
            if entry.kind != "searched"
        )
        records = ((name, self._record(str(path), ExportRecord)) for name, path in exports)
        return {name: record for name, record in records if record}

    @cached_property
    def misclassified(self) -> Misclassified | None:
        """The misclassified images of the exported file."""
        return self._record("export/misclassified.json", Misclassified)

    @cached_property
    def candidates(self) -> CandidatesRecord | None:
        """The candidates from discretization."""
        return self._record("search/candidates.json", CandidatesRecord)

    @cached_property
    def profile(self) -> ProfilePart | None:
        """The device profile, as at the start of the run."""
        return self._record("profile.json", ProfilePart)

    @cached_property
    def result(self) -> ResultPart | None:
        """result.json."""
        return self._record("result.json", ResultPart)

    @cached_property
    def entries(self) -> list[NetworkRecord]:
        """All networks of the comparison."""
        path = self.folder / "compare.json"
        return read_networks(path) if path.exists() else []

    @property
    def settings(self) -> SettingsPart:
        """The settings of the run."""
        return self.run.settings if self.run else SettingsPart()

    @property
    def limits(self) -> dict[str, float]:
        """The budgets by cost."""
        return {budget.cost: budget.limit for budget in self.run.budgets} if self.run else {}

    @property
    def all_settings(self) -> Json:
        """All settings, as in run.json."""
        part = self._record("run.json", _AllSettings)
        return part.settings if part else {}

    @property
    def _searches_channels(self) -> bool:
        return self.settings.space == ChannelsSpace.family

    def _record(self, name: str, kind: type[_Read]) -> _Read | None:
        path = self.folder / name
        return read_record(path, kind) if path.exists() else None
