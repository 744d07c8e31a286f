"""A converted network under torch's parallel engines, in two processes on the CPU."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from engines.workers import PROCESSES, batch, gradients, in_ddp, in_fsdp, loss, refusals, run_in_two_processes
from networks import tokens, transformer
from oracle import assert_same_bits
from torch import Tensor, nn

from mbe_plugin import MBEConfig, convert

pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")


SHARDS_ON_CPUS = hasattr(torch.cpu.Stream, "record_event")  # which fully_shard calls


@pytest.fixture(scope="module")
def snn() -> nn.Module:
    return convert(transformer(), [tokens()], MBEConfig(time_steps=4, bases=8, identity_bases=2))


@pytest.fixture(scope="module")
def found(snn: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Of every engine by each process: started once, since the processes' imports take most of the time."""
    tasks = {"ddp": in_ddp, "refusals": refusals} | ({"fsdp": in_fsdp} if SHARDS_ON_CPUS else {})
    return run_in_two_processes(tasks, snn, tmp_path_factory.mktemp("engines"))


def alone(snn: nn.Module, rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one process's batch without any engine."""
    one = copy.deepcopy(snn)
    out = one(batch(rank))
    loss(out).backward()
    return out.detach(), gradients(one)


def assert_as_alone(found: list[dict[str, Any]], snn: nn.Module) -> None:
    """The same outputs, bit for bit, with and without gradients; the gradients are the processes' mean."""
    wanted = [alone(snn, rank) for rank in range(PROCESSES)]
    for rank, (out, _) in enumerate(wanted):
        assert_same_bits(found[rank]["out"], out)
        assert_same_bits(found[rank]["grown"], out)
    for name in wanted[0][1]:
        mean = sum(given[name] for _, given in wanted) / PROCESSES
        for result in found:
            torch.testing.assert_close(result["gradients"][name], mean)


def test_distributed_data_parallel(snn: nn.Module, found: dict[str, list[dict[str, Any]]]) -> None:
    assert_as_alone(found["ddp"], snn)


@pytest.mark.skipif(not SHARDS_ON_CPUS, reason="this torch's fully_shard needs a GPU")
def test_fully_shard(snn: nn.Module, found: dict[str, list[dict[str, Any]]]) -> None:
    assert {result["sharded"] for result in found["fsdp"]} == {"DTensor"}
    assert {result["class"] for result in found["fsdp"]} == {"FSDPLayer"}
    assert_as_alone(found["fsdp"], snn)


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        (
            "ddp",
            r"^the model is wrapped in DistributedDataParallel; convert its \.module and wrap the result",
        ),
        (
            "fsdp1",
            r"^the model is sharded by FullyShardedDataParallel; convert the model before it is sharded",
        ),
        ("fsdp2", r"^the model is sharded by fully_shard; convert the model before it is sharded, and shard"),
        ("fsdp2 part", r"^layers\.1 is sharded by fully_shard; convert the model before it is sharded"),
        ("dtensor", r"^the model holds scale as a DTensor, .*; convert the model before it is parallelised"),
        ("converted", r"^the model is wrapped in DistributedDataParallel"),
    ],
)
def test_what_is_wrapped_already_is_refused_with_the_order(
    engine: str, sentence: str, found: dict[str, list[dict[str, Any]]]
) -> None:
    for refused in found["refusals"]:
        assert re.match(sentence, refused[engine]), refused[engine]
