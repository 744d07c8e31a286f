"""Every spelling of a function has the same rule, wherever torch keeps it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from mbe_plugin.conversion.vocabulary.catalogue import SPELLINGS, UNARY_NAMES
from mbe_plugin.conversion.vocabulary.rules import UnaryRule


@pytest.mark.parametrize("namespace", [torch, torch.Tensor, F, torch.special], ids=str)
@pytest.mark.parametrize("name", UNARY_NAMES)
def test_functions_of_one_number(namespace: ModuleType | type, name: str) -> None:
    for spelling in (name, f"{name}_"):
        function = getattr(namespace, spelling, None)
        if function is None:
            continue
        known = SPELLINGS[function]
        assert isinstance(known.rule, UnaryRule)
        assert known.rule.op == name
