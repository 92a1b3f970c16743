"""Where a training runs: its device, and the processes that ``torchrun`` starts for it."""

import os
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda"]


def choose_device(wanted: Device) -> torch.device:
    """The device of this process; ``auto`` is CUDA where there is any.

    Raises:
        ValueError: CUDA is wanted, and this installation of torch finds none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no CUDA device; give 'cpu', or 'auto'")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def join_processes(wanted: Device) -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) without ``torchrun``."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    device = choose_device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def leave_processes() -> None:
    """The counterpart of ``join_processes``."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def first_before_others(work: Callable[[], T]) -> T:
    """``work()`` in every process, but in the others only when the first has finished."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    if not first:
        wait_for_all()
    result = work()
    if first:
        wait_for_all()
    return result


def data_parallel(module: nn.Module) -> nn.Module:
    """A module whose gradients are the means over all processes; itself where there is one, or nothing to train."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return DistributedDataParallel(module) if dist.is_initialized() and trained else module
