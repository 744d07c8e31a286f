"""LSTM, GRU and RNN by steps: linear maps, sigmoid, tanh and products of activations.

Each layer and direction has one set of sites, which all its steps share: ``repeated`` (frames.Frame.repeated) hands out the
steps and starts the numbering of the sites over for each. So a sequence may be longer than in calibration. Called like
torch's own kernels, with ``repeated`` in front; a packed sequence goes with the sizes of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mbe_plugin.conversion.marks import ACTIVATION, mark

State = tuple[Tensor, ...]  # h, and an LSTM's c; [B, H] each
Repeated = Callable[[Iterable[int]], Iterator[int]]


class Weights(NamedTuple):
    """One direction's of one layer, in torch's order and layout."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


Step = Callable[[Tensor, State, Weights], State]  # the input's share of the gates, the state before


def _lstm_step(gates: Tensor, state: State, w: Weights) -> State:
    h, c = state
    i, f, g, o = (gates + F.linear(h, w.hidden, w.hidden_bias)).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w.projection is None else F.linear(h, w.projection)), c


def _gru_step(gates: Tensor, state: State, w: Weights) -> State:
    (h,) = state
    reset, update, new = gates.chunk(3, dim=-1)
    reset_h, update_h, new_h = F.linear(h, w.hidden, w.hidden_bias).chunk(3, dim=-1)
    candidate = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    return (candidate + torch.sigmoid(update + update_h) * (h - candidate),)


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(gates: Tensor, state: State, w: Weights) -> State:
        return (activation(gates + F.linear(state[0], w.hidden, w.hidden_bias)),)

    return step


STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _rnn_step(torch.tanh),
    "rnn_relu": _rnn_step(F.relu),
}


def _layers(name: str) -> Callable[..., tuple[Tensor, ...]]:
    """torch.lstm, torch.gru, ...: (input, hx, ...), or (data, batch_sizes, hx, ...) for a packed sequence."""
    step = STEPS[name]

    def padded(
        repeated: Repeated, x: Tensor, hx: Any, weights: Sequence[Tensor], *rest: Any
    ) -> tuple[Tensor, ...]:
        *options, batch_first = rest
        steps = x.transpose(0, 1) if batch_first else x  # [L, B, I]
        sizes = [steps.shape[1]] * steps.shape[0]
        out, *last = _stacked(step, repeated, steps.flatten(0, 1), sizes, hx, weights, *options)
        out = out.unflatten(0, steps.shape[:2])
        return (out.transpose(0, 1) if batch_first else out), *last

    def layers(repeated: Repeated, x: Tensor, second: Any, *rest: Any) -> tuple[Tensor, ...]:
        if isinstance(second, Tensor) and not second.is_floating_point():
            return _stacked(step, repeated, x, second.tolist(), *rest)
        return padded(repeated, x, second, *rest)

    return layers


def _cell(name: str) -> Callable[..., Any]:
    """torch.lstm_cell, torch.gru_cell, ...: one step."""
    step = STEPS[name]

    def cell(repeated: Repeated, x: Tensor, hx: Any, *weights: Tensor | None) -> Any:
        w = Weights(*weights)  # type: ignore[arg-type]  # the first two are tensors
        state = step(F.linear(x, w.input, w.input_bias), tuple(_begun(s) for s in _state(hx)), w)
        return state if len(state) > 1 else state[0]

    return cell


def _stacked(
    step: Step,
    repeated: Repeated,
    data: Tensor,
    sizes: list[int],
    hx: Any,
    weights: Sequence[Tensor],
    biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    """The outputs [sum(sizes), ...] and last states [layers * directions, B, H] of inputs [sum(sizes), I]."""
    directions = 2 if bidirectional else 1
    initial, ends = [_begun(s) for s in _state(hx)], []
    for layer in range(layers):
        outputs = []
        for place in range(layer * directions, (layer + 1) * directions):
            first, w = tuple(s[place] for s in initial), _weights(weights, place, layers * directions, biases)
            backward = place > layer * directions
            out, last = _directed(step, repeated, data, sizes, first, w, backward)
            outputs.append(out)
            ends.append(last)
        data = torch.cat(outputs, dim=-1) if bidirectional else outputs[0]
        if dropout and training and layer < layers - 1:
            data = F.dropout(data, dropout)
    return (data, *(torch.stack(states) for states in zip(*ends, strict=True)))


def _directed(
    step: Step, repeated: Repeated, data: Tensor, sizes: list[int], first: State, w: Weights, backward: bool
) -> tuple[Tensor, State]:
    """One layer in one direction; ``sizes`` says how many rows go on at each step, the longest first."""
    gates = F.linear(data, w.input, w.input_bias).split(sizes)
    order = range(len(sizes))[::-1] if backward else range(len(sizes))
    state = tuple(s[: sizes[order[0]]] for s in first)
    outputs: list[Tensor] = []
    ended: list[State] = []
    for t in repeated(order):
        running, rows = state[0].shape[0], sizes[t]
        if rows < running:  # the shortest sequences end
            ended.insert(0, tuple(s[rows:] for s in state))
            state = tuple(s[:rows] for s in state)
        elif rows > running:  # read from behind, they begin
            state = tuple(torch.cat([s, f[running:rows]]) for s, f in zip(state, first, strict=True))
        state = step(gates[t], state, w)
        outputs.append(state[0])
    last = tuple(torch.cat(parts) for parts in zip(state, *ended, strict=True))
    return torch.cat(outputs[::-1] if backward else outputs), last


def _weights(weights: Sequence[Tensor], place: int, places: int, biases: bool) -> Weights:
    each = len(weights) // places
    own = weights[place * each : (place + 1) * each]
    input_bias, hidden_bias = own[2:4] if biases else (None, None)
    projection = own[-1] if each in (3, 5) else None  # an LSTM's proj_size
    return Weights(own[0], own[1], input_bias, hidden_bias, projection)


def _state(hx: Any) -> tuple[Tensor, ...]:
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def _begun(state: Tensor) -> Tensor:
    """A first state as an activation, also where it is zeros, so that the first step has the sites of the others."""
    state = state.clone()
    mark(state, ACTIVATION)
    return state


RECURRENT: dict[str, Callable[..., Any]] = {
    **{name: _layers(name) for name in STEPS},
    **{f"{name}_cell": _cell(name) for name in STEPS},
}
