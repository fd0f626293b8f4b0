"""A small transformer that tells which Python package a text is about; no download.

    python examples/text_transformer.py

The texts are the standard library's own documentation strings, cut into pieces of 24 words;
the network names the package, out of 20, that a piece comes from. It takes under three
minutes on two cores, and shows that embeddings and attention are shared like other weights.
"""

import argparse
import ast
import collections
import gzip
import os
import pathlib
import re
import sysconfig
import time

# TensorFlow's start-up messages say nothing that is needed here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import tfmot_sws as sws

SEED = 0
NUM_PACKAGES, NUM_WORDS, PIECE = 20, 4_000, 24
WIDTH, HEADS, BLOCKS = 64, 4, 2
DENSE_EPOCHS, SHARE_EPOCHS = 8, 24
DENSE_RATE, SHARE_RATE, BATCH_SIZE = 1e-3, 1e-3, 64


def read_packages():
    """The words of all documentation strings, by the standard library's package."""
    words = collections.defaultdict(list)
    for package, text in read_docstrings():
        words[package] += text
    longest = sorted(words, key=lambda name: len(words[name]), reverse=True)
    return {name: words[name] for name in longest[:NUM_PACKAGES]}


def read_docstrings():
    """Yields the standard library's packages and the words of a string of theirs."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    seen = set()
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[0] == "site-packages" or {"test", "tests"} & set(parts):
            continue
        for text in docstrings(path.read_text(encoding="utf-8", errors="replace")):
            if text not in seen:
                seen.add(text)
                yield parts[0], re.findall(r"[a-z]+|[^\sa-z]", text.lower())


def docstrings(source):
    """Those of a module, its classes and functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError:
        # Some files of the library are templates, or wrong on purpose.
        return []
    texts = (ast.get_docstring(node) for node in nodes if isinstance(node, kinds))
    return [text for text in texts if text]


def make_data(packages):
    """Pieces as word numbers, shape (n, PIECE), and their packages; one in five for the test.

    Number 0 stands for every word that is not among the most frequent.
    """
    counts = collections.Counter(word for words in packages.values() for word in words)
    numbers = {word: k for k, (word, _) in enumerate(counts.most_common(NUM_WORDS - 1), 1)}
    x, y = [], []
    for label, words in enumerate(packages.values()):
        for start in range(0, len(words) - PIECE + 1, PIECE):
            x.append([numbers.get(word, 0) for word in words[start : start + PIECE]])
            y.append(label)
    order = np.random.default_rng(SEED).permutation(len(x))
    x, y = np.array(x, np.int32)[order], np.array(y, np.int32)[order]
    cut = len(x) // 5
    return (x[cut:], y[cut:]), (x[:cut], y[:cut])


def make_positions(keras):
    """The class of a layer, of Keras 3 or tf_keras."""

    @keras.saving.register_keras_serializable(package="text_transformer")
    class Positions(keras.layers.Layer):
        """Adds a learned vector to each place of a text."""

        def build(self, input_shape):
            """One vector a place."""
            self.embeddings = self.add_weight(name="embeddings", shape=tuple(input_shape[1:]))

        def call(self, inputs):
            """Adds them."""
            return inputs + self.embeddings

    return Positions


Positions = make_positions(keras)


def build_model(keras=keras):
    """Embeddings, two blocks of attention and a dense pair each, and the mean over places.

    Built by Keras 3 or, if given, tf_keras.
    """
    layers = keras.layers
    positions = Positions if issubclass(Positions, layers.Layer) else make_positions(keras)
    inputs = keras.Input((PIECE,), dtype="int32")
    x = layers.Embedding(NUM_WORDS, WIDTH, name="words")(inputs)
    x = layers.Dropout(0.3)(positions(name="positions")(x))
    for k in range(BLOCKS):
        normed = layers.LayerNormalization()(x)
        attended = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{k}")(
            normed, normed
        )
        x = x + layers.Dropout(0.2)(attended)
        hidden = layers.Dense(2 * WIDTH, "gelu", name=f"wide_{k}")(
            layers.LayerNormalization()(x)
        )
        x = x + layers.Dropout(0.2)(layers.Dense(WIDTH, name=f"narrow_{k}")(hidden))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(NUM_PACKAGES, name="head")(x), name="transformer")


def train(model, data, epochs, rate, callbacks=()):
    """Adam, its rate falling to zero along a cosine."""
    steps = epochs * -(-len(data[0]) // BATCH_SIZE)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        *data, epochs=epochs, batch_size=BATCH_SIZE, verbose=0, callbacks=list(callbacks)
    ).history


def measure(model, data):
    """Loss in nats and accuracy of a model, compiled or not."""
    x, y = data
    logits = model.predict(x, verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return float(np.mean(losses)), float(np.mean(logits.argmax(-1) == y))


def main():
    """Runs the job and prints what came of it."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    console = Console()
    keras.utils.set_random_seed(SEED)
    start = time.perf_counter()

    train_set, test_set = make_data(read_packages())
    guess = np.mean(test_set[1] == np.bincount(train_set[1]).argmax())
    console.print(
        f"{len(train_set[0]):,} pieces to learn from, {len(test_set[0]):,} for the test; the "
        f"commonest package makes up {guess:.1%}."
    )

    dense = build_model()
    train(dense, train_set, DENSE_EPOCHS, DENSE_RATE)
    rows = {"dense": measure(dense, test_set)}
    dense_bytes = dense_size(dense)

    shared = sws.apply_soft_weight_sharing(dense)
    history = train(shared, train_set, SHARE_EPOCHS, SHARE_RATE, [sws.AnnealAndMerge()])
    console.print(f"Zeros in the last epoch: {history['zeros'][-1]:.1%}")
    small = sws.strip_soft_weight_sharing(shared)
    rows["stripped"] = measure(small, test_set)

    report = sws.compression_report(small)
    report.print(console)
    sizes = {"dense": dense_bytes, "stripped": (report.dense_bytes, report.gzip_bytes)}
    console.print(summary(rows, sizes))
    console.print(
        f"Entropy coded, the stripped model has {report.coded_bytes:,} bytes "
        f"({report.coded_ratio:.0f}x). The whole took {time.perf_counter() - start:.0f} s."
    )


def dense_size(model):
    """Bytes of all weights as they are, and under gzip."""
    raw = b"".join(w.tobytes() for w in model.get_weights())
    return len(raw), len(gzip.compress(raw))


def summary(rows, sizes):
    """Loss, accuracy and sizes, a row a model."""
    table = Table(title="Test set")
    for heading in ("", "loss (nats)", "accuracy", "weights (bytes)", "gzip (bytes)"):
        table.add_column(heading, justify="right")
    for name, (loss, accuracy) in rows.items():
        raw, packed = sizes[name]
        table.add_row(name, f"{loss:.3f}", f"{accuracy:.1%}", f"{raw:,}", f"{packed:,}")
    return table


if __name__ == "__main__":
    main()
