"""Folders of pretrained models as transformers and timm write them, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = "a bird sings to the old sea and no one hears it but me".split()
SENTENCES = (
    "a bird sings",
    "the old sea sings to me",
    "",
    "no one hears it",
    "one bird and one sea",
    "it hears me",
)


def word_tokenizer(folder: Path, **special: str) -> Any:
    """A tokenizer of whole words, written to the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", *WORDS]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BertForSequenceClassification with its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=32, max_position_embeddings=24, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer(folder, pad_token="[PAD]")
    return folder


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT of timm with arguments of its own."""
    import timm

    folder = tmp_path_factory.mktemp("vit")
    arguments = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 2}
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    timm.models.save_for_hf(vit, str(folder), model_args=arguments, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n".join(SENTENCES), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in two folders, of two kinds and sizes, and a file that is none."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    noise = torch.Generator().manual_seed(0)
    for i in range(6):
        place = folder / "ab"[i % 2] / f"{i}.{('png', 'JPG')[i // 3]}"
        place.parent.mkdir(exist_ok=True)
        values = torch.randint(0, 256, (40 + i, 36, 3), generator=noise, dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(place)
    (folder / "a" / "notes.txt").write_text("no image")
    return folder
