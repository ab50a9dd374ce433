"""Training through torch.compile, where that works."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mobilenas.core import processes
from mobilenas.core.errors import first_line
from mobilenas.core.progress import Reporter
from mobilenas.nn.network import Network

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""[N, C, H, W] -> logits of every classifier, [N, classes] each."""
_BACKEND = "inductor"


def compiled(network: Network, x: Tensor, mixed: torch.autocast, reporter: Reporter) -> Forward:
    """Return `network.training_logits`, compiled for batches such as x [N, C, H, W].

    Where that fails, reports the reason and returns the method itself. Runs a forward and a
    backward pass, after which weights, statistics and random numbers are as before.
    """
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException  # takes a second

    plain, reason = network.training_logits, network.not_compiled
    if processes.count() > 1:
        reason = "several processes share its batches"
    if not reason:
        torch.compiler.reset()  # else the code of a class is compiled for 8 networks at most
        try:
            # the whole graph or none, so that no part fails silently
            forward: Forward = torch.compile(plain, fullgraph=True, dynamic=False, backend=_BACKEND)
            with _undone(network, x):
                with mixed:
                    logits = forward(x)
                torch.stack([each.float().sum() for each in logits]).sum().backward()
            return forward
        except TorchDynamoException as error:
            cause = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
            reason = first_line(cause)
    reporter.info(f"training without torch.compile: {reason}")
    return plain


@contextmanager
def _undone(network: Network, x: Tensor) -> Iterator[None]:
    """Undo what a training step without an optimizer changes."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        try:
            yield
        finally:
            network.zero_grad()
            for buffer, before in buffers:
                buffer.copy_(before)
