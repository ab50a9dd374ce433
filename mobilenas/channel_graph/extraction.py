"""State of the extraction while rules visit the nodes of a traced model."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mobilenas.channel_graph.groups import Dimension, Graph, Layer, Part
from mobilenas.channel_graph.tracing import BATCH, NodeValue, Traced
from mobilenas.channel_graph.variables import Layout, Run, Unsupported, Variables, repeated
from mobilenas.core.settings import counted

NORM_TENSORS = (("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0))
"""Names and axes of the per-channel tensors of norms and PReLU."""
NO_LAYER = "no layer makes these channels"
"""Why the size of a constant, or of a parameter outside of layers, cannot change."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor of the graph."""

    shape: tuple[int, ...]
    """Current sizes, for a batch of `BATCH`."""
    layouts: tuple[Layout, ...]
    """Layout of each dimension; empty if the size depends on no channel count."""
    name: str = ""
    """State-dict name of a parameter or buffer."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """A number that the model's code computed from shapes: a linear combination and a constant."""

    value: int
    """Current value."""
    terms: tuple[tuple[Fraction, Layout], ...]
    """Coefficients of the layouts' numbers of entries."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A node with the values of its arguments."""

    node: fx.Node
    """The node."""
    name: str
    """Name of the function, method or module class."""
    args: tuple[NodeValue, ...]
    """Values, lengths, plain numbers, and tuples of them."""
    kwargs: dict[str, NodeValue]
    """Likewise."""
    result: NodeValue
    """Result of the node: tensors without data."""
    module: nn.Module | None
    """The called layer."""

    def get(self, place: int, name: str, default: NodeValue = None) -> NodeValue:
        """Return an argument given by position or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def x(self) -> Value:
        """The input tensor."""
        x = self.get(0, "input")
        if not isinstance(x, Value):
            raise Unsupported("its first argument is no tensor")
        return x

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        if not isinstance(self.result, Tensor):
            raise Unsupported("it gives no tensor")
        return tuple(self.result.shape)

    def values(self) -> list[Value]:
        """Return all tensors among the arguments."""
        return [item for item in (*self.args, *self.kwargs.values()) if isinstance(item, Value)]

    def written(self, number: object) -> str:
        """Return the reason for channels fixed by a size that is written in the code."""
        file, line = self.node.meta["line"]
        return f"{Path(file).name}:{line} says {number}"


class Extraction:
    """Layouts of all dimensions so far, and the equations between them."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.variables = Variables()
        self._dimensions: dict[tuple[str, str], tuple[Layout, Dimension]] = {}
        self._layers: dict[str, Layer] = {}

    def channels(self, value: Value, place: int) -> Layout:
        """Return the layout of a dimension that a layer uses as channels."""
        layout = value.layouts[place]
        if not layout:
            layout = self.variables.new(value.shape[place])
            self.variables.fix(layout, NO_LAYER)
        return layout

    def fixed(self, layout: Layout, reason: str) -> Layout:
        """Fix a layout, and return the empty layout."""
        self.variables.fix(layout, reason)
        return ()

    def makes(self, module: str, size: int, *tensors: tuple[str, int]) -> Layout:
        """Return the output channels of a layer, the same for each of its calls."""
        if (module, "out") not in self._dimensions:
            self.meets(module, "out", self.variables.new(size, module), *tensors)
        return self._dimensions[module, "out"][0]

    def meets(
        self, module: str, kind: str, layout: Layout, *tensors: tuple[str, int], blocks: int = 1
    ) -> None:
        """Record that a dimension of a layer runs over these channels; another call ties them."""
        if (module, kind) in self._dimensions:
            self.variables.tie(self._dimensions[module, kind][0], layout)
            return
        owner, prefix = self.traced.modules[module], f"{module}." if module else ""
        present = [(name, axis) for name, axis in tensors if getattr(owner, name, None) is not None]
        entries = self.variables.entries(layout)
        for name, axis in present:
            if name not in {**owner._parameters, **owner._buffers}:
                raise Unsupported(f"its {name} is computed from other parameters")
            if (size := getattr(owner, name).shape[axis] * blocks) != entries:
                raise Unsupported(
                    f"{counted(entries, 'channel meets', 'channels meet')} the {size} of its {name}"
                )
        axes = tuple((prefix + name, axis) for name, axis in present)
        dimension = Dimension(module=module, kind=kind, axes=axes, blocks=blocks, parts=())
        self._dimensions[module, kind] = layout, dimension

    def sides(
        self, name: str, layer: _ConvNd | nn.Linear, inputs: Layout | None = None
    ) -> tuple[Layout, Layout]:
        """Return the input and output channels of a layer; `inputs`: the channels of its input."""
        if isinstance(layer, nn.Linear):
            entering, leaving, blocks = layer.in_features, layer.out_features, 1
        else:
            entering, leaving, blocks = layer.in_channels, layer.out_channels, layer.groups
        if inputs is None:
            known = self._dimensions.get((name, "in"))
            inputs = self.variables.new(entering) if known is None else known[0]
        if blocks == entering > 1:  # depthwise
            self.meets(name, "in", inputs)
            outputs = repeated(inputs, leaving // entering)
            self.meets(name, "out", outputs, ("weight", 0), ("bias", 0))
            return inputs, outputs
        self.meets(name, "in", inputs, ("weight", 1), blocks=blocks)
        return inputs, self.makes(name, leaving, ("weight", 0), ("bias", 0))

    def parameter(self, tensor: Tensor) -> Value:
        """Return a parameter or buffer that the code uses directly."""
        name = self.traced.names[id(tensor)]
        module, _, own = name.rpartition(".")
        owner = self.traced.modules[module]
        if isinstance(owner, _ConvNd | nn.Linear) and own in ("weight", "bias"):
            inputs, outputs = self.sides(module, owner)
            inner = inputs if getattr(owner, "groups", 1) == 1 else ()
            of_weight = (outputs, inner, *((),) * (tensor.dim() - 2))
            return Value(shape=tuple(tensor.shape), layouts=of_weight[: tensor.dim()], name=name)
        if isinstance(owner, _NormBase) and tensor.dim() == 1:
            known = self._dimensions.get((module, "norm"))
            channels = self.variables.new(len(tensor)) if known is None else known[0]
            self.meets(module, "norm", channels, *NORM_TENSORS)
            return Value(shape=tuple(tensor.shape), layouts=(channels,), name=name)
        wide = [axis for axis, size in enumerate(tensor.shape) if size > 1]
        layouts: list[Layout] = [()] * tensor.dim()
        for axis in wide:
            kind = own if len(wide) == 1 else f"{own}[{axis}]"
            if (module, kind) not in self._dimensions:
                self.meets(module, kind, self.variables.new(tensor.shape[axis]), (own, axis))
            layouts[axis] = self._dimensions[module, kind][0]
        return Value(shape=tuple(tensor.shape), layouts=tuple(layouts), name=name)

    def counts(self, name: str, call: Call, kernel: int, outputs: int, blocks: int | None) -> None:
        """Add the multiply-adds of one call of a layer."""
        work = kernel * call.result.numel() // (BATCH * outputs)
        before = self._layers.get(name, Layer(module=name, work=0, blocks=blocks))
        self._layers[name] = replace(before, work=before.work + work)

    def graph(self, image_size: int, in_channels: int) -> Graph:
        """Return the resulting graph."""
        names = self._names()
        reasons = self.variables.reasons()
        for variable in names.keys() - self._origins().keys():
            reasons.setdefault(variable, NO_LAYER)
        divisors = self.variables.divisors(reasons)
        parameters = self.traced.modules[""].named_parameters()
        return Graph(
            image_size=image_size,
            in_channels=in_channels,
            sizes={name: self.variables.size(variable) for variable, name in names.items()},
            divisors={name: divisors.get(variable, 1) for variable, name in names.items()},
            fixed={
                name: reasons[variable] for variable, name in names.items() if variable in reasons
            },
            dimensions=tuple(
                replace(dimension, parts=self._parts(layout, names))
                for layout, dimension in self._dimensions.values()
            ),
            layers=tuple(self._layers.values()),
            shapes={name: tuple(parameter.shape) for name, parameter in parameters},
        )

    def _origins(self) -> dict[int, str]:
        """Return the first layer that makes the channels of each variable, in layer order."""
        origins: dict[int, str] = {}
        for variable, origin in enumerate(self.variables.origins):
            if origin is not None:
                for run in self.variables.resolve((Run(variable),)):
                    origins.setdefault(run.variable, origin)
        return origins

    def _names(self) -> dict[int, str]:
        """Return the names of all variables that occur in a dimension."""
        wanted = self._origins()
        for layout, dimension in self._dimensions.values():
            for run in self.variables.resolve(layout):
                wanted.setdefault(run.variable, f"{dimension.module}.{dimension.kind}".lstrip("."))
        seen: Counter[str] = Counter()
        names = {}
        for variable, name in wanted.items():
            seen[name] += 1
            names[variable] = name if seen[name] == 1 else f"{name}#{seen[name]}"
        return names

    def _parts(self, layout: Layout, names: Mapping[int, str]) -> tuple[Part, ...]:
        return tuple(
            Part(group=names[run.variable], repeat=run.repeat, aligned=run.aligned)
            for run in self.variables.resolve(layout)
        )
