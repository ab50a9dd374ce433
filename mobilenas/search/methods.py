"""The published methods as presets of the parts of a search; the loop knows only parts."""

from dataclasses import dataclass

from mobilenas.core.errors import MobileNASError
from mobilenas.core.registry import Registry
from mobilenas.core.settings import Fields
from mobilenas.search.parts import Order, Sampling
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.cell.settings import EdgeWeights
from mobilenas.supernet.schedules import EntropySchedule, Temperature, parse_terms
from mobilenas.supernet.settings import SamplerSettings

OFF = EntropySchedule(weight=0.0)
FIXED = Temperature(start=1.0, end=1.0)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A preset of parts, each of which an option can change."""

    paper: str
    """Where it was published."""
    improves: str
    """What it was published to improve."""
    sampler: SamplerSettings
    """Which channels enter a mixed operation."""
    sampling: Sampling = "softmax"
    """How a step samples the candidates."""
    temperature: Temperature = FIXED
    """Temperature tau over time."""
    entropy: EntropySchedule = OFF
    """Entropy losses over time."""
    zero_op: bool = False
    """Cells: whether the search includes the zero operation, which no final network has."""
    edge_weights: EdgeWeights = "none"
    """Cells: how a node weights its edges."""
    warmup: float = 0.3
    """Share of the epochs that train weights only."""
    prior: bool = False
    """Mobile: whether the prior proposes the finalists (`search/prior.py`)."""
    orders: tuple[Order, ...] = (1,)
    """Published orders of the alphas' step."""


_BUILT_IN = {
    "darts": Method(
        paper="Liu, Simonyan, Yang 2019, arXiv 1806.09055",
        improves="search by gradients instead of by sampling",
        sampler=SamplerSettings(name="full", partial=1),
        zero_op=True,
        warmup=0.0,
        orders=(1, 2),
    ),
    "pc-darts": Method(
        paper="Xu et al. 2020, arXiv 1907.05737",
        improves="memory and time: a random part of the channels",
        sampler=SamplerSettings(name="random", partial=4),
        zero_op=True,
        edge_weights="softmax",
    ),
    "cpm": Method(
        paper="Pan, Zheng, Zou 2024",
        improves="which channels: ranked by importance; certainty by temperature",
        sampler=SamplerSettings(name="ranked", partial=4, attention="se"),
        temperature=Temperature(start=1.0, end=0.1),
        edge_weights="softmax",
    ),
    "adarts": Method(
        paper="Xue, Qin 2022, arXiv 2208.00791",
        improves="which channels: chosen by attention; fewer skip connections",
        sampler=SamplerSettings(name="attention", partial=4, attention="cbam"),
        edge_weights="softmax",
    ),
    "da2s": Method(
        paper="Tian et al. 2020, arXiv 2007.03154",
        improves="the discretization gap, by entropy losses",
        sampler=SamplerSettings(name="full", partial=1),
        entropy=EntropySchedule(weight=0.3),
        edge_weights="clipped",
        warmup=0.0,
    ),
    "mobilenas": Method(
        paper="this project's own combination",
        improves="networks under a budget (docs/results/search.md)",
        sampler=SamplerSettings(name="attention", partial=4),
        sampling="gumbel",
        temperature=Temperature(),
        entropy=EntropySchedule(weight=0.1, terms=("operations",)),
        edge_weights="softmax",
        warmup=0.5,
        prior=True,
    ),
}
METHODS = Registry[Method]("method", _BUILT_IN)
"""Methods by name, the values of `--method`."""
DEFAULT_METHOD = "mobilenas"

# DARTS trains its alphas with Adam, 20,000 steps of 3e-4, which change a logit by 6 at most
_MAX_CHANGE, _MAX_RATE = 6.0, 0.1
_MOBILE_ALPHA_RATE = 0.03
_DEFAULT_K = 4

_LONG_SHARE, _SHORT_SHARE = 0.4, 0.07


def default_search_epochs(final_epochs: int, *, alphas_decide: bool) -> int:
    """Return the default number of epochs of a search, given those of final training.

    If finalists decide instead of alphas, the epochs are few, and warm-up only; then search and
    finalists together take about as long as the final training.
    """
    share, minimum = (_LONG_SHARE, 2) if alphas_decide else (_SHORT_SHARE, 1)
    return max(minimum, round(final_epochs * share))


def settings_for(
    name: str,
    parts: Fields,
    *,
    cells: bool,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    alpha_steps: int,
) -> SearchSettings:
    """Return the settings of a method with some of its parts changed.

    `alpha_steps` is the number of the alphas' steps per epoch. Parts that concern edges are for
    `cells` only, and ignored otherwise.
    """
    method = METHODS[name]
    given = {part: value for part, value in parts.items() if value is not None}
    order = given.get("order", 1)
    if order not in method.orders:
        known = ", ".join(name for name, other in METHODS.items() if order in other.orders)
        raise MobileNASError(
            f"--order {order} is not published for {name}" + f"; it is for {known}" * bool(known)
        )
    # half an epoch is rounded up, because alphas learn nothing but costs in a few steps
    warmup = min(given.get("warmup", int(epochs * method.warmup + 0.5)), epochs)
    steps = max(1, alpha_steps * (epochs - warmup))
    given_tau = given.get("temperature")
    plain = {part: given[part] for part in ("constraint", "strength", "on_collapse") & given.keys()}
    return SearchSettings(
        epochs=epochs,
        warmup=warmup,
        batch_size=batch_size,
        sampling=given.get("sampling", method.sampling),
        learning_rate=learning_rate,
        alpha_learning_rate=min(_MAX_CHANGE / steps, _MAX_RATE) if cells else _MOBILE_ALPHA_RATE,
        order=order,
        zero_op=cells and given.get("zero_op", method.zero_op),
        edge_weights=given.get("edge_weights", method.edge_weights) if cells else "none",
        sampler=_sampler(method.sampler, given),
        temperature=method.temperature if given_tau is None else Temperature.parse(given_tau),
        entropy=_entropy(method.entropy, given, cells),
        prior=not cells and bool(given.get("prior", method.prior)),
        **plain,
    )


def _sampler(own: SamplerSettings, given: Fields) -> SamplerSettings:
    name, fraction = given.get("sampler", own.name), given.get("channel_fraction")
    if name == "full":
        if fraction not in (None, "1", "1/1"):
            raise MobileNASError(
                f"--channel-fraction {fraction} needs --sampler random, attention or ranked: full "
                "takes every channel"
            )
        return SamplerSettings(name=name, partial=1, attention=given.get("attention"))
    default = own.partial if own.partial > 1 else _DEFAULT_K
    return SamplerSettings(
        name=name,
        partial=default if fraction is None else parse_fraction(fraction),
        attention=given.get("attention", own.attention if name == own.name else None),
    )


def _entropy(own: EntropySchedule, given: Fields, cells: bool) -> EntropySchedule:
    terms = own.terms
    if "entropy_terms" in given:
        terms = parse_terms(given["entropy_terms"])
    return EntropySchedule(
        weight=given.get("entropy", own.weight),
        terms=terms if cells else ("operations",),
        shape=given.get("entropy_schedule", own.shape),
        start=own.start,
    )


def parse_fraction(text: str) -> int:
    """Parse `1/4`: K = 4."""
    top, slash, bottom = text.partition("/")
    if text == "1" or (top == "1" and slash and bottom in ("1", "2", "4", "8")):
        return int(bottom or 1)
    raise MobileNASError(f"channel_fraction {text!r} cannot be read: write 1, 1/2, 1/4 or 1/8")
