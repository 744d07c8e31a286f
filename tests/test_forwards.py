"""A forward that is no plain function of its class routes like any other, or is refused by its module's name."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, tokens
from oracle import assert_same_bits
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import ConversionError, MBEConfig, count_spikes, report

pytestmark = pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")

QUICK = MBEConfig(time_steps=4, bases=8, identity_bases=2)


def convert(model: nn.Module, **settings: Any) -> nn.Module:
    return mbe_plugin.convert(model, [tokens()], QUICK, **settings)


def curved(x: Tensor, scale: float = 2.0) -> Tensor:
    """One site of its own, and no elementwise function that probing could recognise as a whole."""
    return (F.gelu(x) + x.flip(-1)) * scale


class Doubling:
    """A decorator that is an object and binds as functions do."""

    def __init__(self, function: Callable) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __get__(self, module: Any, owner: type) -> Any:
        return self if module is None else functools.partial(self.function, module)


class Curve:
    """A callable object without ``__get__``, to which Python passes no module."""

    scale = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        return curved(x, self.scale)


def logged(function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Plain(nn.Module):
    scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return curved(x, self.scale)

    def _other(self, x: Tensor) -> Tensor:
        return curved(x, self.scale)


class Static(nn.Module):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return curved(x)


class OfClass(nn.Module):
    scale = 2.0

    @classmethod
    def forward(cls, x: Tensor) -> Tensor:
        return curved(x, cls.scale)


class Partial(nn.Module):
    def scaled(self, scale: float, x: Tensor) -> Tensor:
        return curved(x, scale)

    forward = functools.partialmethod(scaled, 2.0)


class ByObject(nn.Module):
    @Doubling
    def forward(self, x: Tensor) -> Tensor:
        return curved(x)


class ByWrapper(nn.Module):
    @logged
    def forward(self, x: Tensor) -> Tensor:
        return curved(x)


class IsObject(nn.Module):
    forward = Curve()


class IsPartial(nn.Module):
    forward = functools.partial(curved, scale=2.0)


class ByProperty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    @property
    def forward(self) -> Callable:  # type: ignore[override]
        return functools.partial(curved, scale=self.scale)


class Inherited(Static):
    pass


ON_THE_CLASS = [
    Static, OfClass, Partial, ByObject, ByWrapper, IsObject, IsPartial, ByProperty, Inherited
]  # fmt: skip


def around(module: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), module, nn.Linear(WIDTH, WIDTH)).eval()


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return convert(around(Plain()))


# IsPartial has a partial object in its class, which Python 3.14 will make a method of and 3.13 warns of
@pytest.mark.filterwarnings("ignore:functools.partial will be a method descriptor:FutureWarning")
@pytest.mark.parametrize("kind", ON_THE_CLASS)
def test_a_forward_on_the_class(kind: type[nn.Module], plain: nn.Module) -> None:
    ann = around(kind())
    snn = convert(ann)
    assert_routes_like(snn, plain)
    if kind is not ByProperty:  # only an instance knows
        assert inspect.signature(snn[1].forward) == inspect.signature(ann[1].forward)  # type: ignore[index]
    for same in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert_routes_like(same, plain)


def assert_routes_like(snn: nn.Module, plain: nn.Module) -> None:
    """The same sites and the same bits, through the whole and through the module, called in either way."""
    x = tokens()
    assert [site.site for site in report(snn).sites] == [site.site for site in report(plain).sites]
    assert_same_bits(snn(x), plain(x))
    hidden = plain[0](x)
    wanted = plain[1](hidden)
    assert not torch.equal(wanted, curved(hidden))
    for call in (snn[1], snn[1].forward):
        with count_spikes(snn) as counts:
            assert_same_bits(call(hidden), wanted)
        assert {site for site, _ in counts.neurons} == {"1:gelu"}


def test_a_forward_that_asks_for_its_class_gets_the_class() -> None:
    seen = []

    class Asking(nn.Module):
        @classmethod
        def forward(cls, x: Tensor) -> Tensor:
            seen.append(cls)
            return F.gelu(x)

    convert(around(Asking()))
    assert all(issubclass(cls, Asking) for cls in seen)


def test_a_static_forward_with_several_arguments_and_defaults() -> None:
    class Gate(nn.Module):
        @staticmethod
        def forward(x: Tensor, gate: Tensor, *, power: float = 1.0) -> Tensor:
            return torch.sigmoid(gate) * x * power

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.gate = nn.Linear(WIDTH, WIDTH), Gate()

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(x, gate=self.up(x), power=0.5)

    ann = Gated().eval()
    snn = mbe_plugin.convert(ann, [tokens()])
    assert "gate:sigmoid" in [site.site for site in report(snn).sites]
    torch.testing.assert_close(snn(tokens()), ann(tokens()), atol=1e-3, rtol=0)


# --- on the instance


def patched(self: nn.Module, x: Tensor) -> Tensor:
    return curved(x, self.scale)  # type: ignore[arg-type]


def through_the_class(self: nn.Module, x: Tensor) -> Tensor:
    return type(self).forward(self, x)


def through_the_old(self: nn.Module, x: Tensor) -> Tensor:
    return self.old(x)


def _method(module: nn.Module) -> None:
    module.forward = MethodType(patched, module)


def _function(module: nn.Module) -> None:
    module.forward = curved


def _partial(module: nn.Module) -> None:
    module.forward = functools.partial(patched, module)


def _partial_of_a_method(module: nn.Module) -> None:
    module.forward = functools.partial(MethodType(patched, module))


def _object(module: nn.Module) -> None:
    module.forward = Curve()


def _calling_the_class(module: nn.Module) -> None:
    module.forward = MethodType(through_the_class, module)


def _keeping_the_old(module: nn.Module) -> None:
    module.old = module.forward
    module.forward = MethodType(through_the_old, module)


def _private_method(module: nn.Module) -> None:
    module.forward = module._other  # type: ignore[union-attr]


def _scale_in_a_closure(module: nn.Module) -> None:
    scale, table = 2.0, [torch.ones(())]
    module.forward = lambda x: curved(x, scale) * table[0]


PATCHES = [
    _method, _function, _partial, _partial_of_a_method, _object, _calling_the_class, _keeping_the_old,
    _private_method, _scale_in_a_closure,
]  # fmt: skip


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("patch", PATCHES)
def test_a_forward_on_the_instance(patch: Callable, copied: bool, plain: nn.Module) -> None:
    ann = around(Plain())
    patch(ann[1])
    before, signature = ann[1].forward, inspect.signature(ann[1].forward)
    snn = convert(ann, copy=copied)
    assert_routes_like(snn, plain)
    assert inspect.signature(snn[1].forward) == signature  # type: ignore[index]
    assert ann[1].forward is before
    assert type(ann[1]) is Plain
    assert_routes_like(copy.deepcopy(snn), plain)
    if patch not in (_scale_in_a_closure, _partial_of_a_method):  # which cannot be pickled in the ANN either
        assert_routes_like(pickle.loads(pickle.dumps(snn)), plain)
    assert list(snn.state_dict()) == list(plain.state_dict())


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return curved(x)


def test_a_forward_on_the_instance_works_with_the_copys_own_weights() -> None:
    ann = around(Scaled())
    ann[1].forward = MethodType(patched, ann[1])
    snn = convert(ann)
    with torch.no_grad():
        snn[1].scale.zero_()  # type: ignore[index, operator, union-attr]
    assert torch.equal(snn[1](tokens()), torch.zeros(4, 6, WIDTH))  # type: ignore[index]
    assert ann[1].scale == 2


def test_the_forward_of_another_module() -> None:
    """A wrapper that hands on its inner module's forward: its sites are the inner module's."""
    outer = nn.Module()
    outer.inner = Plain()
    outer.forward = outer.inner.forward
    snn = convert(around(outer))
    assert [site.site for site in report(snn).sites] == ["0:linear", "1.inner:gelu", "2:linear"]
    x = tokens()
    assert_same_bits(snn[1](x), snn[1].inner(x))  # type: ignore[index]


def test_a_generator_on_the_instance_is_refused_outside_a_forward() -> None:
    def streaming(self: nn.Module, x: Tensor) -> Any:
        yield F.gelu(x)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stream = Plain()
            self.stream.forward = MethodType(streaming, self.stream)

        def forward(self, x: Tensor) -> Tensor:
            return next(iter(self.stream(x)))

    snn = convert(nn.Sequential(First()))
    snn(tokens())
    with pytest.raises(ConversionError, match=r"0\.stream\.forward is a generator"):
        snn[0].stream(tokens())  # type: ignore[index]


MODEL = around(Plain())


def _closure_over_the_forward(module: nn.Module) -> Callable:
    old = module.forward
    return lambda *args: old(*args)


def _closure_in_a_list(module: nn.Module) -> Callable:
    held = [{"module": module}]
    return lambda x: held[0]["module"].old(x)


def _closure_in_a_decorator(module: nn.Module) -> Callable:
    return logged(module.forward)


def _default(module: nn.Module) -> Callable:
    return lambda x, module=module: curved(x, module.scale)


def _global(module: nn.Module) -> Callable:
    return lambda x: MODEL[1].scale * curved(x, 1.0)


def _nested(module: nn.Module) -> Callable:
    return functools.partial(_closure_over_the_forward(module))


def _attribute_of_an_object(module: nn.Module) -> Callable:
    curve = Curve()
    curve.function = _closure_over_the_forward(module)  # type: ignore[attr-defined]
    return curve


def _method_with_a_closure(module: nn.Module) -> Callable:
    return MethodType(lambda self, x: curved(x, module.scale), module)


TIED = [
    _closure_over_the_forward, _closure_in_a_list, _closure_in_a_decorator, _default, _global, _nested,
    _attribute_of_an_object, _method_with_a_closure,
]  # fmt: skip


@pytest.mark.parametrize("tie", TIED)
def test_a_function_that_holds_the_model_as_it_was_is_refused(tie: Callable) -> None:
    """Its copy would run the ANN's own modules, or work with the ANN's own weights."""
    try:
        MODEL[1].forward = tie(MODEL[1])
        what = "Sequential" if tie is _global else "Plain"
        with pytest.raises(
            ConversionError, match=rf"^1 has a forward of its own, .* holds the {what} of .*MethodType"
        ):
            convert(MODEL)
    finally:
        vars(MODEL[1]).pop("forward", None)


def test_a_function_that_holds_a_parameter_is_refused() -> None:
    ann = around(Scaled())
    scale = ann[1].scale
    ann[1].forward = lambda x: curved(x) * scale
    with pytest.raises(ConversionError, match=r"^1 has a forward of its own, .* holds a parameter or buffer"):
        convert(ann)


# --- compiled


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_all_of_them_compiled_in_one_graph() -> None:
    patched = [Plain() for _ in PATCHES]
    for module, patch in zip(patched, PATCHES, strict=True):
        patch(module)
    # torch.compile itself fails on a partialmethod
    on_the_class = [kind() for kind in ON_THE_CLASS if kind is not Partial]
    snn = convert(around(nn.Sequential(*on_the_class, *patched)))
    assert len(report(snn).sites) == 2 + len(patched) + len(on_the_class)
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = snn(tokens())
        compiled = torch.compile(snn, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(tokens()), wanted)
