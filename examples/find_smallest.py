"""Looks for the smallest file that is at most one point less accurate.

    python examples/find_smallest.py

A classifier of handwritten digits (8 x 8 pixels, 1,797 images that ship inside scikit-learn) is
trained as usual, and then with one stated size after the other, until two sizes 10 % apart lie
on either side of what is allowed. Validation data decides; test data gives the last two
figures. It takes some minutes: up to eight trainings, each of which compiles its own programs.
`--folder` keeps the files; a search that was stopped goes on from there.
"""

import argparse
import os

# TensorFlow's start-up messages say nothing that is needed here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from quickstart import build_model, load_data, measure_accuracy
from sklearn.model_selection import train_test_split

import tfmot_sws as sws

EPOCHS = 30
BATCH_SIZE = 64


def main():
    """Trains, searches, and tells what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", help="keeps the .sws file of each training")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training")
    parser.add_argument("--trainings", type=int, default=8, help="the most of them")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    x, x_test, y, y_test = load_data()
    x_train, x_valid, y_train, y_valid = train_test_split(x, y, test_size=0.25, random_state=0)

    model = build_model()
    steps = args.epochs * -(-len(x_train) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=args.epochs, verbose=0)

    found = sws.find_smallest(
        model,
        (x_train, y_train),
        (x_valid, y_valid),
        epochs=args.epochs,
        batch_size=BATCH_SIZE,
        max_drop=0.01,
        max_trainings=args.trainings,
        folder=args.folder,
    )
    print(found)
    dense, small = (measure_accuracy(m, x_test, y_test) for m in (model, found.model))
    print(f"On test data: {dense:.2%} dense, {small:.2%} in {found.chosen.size:,} bytes.")


if __name__ == "__main__":
    main()
