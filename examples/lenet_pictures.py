"""LeNet-300-100's retraining on MNIST in pictures, those of the documentation.

    python examples/lenet_pictures.py --output docs/images

Needs the extra `visualization`. It pretrains as lenet_mnist.py does, or takes the dense
network that one left in runs/; then three minutes on two cores.
"""

import argparse
import pathlib

import keras
import lenet_mnist
import matplotlib.pyplot as plt

import tfmot_sws as sws
from tfmot_sws import visualization

NET, EPOCHS, DPI = "lenet-300-100", 40, 80


def retrain(dense, data, validation, animation):
    """The wrapped network after training, and the history."""
    targets = sws.soft_targets(dense, *data)
    shared = sws.apply_soft_weight_sharing(dense)
    steps = EPOCHS * -(-len(data[0]) // lenet_mnist.SHARE_BATCH)
    lenet_mnist.compile_model(shared, steps, lenet_mnist.SHARE_RATE, lenet_mnist.SHARE_WARMUP)
    history = shared.fit(
        data[0],
        targets,
        validation_data=lenet_mnist.one_hot(validation),
        batch_size=lenet_mnist.SHARE_BATCH,
        epochs=EPOCHS,
        verbose=2,
        callbacks=[sws.AnnealAndMerge(), sws.WeightMovementRecorder(animation)],
    )
    return shared, history


def main():
    """Pretrains, retrains, draws."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, help="mnist.npz; else it is downloaded")
    parser.add_argument("--output", type=pathlib.Path, default="pictures", help="folder")
    args = parser.parse_args()
    run = pathlib.Path("runs") / NET
    run.mkdir(parents=True, exist_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    plt.switch_backend("Agg")
    keras.utils.set_random_seed(0)

    data, validation, _ = lenet_mnist.load_mnist(args.data)
    dense = lenet_mnist.pretrain(NET, run, data, validation)
    before = visualization.read_weights(dense)
    shared, history = retrain(dense, data, validation, args.output / "movement.gif")
    small = sws.strip_soft_weight_sharing(shared)
    figures = {
        "movement": visualization.plot_weight_movement(before, shared).figure,
        "histogram": visualization.plot_weight_histogram({"before": before, "after": small}),
        "codebook": visualization.plot_codebook(small).figure,
        "history": visualization.plot_history(history),
    }
    for name, figure in figures.items():
        figure.savefig(args.output / f"{name}.png", dpi=DPI)


if __name__ == "__main__":
    main()
