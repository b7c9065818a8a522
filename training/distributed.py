"""One process, or several that `torchrun` started: who am I, and sums over all of us."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class World:
    """A process's place among `size` processes. Alone, every method does nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def writes(self) -> bool:
        """Only the first process writes files and speaks."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """Return this process's part of a batch: the parts are disjoint, uneven by one at most, and cover it."""
        return indices[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Add `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def same_path(self, path: Path | None) -> Path:
        """Return the first process's path in all of them."""
        box = [path]
        if self.size > 1:
            dist.broadcast_object_list(box)
        assert box[0] is not None
        return box[0]

    def same_weights(self, model: nn.Module) -> None:
        """Copy the first process's weights and buffers to all."""
        if self.size > 1:
            for value in model.state_dict().values():
                dist.broadcast(value, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the network whose backward pass averages gradients over the processes."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def join_world() -> World:
    """Join the processes that torchrun started (it sets RANK and WORLD_SIZE); alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return World(dist.get_rank(), size)


def leave_world() -> None:
    """End the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
