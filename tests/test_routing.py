"""Routing holds wherever the caller enters, and leaves nothing behind."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, Calling, Transformer, tokens, transformer
from oracle import assert_same_bits
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mbe_plugin import (
    CalibrationError,
    ConversionError,
    MBEConfig,
    RangeWarning,
    UnseenSiteError,
    calibrate,
    convert,
    count_spikes,
    locate_error,
    report,
)
from mbe_plugin.conversion.following.frames import SLOT
from mbe_plugin.operators import CalibratedNode

# small samples are soon outside one another's ranges; what happens then is test_convert_errors' subject
pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")

T = 4  # so that the exact network and the spiking one can be told apart by their outputs


def spiking(model: nn.Module, **settings: Any) -> nn.Module:
    return convert(model, [tokens()], MBEConfig(time_steps=T, bases=8, identity_bases=2, **settings))


@pytest.fixture(scope="module")
def ann() -> Transformer:
    return transformer()


@pytest.fixture(scope="module")
def _snn(ann: Transformer) -> nn.Module:
    return spiking(ann)


@pytest.fixture
def snn(_snn: nn.Module) -> nn.Module:
    assert SLOT.mode is None
    assert SLOT.next_mode is None
    assert not SLOT.inside_operator
    return _snn


def spikes_of(snn: nn.Module, call: Callable[[], Any]) -> set[str]:
    """The sites that fired during call()."""
    with count_spikes(snn) as counts:
        call()
    return {site for (site, _), neuron in counts.neurons.items() if neuron.elements}


# --- entering elsewhere


def test_every_site_fires_in_the_forward(snn: nn.Module) -> None:
    sites = {s.site for s in report(snn).sites}
    assert {
        "embed:linear",
        "layers.1.attention:matmul(a,a)#1",
        "layers.0:gelu",
        "(root):forward_features/tanh",
    } <= sites
    # fed by the trains of tanh, gelu and the norms
    merged = {"head:linear", "layers.0.down:linear", "layers.1.down:linear"}
    merged |= {f"layers.{i}.attention.{n}:linear" for i in (0, 1) for n in "qkv"}
    merged |= {f"layers.{i}.up:linear" for i in (0, 1)}
    silent = {s.site for s in report(snn).sites if not s.neurons}
    assert {"layers.0.down:linear", "layers.0.attention.q:linear"} <= silent <= merged
    assert spikes_of(snn, lambda: snn(tokens())) == sites - silent


@pytest.mark.parametrize("path", ["layers.0", "layers.1.attention", "layers.0.up", "layers.0.norm"])
def test_a_submodule_called_directly(ann: nn.Module, snn: nn.Module, path: str) -> None:
    x = tokens()
    part, exact = snn.get_submodule(path), ann.get_submodule(path)
    fired = spikes_of(snn, lambda: part(x))
    assert fired
    assert all(site.startswith(path) for site in fired)
    assert not torch.equal(part(x), exact(x))


def test_a_part_gives_the_same_alone_as_in_the_forward(snn: nn.Module) -> None:
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, out: Tensor) -> None:
            seen[path] = args[0].clone(), out.clone()

        return hook

    paths = ("layers.0", "layers.0.norm", "layers.1.attention", "layers.0.up", "embed")
    handles = [snn.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    snn(tokens())
    for handle in handles:
        handle.remove()
    assert len(seen) == 5
    for path, (given, out) in seen.items():
        assert_same_bits(snn.get_submodule(path)(given), out)


def test_a_method_that_forward_calls(ann: Transformer, snn: nn.Module) -> None:
    x = tokens()
    features = snn.forward_features(x)
    assert_same_bits(snn.head(snn.dropout(features)), snn(x))
    assert not torch.equal(features, ann.forward_features(x))
    assert "(root):forward_features/tanh" in spikes_of(snn, lambda: snn.forward_features(x))


def test_a_method_that_calibration_never_ran_routes_its_modules(ann: Transformer, snn: nn.Module) -> None:
    x = tokens()
    assert_same_bits(snn.pooled(x), snn.layers[0](snn.embed(x)).mean(1))
    assert not torch.equal(snn.pooled(x), ann.pooled(x))


def test_a_method_that_calibration_never_ran_with_a_function_of_its_own(snn: nn.Module) -> None:
    with pytest.raises(UnseenSiteError, match=r"\(root\):squashed/sigmoid was never reached in calibration"):
        snn.squashed(tokens())


class Static(Transformer):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.curved(self.embed(x)))


def test_what_is_no_public_method_is_exact_from_outside_and_a_blind_spot(snn: nn.Module) -> None:
    """Inside a forward it makes sites of the module that calls it."""
    torch.manual_seed(0)
    other, x = spiking(Static()), tokens()
    assert spikes_of(other, lambda: other(x)) == {"embed:linear", "(root):tanh"}
    for call in (other.curved, type(other).curved, snn.curved):
        assert not spikes_of(other, lambda call=call: assert_same_bits(call(x), torch.tanh(x)))
    assert_same_bits(snn._private(x), torch.tanh(snn.embed(x)))
    assert any("static, class and private methods" in spot for spot in report(other).blind_spots)


def test_a_generator_method_is_refused(snn: nn.Module) -> None:
    """Its body would run after the call has ended, unrouted."""
    with pytest.raises(ConversionError, match=r"\(root\)\.stream is a generator"):
        snn.stream(tokens())


def test_calling_forward_itself(snn: nn.Module) -> None:
    assert_same_bits(snn.forward(tokens()), snn(tokens()))


def test_the_step_loop_gives_the_same_bits(ann: nn.Module, snn: nn.Module) -> None:
    slow = spiking(ann, simulate="steps")
    assert {m.simulate for m in slow.modules() if isinstance(m, CalibratedNode)} == {"steps"}
    assert_same_bits(slow(tokens()), snn(tokens()))


def test_under_no_grad_and_inference_mode(snn: nn.Module) -> None:
    want = snn(tokens())
    with torch.no_grad():
        assert_same_bits(snn(tokens()), want.detach())
    with torch.inference_mode():
        assert_same_bits(snn(tokens()), want.detach())


def test_calibrating_under_inference_mode(ann: nn.Module, snn: nn.Module) -> None:
    with torch.inference_mode():
        again = spiking(ann)
    assert [s.site for s in report(again).sites] == [s.site for s in report(snn).sites]


@pytest.mark.parametrize("way", ["batch", "parameters", "gradients"])
def test_vmap_is_refused_in_one_sentence(snn: nn.Module, way: str) -> None:
    """Neurons look at values, which it forbids."""
    parameters, x = dict(snn.named_parameters()), tokens()

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(snn, parameters, x).sum()

    calls: dict[str, Callable[[], Any]] = {
        "batch": lambda: torch.vmap(snn)(x),
        "parameters": lambda: torch.vmap(loss, in_dims=(0, None))(
            {n: torch.stack([p, p]) for n, p in parameters.items()}, x
        ),
        "gradients": lambda: torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x),
    }
    with pytest.raises(
        ConversionError, match=r"^the model is called under torch\.vmap, .*; call it with the whole"
    ):
        calls[way]()
    with pytest.raises(ConversionError, match=r"^layers\.0\.up is called under torch\.vmap"):
        torch.vmap(snn.layers[0].up)(x)
    assert_same_bits(torch.func.functional_call(snn, parameters, x), snn(x))


def test_gradients_flow(snn: nn.Module) -> None:
    x = tokens().requires_grad_()
    snn(x).square().mean().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0
    snn.zero_grad()


# --- copies


def _deepcopied(snn: nn.Module) -> nn.Module:
    return copy.deepcopy(snn)


def _pickled(snn: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(snn))


def _saved_whole(snn: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(snn, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [_deepcopied, _pickled, _saved_whole])
def test_a_copy_routes_as_the_original(snn: nn.Module, way: Callable[[nn.Module], nn.Module]) -> None:
    other = way(snn)
    assert_same_bits(other(tokens()), snn(tokens()))
    assert type(other) is type(snn)
    assert report(other).as_dict()["sites"] == report(snn).as_dict()["sites"]
    assert spikes_of(other, lambda: other(tokens())) == spikes_of(snn, lambda: snn(tokens()))
    assert not spikes_of(snn, lambda: other(tokens())), "the copy works with the original's neurons"
    assert other.head.weight is other.embed.weight


def test_a_copy_has_weights_of_its_own(snn: nn.Module) -> None:
    want = snn(tokens())
    other = copy.deepcopy(snn)
    with torch.no_grad():
        other.embed.weight.mul_(0)
    assert torch.equal(other(tokens()), torch.zeros_like(want))
    assert_same_bits(snn(tokens()), want)


def test_a_copied_part_routes(snn: nn.Module) -> None:
    x = tokens()
    assert_same_bits(copy.deepcopy(snn.layers[0])(x), snn.layers[0](x))


def test_state_dict_round_trip(ann: Transformer, snn: nn.Module) -> None:
    """The tables are in it: a conversion with another calibration takes over this one's neurons."""
    file = io.BytesIO()
    torch.save(snn.state_dict(), file)
    file.seek(0)
    other = convert(ann, [tokens(seed=7) * 3], MBEConfig(time_steps=T, bases=8, identity_bases=2))
    with torch.no_grad():
        other.embed.weight.add_(1)
    assert not torch.equal(other(tokens()), snn(tokens()))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same_bits(other(tokens()), snn(tokens()))


