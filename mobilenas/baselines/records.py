"""Records of compare.json, and of differences between its networks over seeds."""

from mobilenas.core.records import Amount, Count, Json, Number, Percent, Record, Share, Some


class Trained(Record, frozen=True, kw_only=True):
    """A trained network of a comparison, before its latency is measured."""

    name: str
    kind: str
    seed: Count | None
    flops: Count | None
    params: Count | None
    memory: Count | None
    predicted_ms: Amount | None
    top1: Percent
    top1_fp32: Percent | None = None
    better_than_chance: bool | None = None
    val_top1: Percent | None = None
    train_seconds: Amount | None = None
    trained_in: str | None = None
    network: str | None = None
    epochs: Some | None = None
    recipe_epochs: Some | None = None
    onnx: str
    arch: Json | None = None
    size_bytes: Count


class NetworkRecord(Trained, frozen=True, kw_only=True):
    """A network of compare.json."""

    latency_ms: Amount
    latency_interval_ms: Amount | None = None
    latency_iqr_ms: Amount | None = None
    unsteady: bool | None = None
    run: str | None = None
    uncounted: str | None = None
    exported: bool | None = None

    def cost(self, name: str) -> float:
        """Return the cost `name`, "flops" or "latency" (ms); 0: unknown."""
        return self.latency_ms if name == "latency" else self.flops or 0


class ExternalRecord(NetworkRecord, frozen=True, kw_only=True):
    """A file of another tool in compare.json; unknown fields are null."""

    predicted_ms: None
    top1_fp32: None
    val_top1: None
    train_seconds: None
    arch: None
    run: None
    uncounted: str | None
    exported: bool


class Difference(Record, frozen=True, kw_only=True):
    """The paired difference of two kinds of networks over the same seeds, in points of top-1."""

    mean: Number
    sd: Number | None
    seeds: Some
    p: Share | None
    verdict: str


class MeanStd(Record, frozen=True, kw_only=True):
    """Mean and sample standard deviation, the latter null for a single value."""

    mean: Number
    sd: Number | None
