"""A transformer and a bag of words on the standard library's documentation strings."""

import collections
import functools

import numpy as np

from benchmarks.real_networks.network import Network, Training, split
from examples import text_transformer

NUM_WORDS, LENGTH, WIDTH = 2_000, 64, 24
NOTE = "The texts are those of the Python that runs."


@functools.cache
def load_pieces():
    """The example's pieces of 24 words; a tenth of those to learn from is for validation."""
    (x, y), test = text_transformer.make_data(text_transformer.read_packages())
    cut = len(x) - len(x) // 10
    return (x[:cut], y[:cut]), (x[cut:], y[cut:]), test


@functools.cache
def load_docstrings():
    """Whole strings as up to 64 word numbers, 0 where none is left, and their packages.

    Strings are split, not pieces of them, and none begins as another does: what is tested
    on was not learned from. Number 1 stands for rare words, of which the training strings
    decide.
    """
    owners = {}
    for package, words in text_transformer.read_docstrings():
        owners.setdefault(tuple(words[:LENGTH]), package)
    common = collections.Counter(owners.values()).most_common(text_transformer.NUM_PACKAGES)
    numbers = {package: number for number, (package, _) in enumerate(common)}
    texts = [text for text, package in owners.items() if package in numbers]
    labels = np.array([numbers[owners[text]] for text in texts])
    order = np.random.default_rng(0).permutation(len(texts))
    held_out = len(texts) // 6
    learned_from = [texts[k] for k in order[: len(texts) - 2 * held_out]]
    x = _number_words([texts[k] for k in order], learned_from)
    return split(x, labels[order], held_out, held_out)


def _number_words(texts, learned_from):
    """Word numbers of shape (texts, 64)."""
    counts = collections.Counter(word for text in learned_from for word in text)
    numbers = {word: k for k, (word, _) in enumerate(counts.most_common(NUM_WORDS - 2), 2)}
    x = np.zeros((len(texts), LENGTH), np.int32)
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = [numbers.get(word, 1) for word in text]
    return x


def bag_of_words(library):
    """An embedding, the mean over the words, two dense layers; 51 k parameters."""
    layers = library.layers
    return library.Sequential(
        [
            library.Input((LENGTH,), dtype="int32"),
            layers.Embedding(NUM_WORDS, WIDTH, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dense(text_transformer.NUM_PACKAGES),
        ],
        name="bag_of_words",
    )


NETWORKS = [
    Network("text", bag_of_words, load_docstrings, Training(20, 3e-3), Training(20), note=NOTE),
    Network(
        "transformer",
        text_transformer.build_model,
        load_pieces,
        Training(text_transformer.DENSE_EPOCHS, text_transformer.DENSE_RATE),
        Training(text_transformer.SHARE_EPOCHS, text_transformer.SHARE_RATE),
        note=NOTE,
    ),
]