# --- threads, several networks, exceptions


def test_another_thread(snn: nn.Module) -> None:
    want, got = snn(tokens()), []
    thread = threading.Thread(target=lambda: got.append(snn(tokens())))
    thread.start()
    thread.join()
    assert_same_bits(got[0], want)


def test_two_threads_at_once(snn: nn.Module) -> None:
    """Each stops in the middle of its forward until the other is there too."""
    inputs = [tokens(seed=1), tokens(2, 3, seed=2)]
    want = [snn(x) for x in inputs]
    barrier, got = threading.Barrier(2, timeout=30), {}

    def wait(*_: Any) -> None:
        barrier.wait()

    handle = snn.layers[0].register_forward_hook(wait)
    threads = [threading.Thread(target=lambda i=i: got.setdefault(i, snn(inputs[i]))) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    for i in (0, 1):
        assert_same_bits(got[i], want[i])


def test_two_networks_in_turn_and_one_inside_the_other(snn: nn.Module) -> None:
    other = spiking(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()))
    x = tokens()
    first, second = snn(x), other(x)
    assert_same_bits(snn(x), first)
    assert_same_bits(other(x), second)
    nested: list[Tensor] = []
    handle = snn.layers[0].register_forward_hook(lambda *_: nested.append(other(x)))
    assert_same_bits(snn(x), first)
    handle.remove()
    assert_same_bits(nested[0], second)


