"""Draws the documentation's pictures of one training: ResNet-8, asked for a ratio of 20.

    python -m benchmarks.pictures --data FOLDER --output docs/images

The pretrained network of `benchmarks.real_networks` is trained for 24 short epochs, about four
passes over CIFAR-10, and each of them is a frame of the animation.
"""

import argparse
import pathlib
import warnings

import keras
import matplotlib.pyplot as plt

import tfmot_sws as sws
from benchmarks.real_networks import NETWORKS, files
from benchmarks.real_networks.network import CACHE
from tfmot_sws import visualization

NETWORK, RATIO, SEED, SPLIT = "resnet-8", 20, 0, "validation"
FRAMES, STEPS_A_FRAME, BATCH_SIZE = 24, 120, 64
RATE = 1e-3
# The largest kernel, of 64 x 64 x 3 x 3, is the one whose movement is shown.
LAYER = "conv2d_7/kernel"
DPI = 80


def train(dense, network, args):
    """A wrapped network after its training, and the history of that."""
    shared = sws.apply_soft_weight_sharing(dense, target_ratio=RATIO)
    training, validation, _ = network.data()
    rate = keras.optimizers.schedules.CosineDecay(RATE, FRAMES * args.steps)
    shared.compile(
        keras.optimizers.Adam(rate),
        network.task.make_loss(keras),
        metrics=["accuracy"],
        jit_compile=False,
    )
    history = shared.fit(
        network.batches(training, BATCH_SIZE, SEED).repeat(),
        epochs=FRAMES,
        steps_per_epoch=args.steps,
        validation_data=validation,
        callbacks=[
            sws.AnnealAndMerge(),
            sws.WeightMovementRecorder(
                args.output / "movement.gif", frames_per_second=4, include=LAYER
            ),
        ],
        verbose=2,
    )
    return shared, history


def draw(before, shared, small, history, folder):
    """Writes a .png file of each kind of picture."""
    now = visualization.read_weights(shared, include=LAYER)
    pictures = {
        "movement": visualization.plot_weight_movement(before, now),
        "history": visualization.plot_history(history),
        "layers": visualization.plot_layers(shared),
        "histogram": visualization.plot_weight_histogram({"before": before, "after": now}),
        "codebook": visualization.plot_codebook(small),
    }
    for name, picture in pictures.items():
        figure = picture if hasattr(picture, "savefig") else picture.figure
        figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")
        plt.close(figure)


def main():
    """Trains, draws, and prints what the network came to."""
    args = _parse_arguments()
    files.look_in(args.data)
    args.output.mkdir(parents=True, exist_ok=True)
    network = NETWORKS[NETWORK]
    keras.utils.set_random_seed(SEED)
    dense = network.dense(SEED, args.cache)
    before = visualization.read_weights(dense, include=LAYER)
    error = network.metric(dense, SPLIT)
    shared, history = train(dense, network, args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sws.strip_soft_weight_sharing(shared)
    draw(before, shared, small, history, args.output)
    print(sws.compression_report(small))
    print(
        f"validation: {error:.2%} wrong before, {network.metric(small, 'validation'):.2%} now"
    )


def _parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    files.add_argument(parser)
    add("--cache", type=pathlib.Path, default=CACHE, help="folder of pretrained networks")
    add("--output", type=pathlib.Path, required=True, help="folder of the pictures")
    add("--steps", type=int, default=STEPS_A_FRAME, help="of a short epoch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
