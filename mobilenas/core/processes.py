"""The processes of one job that torchrun started: the rank of this one, and how they synchronize.

Without torchrun there is one process, and nothing here does anything. Otherwise all run the same
code over the same decisions: each takes its share of every batch, gradients are added up, and the
first one alone writes the job's files. The folder must be one that all of them see.
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
    """Another process of the job has ended, and its share is missing."""


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
    """Inside, work in step with the other processes that torchrun started, if it did."""
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
        wait()  # or the end of one, seen by another, looks like a failure
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
    """Let the first process do `work` alone, and return what came out to all of them."""
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
    """Give `tensor` its sum over the processes, and return it."""
    if count() > 1:
        from torch import distributed

        with _all_there():
            distributed.all_reduce(tensor)
    return tensor


def wait() -> None:
    """Wait until every process has come to this point."""
    gather(None)


def share_of(items: int) -> slice:
    """Return which of `items`, in a row, are this process's; shares differ by one at most."""
    return slice(items * rank() // count(), items * (rank() + 1) // count())


def threads_of(threads: int) -> int:
    """Return the threads of this process, where those of one machine share so many."""
    return max(1, threads // int(os.environ["LOCAL_WORLD_SIZE"])) if launched() else threads


@contextmanager
def _all_there() -> Iterator[None]:
    """Say in words of ours that an exchange has failed: its other end is gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError("another process of this job has ended; see its error") from error
