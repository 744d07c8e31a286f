"""benchmarks/real_networks.py: calibration apart from evaluation, every item counted once, goals read off the rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the benchmarks are a folder of scripts

from benchmarks import real_networks
from benchmarks.real import images, quality, report
from benchmarks.real.workload import Row


def test_folds_deal_every_class_evenly() -> None:
    labels = torch.arange(4).repeat_interleave(torch.tensor([10, 11, 3, 9]))
    folds = images.folds_of(labels)
    for label in range(4):
        counts = torch.bincount(folds[labels == label], minlength=images.FOLDS)
        assert counts.max() - counts.min() <= 1
    sizes = torch.bincount(folds)
    assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(folds, images.folds_of(labels, seed=1))


def test_the_nearest_class_is_that_of_the_nearest_other_item() -> None:
    features, labels = torch.randn(30, 5), torch.randint(0, 4, (30,))
    found = images.nearest_class(features, labels)
    for i in range(30):
        others = [
            (torch.cosine_similarity(features[i], features[j], dim=0).item(), j) for j in range(30) if j != i
        ]
        assert found[i] == labels[max(others)[1]]


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """90 images of two classes, and a small DINOv2 with random weights."""
    from PIL import Image
    from transformers import Dinov2Config, Dinov2Model

    for name in ("one", "two"):
        (tmp_path / "stamps" / name).mkdir(parents=True)
        for i in range(45):
            Image.effect_noise((20, 20), 90).convert("RGB").save(tmp_path / "stamps" / name / f"{i}.png")
    shape = {"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1, "image_size": 28}
    monkeypatch.setattr(images, "load_dinov2", lambda: Dinov2Model(Dinov2Config(**shape)).eval())
    return tmp_path


def test_every_photograph_is_evaluated_once_and_never_by_a_network_that_it_calibrated(
    photographs: Path,
) -> None:
    [workload] = images.stamps(photographs)
    seen = []
    for part in workload.parts:
        known, evaluated = ([image.numpy().tobytes() for batch in batches for image in batch]
                            for batches in (part.calibration, part.evaluation))  # fmt: skip
        assert len(known) == images.CALIBRATION
        assert not set(known) & set(evaluated)
        seen += evaluated
    assert len(seen) == len(set(seen)) == 90


def test_each_photograph_is_judged_by_the_probe_that_did_not_know_it(photographs: Path) -> None:
    """Changing the other four probes' logits changes nothing."""
    [workload] = images.stamps(photographs)
    features, logits = torch.randn(90, 12), torch.randn(90, images.FOLDS, 2)
    row = workload.figures((features, logits), (features, logits))
    sizes = [sum(map(len, workload.parts[0].evaluation))]
    changed = logits.clone()
    changed[: sizes[0], 1:] = -changed[: sizes[0], 1:]
    changed[sizes[0] :, 0] = -changed[sizes[0] :, 0]
    assert workload.figures((features, logits), (features, changed)) == row
    changed[0, 0] = -changed[0, 0]
    assert workload.figures((features, logits), (features, changed))["flipped"] == 1


def row_of(network: str, measure: str, time_steps: int, bases: int, items: int, **figures: object) -> Row:
    names = dict.fromkeys(quality.COLUMNS, "") | {"network": network, "task": "task", "family": "routed"}
    numbers = {"time_steps": time_steps, "identity_bases": bases, "items": items, "measure": measure}
    return {name: str(value) for name, value in (names | numbers | figures).items()}


def test_goals_are_read_off_the_rows() -> None:
    rows = [
        row_of("words", "perplexity", 8, 8, 4080, loss=0.101),
        row_of("words", "perplexity", 8, 64, 4080, loss=-0.3),
        row_of("pictures", "accuracy", 4, 8, 268, changed=4, nearest_changed=5),
        row_of("sentences", "accuracy", 4, 8, 1000, changed=900),
    ]
    lines = [[c.strip() for c in line.strip("| ").split("|")] for line in report.goals(rows).splitlines()[2:]]
    assert [
        "words, task",
        "perplexity lost, %",
        "8",
        "at most 0.1",
        "0.101, **not met**",
        "-0.3, met",
    ] in lines
    assert [
        "pictures, task",
        "predictions changed of 268",
        "4",
        "at most 4",
        "4, met",
        "not measured",
    ] in lines
    assert [
        "pictures, task",
        "nearest class changed of 268",
        "4",
        "at most 4",
        "5, **not met**",
        "not measured",
    ] in lines
    assert not any("sentences" in line[0] for line in lines)


def test_a_row_replaces_the_one_with_its_key(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for bases, items in ((8, 10), (64, 20), (8, 30)):
        row = row_of("words", "perplexity", 8, bases, items)
        real_networks._keep(table, row, quality.KEY, quality.COLUMNS)
    assert [(r["identity_bases"], r["items"]) for r in real_networks._read(table)] == [
        ("8", "30"),
        ("64", "20"),
    ]
