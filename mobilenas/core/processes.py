"""The processes of one torchrun job: rank, collective operations, shares of the work.

Without torchrun there is one process, and nothing here has any effect. Otherwise all processes run
the same code and make the same decisions: each takes its share of every batch, gradients are
summed, and only rank 0 writes files. All must see the same folder.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")
_job = [0, 1]
"""The rank of this process and the number of processes."""


class LostProcessError(RuntimeError):
    """Another process of the job has ended, so its share is missing."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return _job[0]


def count() -> int:
    """Return how many processes share the work."""
    return _job[1]


def is_first() -> bool:
    """Whether this process writes and reports."""
    return _job[0] == 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group of torchrun inside the context, if it started this process."""
    if not launched():
        yield
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
    _job[:] = distributed.get_rank(), distributed.get_world_size()
    try:
        yield
        wait()  # else a process that ends first looks like a failure to the others
    finally:
        _job[:] = 0, 1
        distributed.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works as if it were the only one."""
    kept = list(_job)
    _job[:] = 0, 1
    try:
        yield
    finally:
        _job[:] = kept


def on_first(work: Callable[[], _T]) -> _T:
    """Run `work` on rank 0 only, and return its result on every process."""
    if count() == 1:
        return work()
    results: list[_T | None] = [None]
    if is_first():
        with alone():
            results[0] = work()
    from torch import device, distributed

    with _all_there():
        distributed.broadcast_object_list(results, src=0, device=device("cpu"))
    return results[0]  # type: ignore[return-value]


def gather(value: _T) -> list[_T]:
    """Return the values of all processes, in the order of their ranks."""
    values: list[_T] = [value] * count()
    if count() > 1:
        from torch import distributed

        with _all_there():
            distributed.all_gather_object(values, value)
    return values


def add_up(tensor: "Tensor") -> "Tensor":
    """Sum `tensor` over the processes, in place, and return it."""
    if count() > 1:
        from torch import distributed

        with _all_there():
            distributed.all_reduce(tensor)
    return tensor


def wait() -> None:
    """Wait until every process has reached this point."""
    gather(None)


def share_of(items: int) -> slice:
    """Return this process's contiguous share of `items`; shares differ by at most one."""
    return slice(items * rank() // count(), items * (rank() + 1) // count())


def threads_of(threads: int) -> int:
    """Return this process's number of threads, where the processes of a machine share `threads`."""
    return max(1, threads // int(os.environ["LOCAL_WORLD_SIZE"])) if launched() else threads


@contextmanager
def _all_there() -> Iterator[None]:
    """Turn a failed exchange into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError("another process of this job has ended; see its error") from error
