"""The audit: one more forward, watched by another instrument than the one that routes.

A TorchDispatchMode sees every aten operator, also those in scripted functions, autograd.Functions and custom
operators, where a TorchFunctionMode sees nothing. Activations are followed through storages. Outside the
operator modules an activation may only meet what is linear with fixed weights, or exact by design; anything else is a
finding. What no instrument sees is in BLIND_SPOTS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mbe_plugin.conversion.following.frames import SLOT, Refusal
from mbe_plugin.conversion.marks import holds_numbers

BLIND_SPOTS = (
    "values that leave torch and come back (numpy, .item(), .tolist()) and meet no weight afterwards",
    "extension code that reads a tensor's memory without calling torch operators",
    "decisions of Python code on values (branches, indices computed from activations)",
    "static, class and private methods and plain functions of the model called from outside its forwards (exact there)",
    "branches that neither calibration nor the audit's batch took (refused at run time)",
)

LINEAR = frozenset(
    "add sub rsub neg sum mean cumsum div mul convolution _convolution mm addmm bmm baddbmm addbmm addmv mv dot "
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm avg_pool1d "
    "avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
    "_upsample_bicubic2d_aa upsample_linear1d upsample_trilinear3d lerp einsum addcmul addcdiv dropout "
    "native_dropout diff trace mkldnn_linear cumulative_trapezoid".split()
)
# whatever the walk sees of these it encodes, so one that is left over was hidden from it
WEIGHTED = frozenset(
    "mm addmm bmm baddbmm addbmm addmv mv dot vdot convolution _convolution mkldnn_linear einsum bilinear "
    "_fft_r2c _fft_c2c _fft_c2r _sparse_mm _sparse_addmm sspaddmm hspmm".split()
)
PRODUCTS = frozenset(
    "mul mm bmm baddbmm addbmm addmm addmv mv dot addcmul convolution _convolution einsum".split()
)
QUOTIENTS = frozenset("div addcdiv".split())
REDUCTIONS_BY_PRODUCT = ("prod", "multiply")
EXACT = frozenset(
    "max min amax amin maximum minimum fmax fmin clamp clamp_min clamp_max where eq ne lt le gt ge isnan isinf "
    "nan_to_num isfinite isin any all logical_and logical_or logical_not logical_xor "
    "bitwise_and bitwise_or bitwise_not masked_fill masked_scatter "
    "masked_select gather scatter scatter_add scatter_reduce index index_put _index_put_impl index_add index_copy "
    "index_fill index_select take take_along_dim select slice slice_scatter select_scatter diagonal diagonal_scatter "
    "view _unsafe_view reshape _reshape_alias unsafe_split split split_with_sizes unsafe_chunk chunk unbind cat stack "
    "hstack vstack expand expand_as repeat tile repeat_interleave permute transpose t numpy_T movedim squeeze "
    "unsqueeze flatten unflatten narrow as_strided clone copy contiguous to _to_copy detach alias lift_fresh "
    "zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full new_empty_strided empty "
    "rand_like randn_like fill zero sign sgn abs relu sort argsort topk argmax argmin kthvalue median mode max_pool2d "
    "max_pool2d_with_indices max_pool1d max_pool1d_with_indices max_pool3d_with_indices adaptive_max_pool2d roll "
    "flip rot90 tril triu constant_pad_nd pad reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d "
    "pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im unfold unfold_backward nonzero "
    "count_nonzero numel size stride is_nonzero _local_scalar_dense item equal floor ceil round trunc set_ "
    "resize_ view_as_real view_as_complex _conj conj real imag complex one_hot embedding is_same_size "
    "sym_size sym_numel sym_stride prim_device cummax cummin unique _unique2 bucketize searchsorted "
    "_nested_tensor_from_mask_left_aligned _pack_padded_sequence _assert_async _assert_scalar record_stream "
    "cross_entropy_loss".split()
)

# exact of real numbers, but not of complex ones
MODULUS = frozenset("abs sgn".split())

_SHAPE_ONLY = frozenset(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full "
    "new_empty_strided".split()
)


@dataclass
class Findings:
    """What the audit saw outside the operators, per (module path, aten operator), with counts."""

    unsupported: Counter[tuple[str, str]] = field(default_factory=Counter)
    linear: Counter[tuple[str, str]] = field(default_factory=Counter)
    exact: Counter[tuple[str, str]] = field(default_factory=Counter)


class Audit(TorchDispatchMode):
    """Classifies every aten operator on activations outside operator modules.

    inputs: the floating tensors of the call; embedding look-ups are activations too.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.findings = Findings()
        self._refusal: Refusal | None = None  # the last that was counted
        self._activations: dict[int, StorageWeakRef] = {}
        self._limit = 64
        for tensor in inputs:
            self.follow(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run func, follow the activations through it, and note what it was."""
        kwargs = kwargs or {}
        active = sum(1 for t in _floating((args, kwargs)) if self._is_activation(t))
        with torch._C.DisableTorchFunction():  # or the router would see what ordinarily is hidden from it
            out = func(*args, **kwargs)
        namespace, name = func._schema.name.split("::")
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        if active or name == "embedding":
            self._follow_through(func, args, kwargs, out)
        mode = SLOT.mode
        if active and not SLOT.inside_operator:
            path = mode.frames[-1].sites.path or "(root)" if mode and mode.frames else "(hooks of the root)"
            named = zip((a.name for a in func._schema.arguments), args, strict=False)
            self._note(path, namespace, name, args, {**dict(named), **kwargs}, active)
        return out

    def _note(
        self, path: str, namespace: str, name: str, args: tuple, named: dict[str, Any], active: int
    ) -> None:
        if name == "div" and named.get("rounding_mode") is not None and not self._by_activation(args):
            name = named["rounding_mode"]  # exact, as floor and trunc are
        key = (path, name if namespace == "aten" else f"{namespace}::{name}")
        if SLOT.refused is not None:
            if SLOT.refused is not self._refusal:  # its first operator; one call counts once
                self._refusal = SLOT.refused
                self.findings.unsupported[path, SLOT.refused.name] += 1
        elif name in WEIGHTED:
            self.findings.unsupported[path, f"{name} on an input that no neuron encodes"] += 1
        elif namespace not in ("aten", "prims"):
            self.findings.unsupported[key] += 1
        elif name in EXACT and not self._inexact_use(name, args, named):
            self.findings.exact[key] += 1
        elif name in LINEAR and not self._nonlinear_use(name, args, named, active):
            self.findings.linear[key] += 1
        else:
            self.findings.unsupported[key] += 1

    def _inexact_use(self, name: str, args: tuple, named: dict[str, Any]) -> bool:
        """A modulus of complex numbers, or a product under the name of what moves values."""
        return (name in MODULUS and args[0].is_complex()) or named.get("reduce") in REDUCTIONS_BY_PRODUCT

    def _nonlinear_use(self, name: str, args: tuple, named: dict[str, Any], active: int) -> bool:
        """A product of two activations, a division by one, or a normalisation by the batch's own statistics."""
        if name in QUOTIENTS:
            return self._by_activation(args) or named.get("rounding_mode") is not None
        if "batch_norm" in name:
            return bool(named.get("training", named.get("train", False)))
        if name == "lerp":
            weight = named.get("weight")
            return active > 1 and isinstance(weight, Tensor) and self._is_activation(weight)
        if name not in PRODUCTS or active < 2:
            return False
        factors = args[-2:] if name in ("addmm", "baddbmm", "addbmm", "addmv", "addcmul") else args[:2]
        return sum(1 for t in factors if isinstance(t, Tensor) and self._is_activation(t)) > 1

    def _by_activation(self, args: tuple) -> bool:
        return len(args) > 1 and isinstance(args[-1], Tensor) and self._is_activation(args[-1])

    def _follow_through(self, func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        if func._schema.name.split("::")[1] not in _SHAPE_ONLY:
            for tensor in _floating(out):
                self.follow(tensor)
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _floating(value):
                    self.follow(tensor)

    def follow(self, tensor: Tensor) -> None:
        """What this tensor's storage holds is activations from now on."""
        storage = tensor.untyped_storage()
        # the weak reference keeps the address from being used again for another storage
        if len(self._activations) >= self._limit:
            self._activations = {k: ref for k, ref in self._activations.items() if not ref.expired()}
            self._limit = 2 * len(self._activations) + 64
        self._activations[storage._cdata] = StorageWeakRef(storage)

    def _is_activation(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._activations


def _floating(value: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor) and holds_numbers(leaf):
            yield leaf
