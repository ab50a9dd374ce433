"""The files of a run folder as the report reads them."""

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
    """The files of a run folder; None or empty where a stage is not done."""

    folder: Path
    """RUN."""

    @cached_property
    def run(self) -> RunPart | None:
        """What was asked for."""
        return self._record("run.json", RunPart)

    @cached_property
    def searched(self) -> ArchRecord | None:
        """The searched network."""
        return self._record("arch.json", ArchRecord)

    @cached_property
    def arch(self) -> Arch | None:
        """Its arch."""
        source = str(self.folder / "arch.json")
        return arch_from_dict(self.searched.arch, source) if self.searched else None

    @cached_property
    def epochs(self) -> list[SearchLine]:
        """A line for each epoch of the search; none where it was for channel sizes."""
        return [] if self._searches_channels else read_log(self.folder / _LOG, SearchLine)

    @cached_property
    def trials(self) -> list[TrialLine]:
        """A line for each trial of channel sizes."""
        return read_log(self.folder / _LOG, TrialLine) if self._searches_channels else []

    @cached_property
    def finalists(self) -> FinalistsRecord | None:
        """The round of finalists."""
        return self._record("search/finalists.json", FinalistsRecord)

    @cached_property
    def image_size(self) -> ImageSizeRecord | None:
        """How the side of the images was chosen, where it was searched."""
        return self._record("search/image-size.json", ImageSizeRecord)

    @cached_property
    def rank(self) -> RankRecord | None:
        """Ranking quality."""
        return self._record("search/rank.json", RankRecord)

    @cached_property
    def export(self) -> ExportRecord | None:
        """The exported files."""
        return self._record(EXPORT_FILE, ExportRecord)

    @cached_property
    def exports_of_others(self) -> dict[str, ExportRecord]:
        """The exported files of the networks it is compared with, by name, where there are any."""
        exports = (
            (entry.name, PurePosixPath(entry.onnx).parent / EXPORT_FILE)
            for entry in self.entries
            if entry.kind != "searched"
        )
        records = ((name, self._record(str(path), ExportRecord)) for name, path in exports)
        return {name: record for name, record in records if record}

    @cached_property
    def misclassified(self) -> Misclassified | None:
        """What the exported file got wrong."""
        return self._record("export/misclassified.json", Misclassified)

    @cached_property
    def candidates(self) -> CandidatesRecord | None:
        """What discretization gave."""
        return self._record("search/candidates.json", CandidatesRecord)

    @cached_property
    def profile(self) -> ProfilePart | None:
        """The device profile as it was when the run began."""
        return self._record("profile.json", ProfilePart)

    @cached_property
    def result(self) -> ResultPart | None:
        """What scripts read."""
        return self._record("result.json", ResultPart)

    @cached_property
    def entries(self) -> list[NetworkRecord]:
        """Every network of the comparison."""
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
        """The settings as run.json has them."""
        part = self._record("run.json", _AllSettings)
        return part.settings if part else {}

    @property
    def _searches_channels(self) -> bool:
        return self.settings.space == ChannelsSpace.family

    def _record(self, name: str, kind: type[_Read]) -> _Read | None:
        path = self.folder / name
        return read_record(path, kind) if path.exists() else None
