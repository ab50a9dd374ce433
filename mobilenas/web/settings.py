"""Settings of serving pages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilenas.core.errors import MobileNASError
from mobilenas.core.setting import check_settings, setting

Backend = Literal["wasm", "webgpu"]


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a page is served."""

    backend: Backend = setting(
        "wasm",
        help="What `profile serve` times: WebAssembly on the processor, or WebGPU.",
        group="Measurement",
    )
    host: str = setting(
        "127.0.0.1",
        help="Address to listen on; 0.0.0.0 for other devices in the network.",
        group="Output",
        metavar="ADDRESS",
    )
    port: int = setting(
        8765, help="Port to listen on; 0 for any that is free.", group="Output", low=0, high=65535
    )
    idle: int = setting(
        900,
        help="Stop the server after this many seconds without a request.",
        group="Output",
        low=1,
        high=10**6,
    )
    certificate: Path | None = setting(
        None, help="Serve over HTTPS with this certificate, in PEM format.", group="Output"
    )
    key: Path | None = setting(
        None,
        help="Private key of the certificate.",
        default_text="in the certificate's file",
        group="Output",
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_settings(self)
        if self.key and not self.certificate:
            raise MobileNASError("--key goes with --certificate only")
