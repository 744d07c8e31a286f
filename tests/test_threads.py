"""One converted network in several threads: nothing that a forward needs lies where another can reach it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from networks import WIDTH, Calling, Inside, tokens, transformer
from torch import Tensor, nn

from mbe_plugin import convert


class Waiting(nn.Module):
    """Holds up its first forward, before its first layer, until another has come and gone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Inside(lambda m, x: torch.tanh(m.fc(x)))
        self.turn: Any = None

    def forward(self, x: Any) -> Tensor:
        if self.turn is not None:
            self.turn()
        return self.layer(x["x"] if isinstance(x, dict) else x)


def _another_forward_in_between(make_input: Any) -> tuple[Tensor, Tensor]:
    x = make_input(tokens())
    snn = convert(Waiting().eval(), [((x,), {})])
    wanted, other_done, waiting = snn(x), threading.Event(), threading.Event()

    def turn() -> None:
        if not waiting.is_set():  # the first of the two
            waiting.set()
            assert other_done.wait(30)

    snn.turn = turn
    found: list[Tensor] = []
    first = threading.Thread(target=lambda: found.append(snn(x)))
    first.start()
    assert waiting.wait(30)
    snn(x)
    other_done.set()
    first.join()
    return found[0], wanted


def test_another_forward_of_the_same_input_takes_no_mark_away() -> None:
    """On a tensor: the one that ended cleared the mark that the other needed, and its first layer ran unencoded."""
    found, wanted = _another_forward_in_between(lambda x: x)
    assert torch.equal(found, wanted)


def test_nor_from_an_input_inside_a_container() -> None:
    found, wanted = _another_forward_in_between(lambda x: {"x": x})
    assert torch.equal(found, wanted)


def test_many_threads_and_one_input() -> None:
    snn, x = convert(transformer(), [tokens()]), tokens(seed=7)
    wanted = snn(x)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: snn(x), range(18)):
            assert torch.equal(found, wanted)


def test_two_networks_may_see_one_tensor_differently() -> None:
    """What is an activation to one is a constant to the other, which is called meanwhile."""

    def meeting(m: Calling, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(m.fc(x) + y)

    model = Inside(meeting)
    snn = convert(model, [((tokens(), torch.zeros(WIDTH)), {})])
    x = tokens(seed=3)
    assert torch.equal(snn(x, x), snn(x, x.clone()))


def test_the_callers_tensors_carry_nothing() -> None:
    snn, x = convert(transformer(), [tokens()]), tokens(seed=5)
    snn(x)
    assert not vars(x)
