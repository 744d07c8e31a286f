"""python -m mbe_plugin: what it writes is what the Python interface makes; exit codes; one sentence for what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mbe_plugin
from mbe_plugin.command import main
from mbe_plugin.env import environment
from mbe_plugin.sources import open_model, read_batches

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_sentences_for_transformers(
    bert_folder: Path, sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "snn"
    assert run("convert", bert_folder, "--calibration", sentences, "--time-steps", 6, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "T = 6" in printed
    assert f"written to {out}" in printed

    source = open_model(bert_folder)
    batches = read_batches(source, sentences)
    wanted = mbe_plugin.convert(source.model, batches, mbe_plugin.MBEConfig(time_steps=6))
    found = mbe_plugin.load(out)
    with torch.no_grad():
        assert torch.equal(found(**batches[0]).logits, wanted(**batches[0]).logits)
    [again, *_] = read_batches(open_model(out), sentences)  # the tokenizer is there, too
    assert torch.equal(again["input_ids"], batches[0]["input_ids"])


def test_images_for_timm_and_written_over(
    timm_folder: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "convert",
        timm_folder,
        "--calibration",
        photographs,
        "--out",
        tmp_path,
        "--items",
        4,
        "--batch",
        2,
    )
    assert run(*options) == 0
    assert run(*options, "--time-steps", 4, "--bases", 16, "--identity-bases", 4, "--scale", "token") == 0
    capsys.readouterr()

    source = open_model(timm_folder)
    [batch, _] = read_batches(source, photographs, 4, 2)
    config = mbe_plugin.MBEConfig(time_steps=4, bases=16, identity_bases=4, scale="token")
    wanted = mbe_plugin.convert(source.model, read_batches(source, photographs, 4, 2), config)
    with torch.no_grad():
        assert torch.equal(mbe_plugin.load(tmp_path)(batch), wanted(batch))

    assert run("report", tmp_path, "--form", "json") == 0
    described = json.loads(capsys.readouterr().out)
    assert [site["site"] for site in described["sites"]] == [s.site for s in mbe_plugin.report(wanted).sites]
    assert described["time_steps"] == 4


@pytest.mark.filterwarnings("ignore::mbe_plugin.RangeWarning")  # the published neurons' fixed ranges
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--preset", "low_energy"), mbe_plugin.MBEConfig.low_energy()),
        (("--preset", "published", "--time-steps", "12"), mbe_plugin.MBEConfig.published(time_steps=12)),
        (("--code", "first_spike"), mbe_plugin.MBEConfig(code="first_spike")),
        (
            ("--config", "config.json", "--time-steps", "3"),
            mbe_plugin.MBEConfig(time_steps=3, dead_zone=0.25),
        ),
    ],
)
def test_the_configuration(
    options: tuple[str, ...],
    wanted: mbe_plugin.MBEConfig,
    bert_folder: Path,
    sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(mbe_plugin.MBEConfig(dead_zone=0.25).to_json())
    assert run("convert", bert_folder, "--calibration", sentences, "--out", "snn", *options) == 0
    assert (
        mbe_plugin.MBEConfig.from_json(json.dumps(json.loads(Path("snn/mbe.json").read_text())["config"]))
        == wanted
    )


def test_every_form_of_the_report(
    bert_folder: Path, sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("convert", bert_folder, "--calibration", sentences, "--out", tmp_path)
    described = mbe_plugin.report(mbe_plugin.load(tmp_path))
    for form, wanted in (
        ("text", str(described)),
        ("summary", described.summary()),
        ("markdown", described.to_markdown()),
        ("json", json.dumps(described.as_dict(), indent=1)),
    ):
        capsys.readouterr()
        assert run("report", tmp_path, "--form", form) == 0
        assert capsys.readouterr().out == wanted + "\n"


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("env") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in environment())


def test_what_is_refused_is_one_sentence_and_exit_code_1(
    bert_folder: Path, sentences: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: object) -> str:
        capsys.readouterr()
        assert run(*arguments) == 1
        return capsys.readouterr().err.splitlines()[-1]  # transformers draws a bar before

    out = ("--out", tmp_path / "snn")
    assert said("convert", tmp_path, "--calibration", sentences, *out).startswith(
        f"error: {tmp_path} holds no model"
    )
    assert "there is no calibration file" in said(
        "convert", bert_folder, "--calibration", tmp_path / "none.txt", *out
    )
    assert "AutoImageProcessor" in said("convert", bert_folder, "--calibration", photographs, *out)
    said_of_target = said("convert", bert_folder, "--calibration", sentences, "--out", bert_folder)
    assert said_of_target.endswith("is there already and holds something else; take a new folder for --out")
    assert "mbe.json does not exist" in said("report", tmp_path)
    (tmp_path / "file").write_text("")
    assert "file" in said(
        "convert", bert_folder, "--calibration", sentences, "--out", tmp_path / "file" / "snn"
    )
    assert not (tmp_path / "snn").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "COMMAND"),
        (("make",), "invalid choice: 'make'"),
        (("convert", "x", "--out", "y"), "--calibration"),
        (("convert", "x", "--calibration", "c", "--out", "y", "--time-steps", "99"), "time_steps"),
        (("convert", "x", "--calibration", "c", "--out", "y", "--code", "morse"), "code must be one of"),
        (("convert", "x", "--calibration", "c", "--out", "y", "--items", "0"), "must be 1 or more, got 0"),
        (("convert", "x", "--calibration", "c", "--out", "y", "--config", "none.json"), "none.json"),
    ],
)
def test_a_wrong_option_is_exit_code_2(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_in_a_process_of_its_own(bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    # an old SpikingJelly's warning about torch.jit.script would be no surprise
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}

    def process(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mbe_plugin", *map(str, arguments)]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    made = process("convert", bert_folder, "--calibration", sentences, "--out", "snn")
    assert made.returncode == 0, made.stderr
    assert "%|" not in made.stderr  # no bars where nobody looks
    assert made.stdout.splitlines()[-1].startswith("written to snn")
    refused = process("report", "nowhere")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-1].startswith("error: nowhere")
    assert "Traceback" not in refused.stderr


def test_a_report_as_a_page(bert_folder: Path, sentences: Path, tmp_path: Path) -> None:
    pytest.importorskip("bokeh", reason="needs bokeh: pip install 'mbe_plugin[html]'")
    out, pages = tmp_path / "snn", [tmp_path / "plain.html", tmp_path / "whole.html"]
    assert run("convert", bert_folder, "--calibration", sentences, "--time-steps", 4, "--out", out) == 0
    assert run("report", out, "--html", pages[0]) == 0
    assert run("report", out, "--html", pages[1], "--inputs", sentences, "--batch", 2) == 0
    plain, whole = (page.read_text(encoding="utf-8") for page in pages)
    assert "as a spiking network" in plain
    assert "complete: SNN" in whole
    assert "complete: SNN" not in plain
