"""Convert a pretrained BERT (all-MiniLM-L6-v2) into a spiking network and compare the two. Offline.

python examples/quickstart.py [--time-steps T] [--bases N] [--figure FILE] [--sentences FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from _shared.compare import compare, equal_length_batches
from _shared.measure import interleaved_medians, machine
from _shared.networks import load_minilm
from neuron_figure import neuron_figure
from sentences import calibration_sentences, evaluation_sentences
from torch import nn
from tqdm import tqdm

import mbe_plugin
from mbe_plugin.sources import Batch, padded_batches, read_sentences

CALIBRATION, EVALUATION = 32, 64  # sentences


def main() -> None:
    options = parse()
    tokenizer, ann = load_minilm()
    config = mbe_plugin.MBEConfig(time_steps=options.time_steps, bases=options.bases)
    sentences = (
        read_sentences(options.sentences) if options.sentences else evaluation_sentences(options.evaluation)
    )

    snn, seconds = convert(ann, padded_batches(tokenizer, calibration_sentences(options.calibration)), config)
    batches = equal_length_batches(tokenizer, sentences)
    with (
        tqdm(total=len(batches), desc="comparing with the ANN", disable=None) as bar,
        mbe_plugin.count_spikes(snn) as spikes,
    ):
        closeness = compare(ann, snn, batches, bar.update)
    middle = batches[len(batches) // 2]
    medians = interleaved_medians({"ann": lambda: ann(**middle), "snn": lambda: snn(**middle)})

    print(mbe_plugin.report(snn).summary(), end="\n\n")
    print(f"{len(sentences)} sentences that were not used for calibration, {closeness.tokens} tokens:")
    minimum, mean = closeness.cosines.min().item(), closeness.cosines.mean().item()
    print(f"  cosine of ANN's and SNN's embeddings   minimum {minimum:.7f}, mean {mean:.7f}")
    print(f"  maximum error of the last hidden state {closeness.max_error:.4f}")
    print(f"  mean firing rate                       {spikes.firing_rate:.1%}")
    print(f"  spikes per token                       {spikes.total / closeness.tokens:,.0f}")
    print(
        f"conversion: {seconds['calibrating']:.1f} s for calibration, {seconds['converting']:.1f} s after it"
    )
    ratio = medians["snn"] / medians["ann"]
    print(f"one forward of {list(middle['input_ids'].shape)} tokens: {medians['snn']:.3f} s, ", end="")
    print(f"{ratio:.1f} times the ANN's {medians['ann']:.3f} s")
    print(f"on {machine()}")

    neuron_figure(snn, options.figure)
    print(f"figure: {options.figure}")


def convert(
    ann: nn.Module, batches: list[Batch], config: mbe_plugin.MBEConfig
) -> tuple[nn.Module, dict[str, float]]:
    """The spiking network, and the seconds that each of the two parts took."""
    started = time.perf_counter()
    calibration = mbe_plugin.calibrate(ann, batches, progress=True)
    calibrated = time.perf_counter()
    snn = mbe_plugin.convert(ann, calibration, config, progress=True)
    converted = time.perf_counter()
    return snn, {"calibrating": calibrated - started, "converting": converted - calibrated}


def parse() -> argparse.Namespace:
    default = mbe_plugin.MBEConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time-steps", type=int, default=default.time_steps, help="T (default: %(default)s)")
    parser.add_argument("--bases", type=int, default=default.bases, help="N (default: %(default)s)")
    parser.add_argument(
        "--figure", type=Path, default=Path("results/quickstart.png"), help="where to save the picture"
    )
    parser.add_argument(
        "--sentences", type=Path, help="a file of your own sentences to compare on, one per line"
    )
    parser.add_argument(
        "--calibration", type=int, default=CALIBRATION, help="how many sentences to calibrate with"
    )
    parser.add_argument(
        "--evaluation", type=int, default=EVALUATION, help="how many bundled sentences to compare on"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
