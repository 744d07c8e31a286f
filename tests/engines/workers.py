"""What each of two processes does; here, and not in the tests, so that a spawned process can import it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from networks import tokens, transformer
from torch import Tensor, nn

from mbe_plugin import ConversionError, convert

PROCESSES = 2
Task = Callable[[nn.Module, int], dict[str, Any]]


def run_in_two_processes(
    tasks: dict[str, Task], snn: nn.Module, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """What each task(snn, rank) returned in each of two processes that talk over gloo, by the task's name."""
    torch.save(snn, folder / "snn.pt")
    torch.multiprocessing.spawn(_process, (tasks, folder), nprocs=PROCESSES)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
    return {name: [given[name] for given in found] for name in tasks}


def _process(rank: int, tasks: dict[str, Task], folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with _group(rank, folder):
        found = {
            name: task(torch.load(folder / "snn.pt", weights_only=False), rank)
            for name, task in tasks.items()
        }
        torch.save(found, folder / f"{rank}.pt")


@contextmanager
def _group(rank: int, folder: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=PROCESSES)
    try:
        yield
    finally:
        dist.destroy_process_group()


def batch(rank: int) -> Tensor:
    """Each process has its own."""
    return tokens(seed=rank + 1).clamp(-2, 2)


def loss(out: Tensor) -> Tensor:
    return out.square().mean()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """By the parameters' own names, whole."""
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    whole = {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}
    return {n.removeprefix("module."): g.clone() for n, g in whole.items()}


def in_ddp(snn: nn.Module, rank: int) -> dict[str, Any]:
    wrapped = nn.parallel.DistributedDataParallel(snn)
    with torch.no_grad():
        out = wrapped(batch(rank))
    grown = wrapped(batch(rank))
    loss(grown).backward()
    return {"out": out, "grown": grown.detach(), "gradients": gradients(wrapped)}


def in_fsdp(snn: nn.Module, rank: int) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in snn.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(snn, mesh=mesh)
    with torch.no_grad():
        out = snn(batch(rank))
    grown = snn(batch(rank))
    loss(grown).backward()
    return {
        "out": out,
        "grown": grown.detach(),
        "gradients": gradients(snn),
        "sharded": type(next(snn.parameters())).__name__,
        "class": type(snn.layers[0]).__name__,
    }


def refusals(snn: nn.Module, rank: int) -> dict[str, Any]:
    """What convert says of an ANN that an engine has wrapped already, by the engine's name."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.tensor import distribute_module

    def part_sharded(mesh: Any) -> nn.Module:
        model = transformer()
        fully_shard(model.layers[1], mesh=mesh)
        return model

    mesh = init_device_mesh("cpu", (PROCESSES,))
    wrapped = {
        "ddp": nn.parallel.DistributedDataParallel(transformer()),
        "fsdp1": FullyShardedDataParallel(transformer(), device_id=torch.device("cpu")),
        "fsdp2": fully_shard(transformer(), mesh=mesh),
        "fsdp2 part": part_sharded(mesh),
        "dtensor": distribute_module(transformer(), mesh),
        "converted": nn.parallel.DistributedDataParallel(snn),
    }
    return {name: _refusal(model) for name, model in wrapped.items()}


def _refusal(model: nn.Module) -> str:
    try:
        convert(model, [tokens()])
    except ConversionError as refused:
        return str(refused)
    return ""