def test_an_exception_in_the_middle_leaves_nothing_switched(ann: nn.Module, snn: nn.Module) -> None:
    want = snn(tokens())

    def fail(*_: Any) -> None:
        raise KeyError("a hook that fails")

    handle = snn.layers[1].attention.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="a hook that fails"):
        snn(tokens())
    handle.remove()
    assert SLOT.mode is None
    x = tokens()
    assert_same_bits(F.gelu(x) @ x.mT, F.gelu(x.clone()) @ x.clone().mT)
    assert torch.overrides._get_current_function_mode_stack() == []
    assert_same_bits(ann(x), transformer()(x))
    assert_same_bits(snn(x), want)


def test_an_exception_inside_an_operator_leaves_nothing_switched(snn: nn.Module) -> None:
    want = snn(tokens())
    with pytest.raises(RuntimeError):
        snn.layers[0].attention.q(torch.randn(3, WIDTH + 1))
    with pytest.raises(UnseenSiteError):
        snn.squashed(tokens())
    assert not SLOT.inside_operator
    assert_same_bits(snn(tokens()), want)


def test_a_failed_conversion_leaves_nothing_switched(snn: nn.Module) -> None:
    want = snn(tokens())
    for batch in (torch.randn(3, WIDTH + 1), torch.full((4, 6, WIDTH), torch.nan)):
        with pytest.raises(ValueError, match=r"refused|met nan"):
            convert(transformer(), [batch])
        assert (SLOT.mode, SLOT.next_mode, SLOT.inside_operator) == (None, None, False)
    assert_same_bits(snn(tokens()), want)


# --- the caller's model


