"""The command line: ``python -m mbe_plugin convert | report | env``.

Each is a few lines of the Python interface, which its help shows. Exit codes: 0 done; 1 refused, with the error's one
sentence on stderr; 2 a wrong option.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbe_plugin.errors import MBEError, StorageError

if TYPE_CHECKING:
    from mbe_plugin.config import MBEConfig

CONVERT = """Convert a pretrained model of transformers or timm, and write it with its operators to a folder.

In Python:
    from mbe_plugin.sources import open_model, read_batches
    source = open_model(MODEL)
    snn = mbe_plugin.convert(source.model, read_batches(source, FILE), mbe_plugin.MBEConfig(time_steps=T))
    source.write(OUT); mbe_plugin.save(snn, OUT)"""
REPORT = """Print what became of every operator of a network that `convert` wrote, or write it as a page for a browser.

In Python:
    described = mbe_plugin.report(mbe_plugin.load(FOLDER))
    print(described)
    described.save_html(PAGE, read_batches(open_model(FOLDER), FILE, items=B, size=B)[0])"""
SETTINGS = (
    "time_steps",
    "bases",
    "identity_bases",
    "code",
    "scale",
)  # MBEConfig's fields, its defaults where not given
PRESETS = ("published", "low_energy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are sys.argv's by default. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options, parser)
    except (MBEError, ImportError, OSError) as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 1
    return 0


def _convert(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    import mbe_plugin
    from mbe_plugin.env import hide_broken_torchaudio
    from mbe_plugin.sources import open_model, read_batches

    config = _config(options, parser)
    _check_target(options.out)
    hide_broken_torchaudio()
    source = open_model(options.model)
    batches = read_batches(source, options.calibration, options.items, options.batch)
    bar = find_spec("tqdm") is not None
    snn = mbe_plugin.convert(source.model, batches, config, copy=False, progress=bar)
    source.write(options.out)
    mbe_plugin.save(snn, options.out)
    print(mbe_plugin.report(snn).summary())
    print(f"written to {options.out}; in Python: snn = mbe_plugin.load({str(options.out)!r})")


def _report(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    import mbe_plugin
    from mbe_plugin.env import hide_broken_torchaudio

    hide_broken_torchaudio()
    described = mbe_plugin.report(mbe_plugin.load(options.folder, copy=False))
    if options.html is not None:
        described.save_html(options.html, _batch(options))
        print(f"written to {options.html}")
        return
    forms = {
        "text": described.__str__,
        "summary": described.summary,
        "markdown": described.to_markdown,
        "json": lambda: json.dumps(described.as_dict(), indent=1),
    }
    print(forms[options.form]())


def _batch(options: argparse.Namespace) -> Any:
    """What the page runs for its energy and rasters; None where no file was named."""
    from mbe_plugin.sources import open_model, read_batches

    if options.inputs is None:
        return None
    return read_batches(open_model(options.folder), options.inputs, options.batch, options.batch)[0]


def _env(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from mbe_plugin.env import table

    print(table())


def _config(options: argparse.Namespace, parser: argparse.ArgumentParser) -> MBEConfig:
    """The file's or preset's configuration with the changes of the options; a wrong value ends as argparse ends."""
    import mbe_plugin

    changes = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    try:
        if options.config:
            return replace(
                mbe_plugin.MBEConfig.from_json(options.config.read_text(encoding="utf-8")), **changes
            )
        made_by = getattr(mbe_plugin.MBEConfig, options.preset) if options.preset else mbe_plugin.MBEConfig
        return made_by(**changes)
    except (OSError, ValueError) as refused:
        parser.error(str(refused))


def _check_target(folder: Path) -> None:
    """Before anything takes time: nothing but an earlier conversion is written over."""
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / "mbe.json").is_file()
    ):
        raise StorageError(f"{folder} is there already and holds something else; take a new folder for --out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mbe_plugin",
        description="Pretrained Transformers as spiking networks, without training.",
        epilog="Exit codes: 0 done, 1 refused (the reason is on stderr), 2 a wrong option.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _convert_options(_command(commands, "convert", _convert, "convert a model and write it", CONVERT))
    _report_options(_command(commands, "report", _report, "print what became of a network", REPORT))
    _command(
        commands,
        "env",
        _env,
        "print what is installed, for a bug report",
        "The same as python -m mbe_plugin.env.",
    )
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, run: object, short: str, long: str
) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=short, description=long, formatter_class=raw
    )
    made.set_defaults(run=run)
    return made


def _convert_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a folder of transformers (save_pretrained) or timm (save_for_hf), a name of timm, or one of the Hugging Face "
        "hub; names are downloaded where they are not in the cache, unless HF_HUB_OFFLINE=1",
    )
    add(
        "--calibration",
        type=Path,
        required=True,
        metavar="FILE",
        help="real inputs: a .txt file with a sentence a line, a folder of images, or prepared inputs as .npy (the only "
        "argument), .npz or .safetensors (keyword arguments); items along the first dimension",
    )
    add("--out", type=Path, required=True, metavar="FOLDER", help="where to write the network")
    add("--time-steps", type=int, metavar="T", help="steps of a spike train, 1 to 20 (16)")
    add("--bases", type=int, metavar="N", help="bases of a neuron that computes a function (64)")
    add(
        "--identity-bases",
        type=int,
        metavar="N",
        help="bases of a neuron that encodes an activation, a power of two (8)",
    )
    add("--code", help="how an activation is encoded: binary or first_spike (binary)")
    add("--scale", help="where its exponent comes from: auto, element, token, channel or tensor (auto)")
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument("--preset", choices=PRESETS, help="start from MBEConfig.published() or .low_energy()")
    whole.add_argument(
        "--config", type=Path, metavar="JSON", help="start from a file that MBEConfig.to_json wrote"
    )
    add(
        "--items",
        type=_count,
        default=32,
        metavar="K",
        help="calibrate on so many, evenly spread over the file (%(default)s)",
    )
    add("--batch", type=_count, default=4, metavar="B", help="so many at once (%(default)s)")


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what convert wrote")
    forms = ("text", "summary", "markdown", "json")
    parser.add_argument(
        "--form",
        choices=forms,
        default="text",
        help="text (default): the table of all neurons and the summary",
    )
    add = parser.add_argument
    add(
        "--html",
        type=Path,
        metavar="PAGE",
        help="write a page for a browser there (needs Bokeh), and print nothing else",
    )
    add(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="for the page: inputs as for convert's --calibration, which its energy and rasters are of",
    )
    add("--batch", type=_count, default=4, metavar="B", help="so many of them (%(default)s)")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number
