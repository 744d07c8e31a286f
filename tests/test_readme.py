"""The README's example runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_first_example(
    minilm: nn.Module, minilm_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    batch = dict(minilm_tokenizer(["One sentence.", "And a longer one."], padding=True, return_tensors="pt"))
    names: dict[str, Any] = {"model": minilm, "calibration": [batch], "batch": batch}
    exec(example[1], names)
    with torch.no_grad():
        wanted = minilm(**batch).last_hidden_state
    torch.testing.assert_close(names["out"].last_hidden_state, wanted, rtol=0, atol=0.02)
    assert "layer_norm" in capsys.readouterr().out