def test_the_callers_model_is_untouched() -> None:
    model = transformer().train()
    model.register_forward_hook(lambda *_: None)
    model.layers[0].eval()
    classes = {path: type(module) for path, module in model.named_modules()}
    modes = {path: module.training for path, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    hooks = {path: (len(m._forward_hooks), len(m._forward_pre_hooks)) for path, m in model.named_modules()}
    x = tokens()
    attached = set(vars(x))
    for copied in (True, False):
        snn = convert(model, [x], copy=copied)
        snn(x)
    assert {path: type(module) for path, module in model.named_modules()} == classes
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert {p: (len(m._forward_hooks), len(m._forward_pre_hooks)) for p, m in model.named_modules()} == hooks
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == pointers
    for name, tensor in model.state_dict().items():
        assert_same_bits(tensor, state[name])
    assert model.head.weight is model.embed.weight
    assert set(vars(x)) - attached <= {"_mbe_mark"}
    assert not snn.training


def test_class_name_signature_and_repr(ann: nn.Module, snn: nn.Module) -> None:
    assert isinstance(snn, Transformer)
    assert isinstance(snn.layers[0].norm, nn.LayerNorm)
    assert type(snn).__name__ == "Transformer"
    assert type(snn).__module__ == Transformer.__module__
    assert inspect.signature(snn.forward) == inspect.signature(ann.forward)
    assert inspect.signature(snn.forward_features) == inspect.signature(ann.forward_features)
    assert snn.forward_features.__doc__ == ann.forward_features.__doc__
    assert "CalibratedNode" in repr(snn)
    assert any(isinstance(module, CalibratedNode) for module in snn.modules())
    assert any(name.startswith("mbe.") for name in snn.state_dict())


@pytest.mark.parametrize("copied", [True, False])
def test_parameters_are_copied_or_shared(copied: bool) -> None:
    model = transformer()
    model.register_buffer("table", torch.ones(3))
    snn = convert(model, [tokens()], copy=copied)
    for name, parameter in model.named_parameters():
        assert (snn.get_parameter(name).data_ptr() == parameter.data_ptr()) is not copied
    assert (snn.table.data_ptr() == model.table.data_ptr()) is not copied
    assert snn.head.weight is snn.embed.weight
    assert [n for n, _ in snn.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_sharing_follows_the_weights() -> None:
    model = transformer()
    snn = convert(model, [tokens()], copy=False)
    with torch.no_grad():
        model.embed.weight.zero_()
    assert torch.equal(snn(tokens()), torch.zeros(4, 6, WIDTH))


def test_train_and_eval(snn: nn.Module) -> None:
    other = copy.deepcopy(snn)
    want = snn(tokens())
    other.train()
    assert other.dropout.training
    assert not torch.equal(other(tokens()), want), "dropout is at work"
    assert "(root):forward_features/tanh" in spikes_of(other, lambda: other(tokens()))
    other.eval()
    assert_same_bits(other(tokens()), want)


# --- a Sequential as root


def test_a_sequential_stays_one() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh()))
    snn = spiking(model)
    assert isinstance(snn, nn.Sequential)
    assert len(snn) == 3
    assert [type(m).__name__ for m in snn] == ["Linear", "GELU", "Sequential"]
    assert snn[0] is next(iter(snn))
    assert snn[-1] is snn[2]
    assert snn[2][1] is snn[-1][-1]
    x = tokens()
    want = snn(x)
    assert want.shape == (4, 6, 3)
    head, tail = snn[:2], snn[2:]
    assert type(head) is nn.Sequential
    assert len(head) == 2
    # the tail's first layer takes the GELU's train inside, and encodes nothing twice
    assert_same_bits(snn[2](snn[1](snn[0](x))), tail(head(x)))
    with pytest.raises(IndexError):
        snn[3]
    assert not torch.equal(want, model(x))


