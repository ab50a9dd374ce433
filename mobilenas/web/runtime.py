"""onnxruntime-web: the files with which pages run models, and their download.

`python -m mobilenas.web.runtime` (`make web`) installs them beside the pages; it needs npm. Version
and checksum of the archive are fixed here, so the registry is not trusted.
"""

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from itertools import chain
from pathlib import Path

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.files import read_bytes, write_bytes
from mobilenas.web.settings import Backend

VERSION = "1.30.0"
RUNTIME = f"onnxruntime-web {VERSION}"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""sha512 of the archive in npm's format."""
FILES: dict[Backend, tuple[str, ...]] = {
    "wasm": (
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
    ),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}
"""Files of its folder dist: WebAssembly with SIMD and threads, 14 MB; with WebGPU, 27 MB."""
STATIC = Path(__file__).with_name("static")
FOLDER = STATIC / "ort"

_MAX_ARCHIVE_BYTES = 200_000_000


def check_runtime(backend: Backend) -> None:
    """Raise unless the files of this backend are installed."""
    if not all((FOLDER / name).is_file() for name in FILES[backend]):
        raise FileError(
            f"{FOLDER} lacks {RUNTIME} for {backend}; with npm on the PATH, `make web` or "
            "`python -m mobilenas.web.runtime` puts it there"
        )


def unpack(archive: Path, folder: Path = FOLDER) -> None:
    """Copy the files from an archive; FileError if its checksum is wrong."""
    found = base64.b64encode(hashlib.sha512(read_bytes(archive, _MAX_ARCHIVE_BYTES)).digest())
    if found.decode() != INTEGRITY:
        raise FileError(f"{archive} is not onnxruntime-web {VERSION}: its sha512 differs")
    with tarfile.open(archive) as content:
        for name in chain(*FILES.values()):
            file = content.extractfile(f"package/dist/{name}")
            assert file is not None  # the archive with this checksum has it
            write_bytes(folder / name, file.read())


def _fetch(folder: str) -> Path:
    command = ["npm", "pack", "--silent", f"onnxruntime-web@{VERSION}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MobileNASError("npm is not on the PATH") from error
    if done.returncode != 0:
        raise MobileNASError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return Path(folder, done.stdout.split()[-1])


def main() -> int:
    """Fetch the archive with npm and unpack it."""
    try:
        with tempfile.TemporaryDirectory(prefix="mobilenas-") as folder:
            unpack(_fetch(folder))
    except MobileNASError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{FOLDER}: onnxruntime-web {VERSION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
