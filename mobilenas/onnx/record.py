"""export.json: what a run has exported."""

from pathlib import Path

from mobilenas.core.errors import FileError
from mobilenas.core.files import inside
from mobilenas.core.records import ExportRecord, Object, read_object

EXPORT_FILE = "export/export.json"
"""Its place in a run folder."""


def read_export(folder: Path) -> Object:
    """Read export.json of a run; FileError unless all its files lie in the run folder."""
    path = folder / EXPORT_FILE
    record = read_object(path, ExportRecord)
    for name in ("onnx", record.get("deployed")):
        if name not in record["files"]:
            raise FileError(f"{path}: files lacks {name!r}")
    for file in record["files"].values():
        for key in ("path", "required_operators"):
            if key in file:
                inside(folder, file[key], path)
    return record