class _Chain(nn.Sequential):
    """Walks its own children, as sentence_transformers does, and takes a dict."""

    def forward(self, features: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        x = features["x"]
        for _, module in self.named_children():
            x = module(x)
        for module in self.children():
            x = module(x)
        return x


def test_a_root_that_walks_its_children_and_takes_a_dict() -> None:
    model = _Chain(nn.Linear(WIDTH, WIDTH), nn.GELU()).eval()
    batch = {"x": tokens()}
    snn = convert(model, [((batch,), {})], MBEConfig(time_steps=16))
    torch.testing.assert_close(snn(batch), model(batch), atol=2e-3, rtol=0)
    assert not torch.equal(snn(batch), model(batch))
    assert [name for name, _ in snn.named_children()] == [
        "0",
        "1",
        "mbe",
    ]  # outside a forward nothing is hidden
    assert snn.double()(batch | {"x": tokens().double()}).dtype == torch.float64


def test_a_mapping_for_a_model_that_wants_it_whole_says_how() -> None:
    model = _Chain(nn.Linear(WIDTH, WIDTH), nn.GELU()).eval()
    with pytest.raises(CalibrationError, match=r"give \(\(mapping,\), \{\}\) as a batch"):
        convert(model, [{"x": tokens()}])


class _Named(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        for name, module in self.items():
            x = module(x) + len(name)
        return x * len(self) + len(list(self)) + len(self.keys()) + len(self.values())


class _Gaps(nn.Module):
    """A list with a None in it, as Informer's encoder has for layers without a convolution after them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.after = nn.ModuleList([nn.GELU(), None])  # type: ignore[list-item]

    def forward(self, x: Tensor) -> Tensor:
        for layer, after in zip(self.layers, self.after, strict=True):
            x = layer(x) if after is None else after(layer(x))
        return x


def test_a_module_list_keeps_its_places_without_a_module() -> None:
    model = _Gaps().eval()
    snn = convert(model, [tokens()], MBEConfig(time_steps=16))
    torch.testing.assert_close(snn(tokens()), model(tokens()), atol=2e-3, rtol=0)
    assert len(snn.after) == 2  # type: ignore[arg-type]


def test_a_module_dict_as_root_shows_its_own_modules() -> None:
    model = _Named({"in": nn.Linear(WIDTH, WIDTH), "act": nn.Tanh()}).eval()
    snn = convert(model, [tokens()], MBEConfig(time_steps=16))
    torch.testing.assert_close(snn(tokens()), model(tokens()), atol=2e-3, rtol=0)
    assert list(snn) == ["in", "act"]  # type: ignore[call-overload]


# --- hooks and modes


def test_forward_hooks_that_edit_outputs(snn: nn.Module) -> None:
    x, want = tokens(), snn(tokens())
    handle = snn.layers[0].register_forward_hook(lambda module, args, out: out * 0)
    zeroed = snn(x)
    handle.remove()
    assert not torch.equal(zeroed, want)
    assert_same_bits(zeroed[0, 0], zeroed[3, 5])
    handle = snn.layers[1].register_forward_pre_hook(lambda module, args: (args[0] * 0, *args[1:]))
    assert_same_bits(snn(x), zeroed)
    handle.remove()
    handle = snn.register_forward_hook(lambda module, args, out: {"out": out})
    assert_same_bits(snn(x)["out"], want)
    handle.remove()
    assert_same_bits(snn(x), want)


class Named(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def test_the_users_own_mode_around(snn: nn.Module) -> None:
    want = snn(tokens())
    with Named() as mode:
        assert_same_bits(snn(tokens()), want)
    assert "linear" in mode.names
    assert "gelu" not in mode.names


def test_the_users_own_mode_inside() -> None:
    mode = Named()

    def watched(m: Calling, x: Tensor) -> Tensor:
        with mode:
            return torch.tanh(m.fc(x))

    snn = spiking(Calling(watched))
    mode.names.clear()
    assert spikes_of(snn, lambda: snn(tokens())) == {"fc:linear", "(root):tanh"}
    assert "tanh" in mode.names, "the user's mode saw the call, then ours routed it"


# --- awkward forwards


def _relu_(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x)
    torch.relu_(h)
    return m.fc(h)


def _functional(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x)
    F.relu(h, inplace=True)
    return m.fc(h)


def _positional(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x)
    F.elu(h, 1.0, True)
    F.hardswish(h, True)
    return m.fc(h)


def _mul_(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x)
    h.mul_(x)
    return m.fc(h)


def _augmented(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x)
    h *= x
    h /= x.abs() + 1
    h += x
    return m.fc(h)


def _through_a_view(m: Calling, x: Tensor) -> Tensor:
    h = torch.zeros(4, 6, WIDTH)
    h[:, ::2] = m.fc(x)[:, ::2]
    h[..., :3].mul_(x[..., :3])
    return m.fc(h)


def _module_in_place(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x)
    nn.SiLU(inplace=True)(h)
    return m.fc(h)


@pytest.mark.parametrize(
    "function",
    [_relu_, _functional, _positional, _mul_, _augmented, _through_a_view, _module_in_place],
)
def test_in_place_activations(function: Callable) -> None:
    torch.manual_seed(0)
    model = Calling(function)
    x = tokens()
    snn = convert(model, [x])
    with torch.no_grad():
        want, got = model(x), snn(x)
    assert len(report(snn).sites) > 1
    assert not report(snn).unsupported
    assert 0 < (got - want).abs().max() < 1e-3 * want.abs().max()
    assert_same_bits(x, tokens())


def _by_keyword(m: Calling, x: Tensor) -> Tensor:
    h = F.layer_norm(input=F.linear(input=x, weight=m.fc.weight), normalized_shape=(WIDTH,))
    h = F.softmax(input=h, dim=-1) + F.gelu(input=x) + torch.pow(input=x, exponent=2)
    h = h + torch.div(input=x, other=x.abs() + 1) + torch.mul(input=h, other=x)
    return torch.matmul(input=h, other=x.mT)


def _by_method(m: Calling, x: Tensor) -> Tensor:
    h = m.fc(x).softmax(-1).matmul(x.mT).exp().square()
    return h.div(h + 1).tanh().mul(h).pow(3).rsqrt().sigmoid()


@pytest.mark.parametrize("function", [_by_keyword, _by_method])
def test_every_spelling_of_a_call(function: Callable) -> None:
    torch.manual_seed(0)
    model, x = Calling(function), tokens()
    snn = convert(model, [x])
    assert len(report(snn).sites) >= 8
    want = model(x)
    assert (snn(x) - want).abs().max() < 1e-3 * want.abs().max()


def test_a_layer_shared_by_several_depths() -> None:
    snn = convert(transformer(depth=1, repeats=3), [tokens()])
    assert sum(s.site == "layers.0:gelu" for s in report(snn).sites) == 1
    with count_spikes(snn) as counts:
        snn(tokens())
    assert counts.neurons["layers.0:gelu", "neuron"].elements == 3 * 4 * 6 * 2 * WIDTH
    want = transformer(depth=1, repeats=3)(tokens())
    assert (snn(tokens()) - want).abs().max() < 1e-2


def test_a_module_called_a_varying_number_of_times() -> None:
    def looping(m: Calling, x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = m.body(x)
        return x

    torch.manual_seed(0)
    model = Calling(looping)
    model.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    snn = convert(model, [((tokens(),), {"times": n}) for n in (3, 1)])
    for times in (0, 1, 2, 3):
        assert (snn(tokens(), times) - model(tokens(), times)).abs().max() < 1e-3


def test_calibration_without_a_mask_and_use_with_one(ann: nn.Module, snn: nn.Module) -> None:
    x = tokens()
    causal = torch.full((6, 6), -torch.inf).triu(1)
    keep = torch.tensor([1, 1, 1, 1, 0, 0]).expand(4, 6)
    precise = convert(ann, [x])
    for arguments in (
        {"mask": causal},
        {"mask": causal.nan_to_num(neginf=torch.finfo().min)},
        {"weight": keep},
    ):
        got, want = precise(x, **arguments), ann(x, **arguments)
        assert got.isfinite().all()
        assert (got - want).abs().max() < 1e-2
        assert (got - precise(x)).abs().max() > 1e-2


def test_a_float_mask_that_multiplies_is_an_activation_and_a_new_site(snn: nn.Module) -> None:
    with pytest.raises(UnseenSiteError, match=r"forward_features/mul\(a,a\)"):
        snn(tokens(), weight=torch.ones(4, 6))


def test_other_shapes_than_in_calibration(ann: nn.Module) -> None:
    snn = convert(ann, [tokens()])
    for shape in ((1, 1), (7, 2), (2, 11), (0, 6)):
        x = tokens(*shape, seed=1).clamp(-2, 2)
        with torch.no_grad():
            assert ((snn(x) - ann(x)).abs() < 1e-2).all()


# --- calibrating once, converting often


def same_tables(one: nn.Module, other: nn.Module) -> None:
    here, there = one.mbe.state_dict(), other.mbe.state_dict()
    assert list(here) == list(there)
    assert len(here) > 100
    for name, tensor in here.items():
        assert_same_bits(tensor, there[name]) if tensor.is_floating_point() else None


def test_two_conversions_are_bit_identical(ann: nn.Module) -> None:
    one, other = (convert(ann, [tokens(), tokens(seed=2)]) for _ in range(2))
    same_tables(one, other)
    x = tokens(seed=3)
    assert_same_bits(one(x), other(x))


def test_a_calibration_serves_a_sweep(ann: nn.Module) -> None:
    calibration = calibrate(ann, [tokens()])
    for steps in (8, 4, 8):
        config = MBEConfig(time_steps=steps, bases=8)
        reused, fresh = convert(ann, calibration, config), convert(ann, [tokens()], config)
        same_tables(reused, fresh)
        assert_same_bits(reused(tokens()), fresh(tokens()))
        assert report(reused).as_dict() == report(fresh).as_dict()


def test_calibration_data_in_every_form(ann: nn.Module) -> None:
    x = tokens()
    want = convert(ann, [x])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(4)), batch_size=4)
    for batches in ([{"x": x}], [(x, torch.zeros(4))], [((x,), {})], [[x]], (b for b in [x]), loader):
        same_tables(convert(ann, batches), want)


def test_more_batches_widen_the_ranges(ann: nn.Module) -> None:
    wide = tokens(seed=9) * 40  # beyond what the last tanh was fitted for
    narrow_one, wide_one = convert(ann, [tokens()]), convert(ann, [tokens(), wide])
    with pytest.warns(RangeWarning):
        narrow_one(wide)
    wide_one(wide)
    assert sum(n.outside for s in report(wide_one).sites for n in s.neurons) == 0


class _Chooses(nn.Module):
    """A forward chosen in the constructor, as timm's FasterNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.forward = self.forward_gelu  # type: ignore[method-assign]

    def forward_gelu(self, x: Tensor) -> Tensor:
        return F.gelu(self.fc(x))


def test_a_forward_chosen_among_the_methods() -> None:
    model = _Chooses().eval()
    snn = spiking(nn.Sequential(model, nn.Linear(WIDTH, WIDTH)))
    ann = nn.Sequential(model, snn[1])  # type: ignore[index]
    assert [s.site for s in report(snn).sites] == ["0.fc:linear", "0:forward_gelu/gelu", "1:linear"]
    wanted = snn(tokens())
    assert not torch.equal(wanted, ann(tokens()))
    for same in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(same(tokens()), wanted)
    assert torch.equal(snn[0](tokens()), snn[0].forward_gelu(tokens()))  # type: ignore[index]
    assert model.forward.__func__ is _Chooses.forward_gelu


class _LooksAtItsClass(nn.Module):
    """Code that breaks under routing: a type comparison with ``is``."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x)) if type(self.fc) is nn.Linear else self.act(x)


def test_a_model_that_routing_changes_is_refused() -> None:
    with pytest.raises(
        ConversionError, match="_LooksAtItsClass computes something else once its modules are routed"
    ):
        convert(_LooksAtItsClass().eval(), [tokens()])


def test_random_numbers_in_a_forward() -> None:
    model = Calling(lambda m, x: m.fc(F.gelu(m.fc(x) + torch.randn_like(x)))).eval()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    snn = convert(model, [tokens()], MBEConfig(time_steps=16))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    got = snn(tokens())
    torch.manual_seed(5)
    torch.testing.assert_close(got, model(tokens()), atol=2e-3, rtol=0)
    assert locate_error(snn, model, tokens())[0].output < 1e-3


def test_a_model_with_a_memory_converts() -> None:
    def count(module: Calling, x: Tensor) -> Tensor:
        module.calls = getattr(module, "calls", 0) + 1
        return module.fc(F.gelu(module.fc(x) * module.calls))

    model = Calling(count).eval()
    convert(model, [tokens()], MBEConfig(time_steps=16))
