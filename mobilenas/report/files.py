"""The files of a run folder as the report reads them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from mobilenas.core.records import (
    ArchRecord,
    CandidatesRecord,
    ExportRecord,
    FinalistsRecord,
    MistakesRecord,
    ProfilePart,
    RankRecord,
    ResultRecord,
    RunRecord,
    read_log,
    read_object,
)
from mobilenas.onnx.record import EXPORT_FILE
from mobilenas.report.table import read_networks
from mobilenas.spaces.base import Arch
from mobilenas.spaces.networks import arch_from_dict


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run folder; None or empty where a stage is not done."""

    folder: Path
    """RUN."""

    @cached_property
    def run(self) -> dict[str, Any]:
        """What was asked for."""
        return self._json("run.json", RunRecord) or {}

    @cached_property
    def found(self) -> dict[str, Any] | None:
        """The found network."""
        return self._json("arch.json", ArchRecord)

    @cached_property
    def arch(self) -> Arch | None:
        """Its arch."""
        source = str(self.folder / "arch.json")
        return arch_from_dict(self.found["arch"], source) if self.found else None

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """A line for each epoch of the search."""
        return read_log(self.folder / "search/log.jsonl")

    @cached_property
    def finalists(self) -> dict[str, Any] | None:
        """The round of finalists."""
        return self._json("search/finalists.json", FinalistsRecord)

    @cached_property
    def rank(self) -> dict[str, Any] | None:
        """Ranking quality."""
        return self._json("search/rank.json", RankRecord)

    @cached_property
    def export(self) -> dict[str, Any] | None:
        """The exported files."""
        return self._json(EXPORT_FILE, ExportRecord)

    @cached_property
    def exports_of_others(self) -> dict[str, dict[str, Any]]:
        """The exported files of the networks it is compared with, by name, where there are any."""
        found = (
            (entry["name"], PurePosixPath(entry["onnx"]).parent / EXPORT_FILE)
            for entry in self.entries
            if entry["kind"] != "found"
        )
        records = ((name, self._json(str(path), ExportRecord)) for name, path in found)
        return {name: record for name, record in records if record}

    @cached_property
    def mistakes(self) -> dict[str, Any] | None:
        """What the exported file got wrong."""
        return self._json("export/mistakes.json", MistakesRecord)

    @cached_property
    def candidates(self) -> dict[str, Any]:
        """What discretization gave."""
        return self._json("search/candidates.json", CandidatesRecord) or {}

    @cached_property
    def profile(self) -> dict[str, Any] | None:
        """The device profile as it was when the run began."""
        return self._json("profile.json", ProfilePart)

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """What scripts read."""
        return self._json("result.json", ResultRecord)

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Every network of the comparison."""
        path = self.folder / "compare.json"
        return read_networks(path) if path.exists() else []

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of the run."""
        settings: dict[str, Any] = self.run.get("settings", {})
        return settings

    @property
    def limits(self) -> dict[str, int]:
        """The budgets by cost."""
        return {budget["cost"]: budget["limit"] for budget in self.run.get("budgets", [])}

    def _json(self, name: str, kind: type) -> dict[str, Any] | None:
        path = self.folder / name
        return read_object(path, kind) if path.exists() else None
