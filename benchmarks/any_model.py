"""Takes models of many kinds through the whole way: wrap, fit, strip, .sws, .tflite.

    python -m benchmarks.any_model                       # all of them
    python -m benchmarks.any_model --nets unet tied-gpt  # some

Each has a process of its own. What is done is stored after each; `--resume` goes on with
that, and tries those again that ended in an error.

Not how well they are compressed is measured, on random data, but whether each step works and
changes nothing: differences are shares of how far outputs of examples lie from their mean. So
that they do, BatchNorm begins with the statistics of the data.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time
import warnings

import keras
import numpy as np
from keras import applications as apps
from keras import layers, ops

import tfmot_sws as sws
from benchmarks import common

EXAMPLES, CLASSES, EPOCHS, BATCH_SIZE = 32, 10, 2, 8
# At most so much may a step change the outputs.
TOLERANCE = 1e-3
# Outputs that differ less from example to example, as a share of the largest, tell nothing.
LEAST_SPREAD = 1e-3


# Models of Keras' collection, at small inputs and with fresh weights.


def application(build, size, **options):
    """Gives a builder of a model of the collection with fresh weights, to logits."""
    settings = {"weights": None, "classes": CLASSES, "classifier_activation": None, **options}
    return lambda: build(input_shape=(size, size, 3), **settings)


def one_scale(model, size):
    """A model that has its own preprocessing within."""
    return application(model, size, include_preprocessing=True)


# Networks from blocks.


def head(inputs, x):
    """Ends a network with logits."""
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def tokens(length=16):
    """Inputs of whole numbers."""
    return keras.Input((length,), dtype="int32")


def attention_block(x, heads, width, *, causal):
    """A transformer's block, normalised first."""
    normed = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(heads, width // heads)(
        normed, normed, use_causal_mask=causal
    )
    hidden = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
    return x + layers.Dense(width)(hidden)


def encoder():
    """A transformer that classifies texts."""
    inputs = tokens()
    x = layers.Embedding(100, 32)(inputs)
    for _ in range(2):
        x = attention_block(x, 4, 32, causal=False)
    return head(inputs, layers.GlobalAveragePooling1D()(x))


@keras.saving.register_keras_serializable("any_model")
class Tied(layers.Layer):
    """Embeds tokens, and gives logits by the same matrix."""

    def __init__(self, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.width = vocabulary, width

    def build(self, _):
        """Makes the matrix."""
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.vocabulary, self.width), initializer="normal"
        )

    def call(self, inputs, reverse=False):
        """Looks tokens up, or gives their logits."""
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.embeddings))
        return ops.take(self.embeddings, inputs, axis=0)

    def get_config(self):
        """Arguments, and those of every layer."""
        return {
            **super().get_config(),
            "vocabulary": self.vocabulary,
            "width": self.width,
        }


def tied_gpt():
    """A decoder that predicts the next token."""
    tied, inputs = Tied(CLASSES, 32), tokens()
    x = attention_block(tied(inputs), 4, 32, causal=True)
    return keras.Model(inputs, tied(x, reverse=True))


def unet():
    """One step down and one up, with a bridge."""
    inputs = keras.Input((32, 32, 3))
    down = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling2D()(down)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(8, 2, strides=2)(x)
    x = layers.Concatenate()([x, down])
    return keras.Model(inputs, layers.Conv2D(CLASSES, 1)(x))


def squeeze_excite():
    """Channels gated by their means, and slopes of PReLU."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(inputs)
    x = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(x))
    gate = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Reshape((1, 1, 16))(layers.Dense(16, activation="sigmoid")(gate))
    return head(inputs, layers.GlobalAveragePooling2D()(x * gate))


def mixer():
    """Patches mixed by dense layers, without attention."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((16, 24))(layers.Conv2D(24, 8, strides=8)(inputs))
    mixed = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    x = x + layers.Permute((2, 1))(layers.Dense(16, activation="gelu")(mixed))
    x = x + layers.Dense(24, activation="gelu")(layers.LayerNormalization()(x))
    return head(inputs, layers.GlobalAveragePooling1D()(x))


def wavenet():
    """Gated convolutions that look back only."""
    inputs = x = keras.Input((64, 4))
    for dilation in (1, 2, 4):
        gated = layers.Conv1D(8, 2, padding="causal", dilation_rate=dilation)(x)
        x = layers.Multiply()([ops.tanh(gated), ops.sigmoid(gated)])
    return head(inputs, layers.GlobalMaxPooling1D()(x))


def bidirectional_gru():
    """A recurrent network that reads both ways, and masks."""
    inputs = tokens()
    x = layers.Embedding(100, 16, mask_zero=True)(inputs)
    return head(inputs, layers.Bidirectional(layers.GRU(12))(x))


def conv_lstm():
    """A recurrent network over images."""
    inputs = keras.Input((4, 8, 8, 2))
    return head(inputs, layers.Flatten()(layers.ConvLSTM2D(4, 3)(inputs)))


def two_towers():
    """Two models with layers of the same names; dict inputs, not in order."""

    def tower(name):
        inputs = keras.Input((8,))
        x = layers.Dense(16, activation="relu", name="hidden")(inputs)
        return keras.Model(inputs, layers.Dense(8, name="out")(x), name=name)

    user, item = keras.Input((8,), name="user_in"), keras.Input((8,), name="item_in")
    x = layers.Multiply()([tower("user")(user), tower("item")(item)])
    return head({"user_in": user, "item_in": item}, x)


@keras.saving.register_keras_serializable("any_model")
class Contrastive(keras.Model):
    """A subclassed model with a loss of its own beside that of compile."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(16, activation="relu")
        self.out = layers.Dense(CLASSES)

    def build(self, input_shape):
        """Builds the layers."""
        self.hidden.build(input_shape)
        self.out.build((None, 16))
        self.built = True

    def call(self, inputs):
        """Logits."""
        return self.out(self.hidden(inputs))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Keeps the hidden activations small, too."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        return loss + 0.01 * ops.mean(ops.square(self.hidden(x)))


def own_loss():
    """A subclassed model with a loss of its own."""
    model = Contrastive()
    model(np.zeros((1, 8), "float32"))
    return model


# The small ones first.
NETS = {
    "encoder": encoder,
    "tied-gpt": tied_gpt,
    "unet": unet,
    "squeeze-excite": squeeze_excite,
    "mixer": mixer,
    "wavenet": wavenet,
    "bidirectional-gru": bidirectional_gru,
    "conv-lstm": conv_lstm,
    "two-towers": two_towers,
    "own-loss": own_loss,
    "MobileNet": application(apps.MobileNet, 32, alpha=0.25),
    "MobileNetV2": application(apps.MobileNetV2, 32, alpha=0.35),
    "MobileNetV3Small": one_scale(apps.MobileNetV3Small, 32),
    "ResNet50V2": application(apps.ResNet50V2, 32),
    "EfficientNetB0": application(apps.EfficientNetB0, 32),
    "EfficientNetV2B0": one_scale(apps.EfficientNetV2B0, 32),
    "Xception": application(apps.Xception, 71),
    "InceptionV3": application(apps.InceptionV3, 75),
    "ConvNeXtTiny": one_scale(apps.ConvNeXtTiny, 32),
    "DenseNet121": application(apps.DenseNet121, 32),
    "NASNetMobile": application(apps.NASNetMobile, 32),
}


# The way of one model.


def make_data(model, generator):
    """Random inputs as the model takes them, and labels in the shape of its outputs.

    A model with its own preprocessing takes bytes of images.
    """
    preprocessing = (layers.Rescaling, layers.Normalization)

    def make(tensor):
        shape = (EXAMPLES, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return generator.integers(1, CLASSES, shape).astype(tensor.dtype)
        if any(isinstance(layer, preprocessing) for layer in model.layers):
            return generator.uniform(0, 255, shape).astype(tensor.dtype)
        return generator.standard_normal(shape).astype(tensor.dtype)

    tensors = getattr(model, "inputs", None)
    if not tensors:
        x = generator.standard_normal((EXAMPLES, 8)).astype("float32")
    elif len(tensors) == 1:
        x = make(tensors[0])
    else:
        x = {tensor.name: make(tensor) for tensor in tensors}
    shape = np.shape(model.predict(x, verbose=0))[:-1]
    return x, generator.integers(0, CLASSES, shape)


def set_statistics(model, x):
    """Has each BatchNorm take the mean and the variance of what arrives at it."""
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def train(model, x, y):
    """A wrapped model after a few steps, and the seconds that they took."""
    shared = sws.apply_soft_weight_sharing(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    shared.compile(keras.optimizers.Adam(1e-4), loss)
    start = time.perf_counter()
    callbacks = [sws.AnnealAndMerge()]
    shared.fit(x, y, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0, callbacks=callbacks)
    return shared, time.perf_counter() - start


def distance(actual, expected):
    """max |a - b| / max |b - mean of b over examples|; NaN where outputs hardly differ."""
    spread = np.max(np.abs(expected - expected.mean(axis=0)))
    if not spread > LEAST_SPREAD * np.max(np.abs(expected)):
        return float("nan")
    return float(np.max(np.abs(actual - expected)) / spread)


def run(name, folder):
    """The record of one model."""
    keras.utils.set_random_seed(0)
    model = NETS[name]()
    x, y = make_data(model, np.random.default_rng(0))
    set_statistics(model, x)
    shared, seconds = train(model, x, y)
    expected = shared.predict(x, verbose=0)
    small = sws.strip_soft_weight_sharing(shared)
    outputs = small.predict(x, verbose=0)
    sws.save_compressed(small, folder / "model.sws")
    loaded = sws.load_compressed(folder / "model.sws").predict(x, verbose=0)
    tflite = sws.convert_to_tflite(small, sample=x)
    return {
        "name": name,
        "parameters": model.count_params(),
        "seconds": seconds,
        "stripped": distance(outputs, expected),
        "sws bytes": (folder / "model.sws").stat().st_size,
        "loaded": distance(loaded, outputs),
        "tflite bytes": len(tflite),
        "tflite": distance(sws.predict_tflite(tflite, x), outputs),
    }


def attempt(name, folder):
    """As `run`; an error of any step is what the record then holds."""
    # Networks with random weights on random data lose what little they know, and
    # BatchNorm behind kernels is folded by the converter: both are told, and expected.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return run(name, folder)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            return {"name": name, "error": f"{type(error).__name__}: {text}"}


def to_row(found):
    """A row of the table."""
    if "error" in found:
        return [found["name"], found["error"]]
    differences = [found[step] for step in ("stripped", "loaded", "tflite")]
    return [
        found["name"],
        f"{found['parameters']:,}",
        f"{found['seconds']:.0f}",
        *(f"{found[kind]:,}" for kind in ("sws bytes", "tflite bytes")),
        *(f"{difference:.0e}" for difference in differences),
        "yes" if all(d <= TOLERANCE for d in differences) else "**no**",
    ]


def to_markdown(record):
    """Command and environment, and the table."""
    headers = ["model", "parameters", "s to train", ".sws", ".tflite"]
    headers += ["strip changes", ".sws changes", ".tflite changes", "right"]
    table = common.to_table(headers, [to_row(found) for found in record["models"]])
    return common.join(common.to_header(record), common.to_section("models", table))


def start(args):
    """The record of a run: a new one, or with --resume the stored one without its errors."""
    path = args.output / "any_model" / f"{args.run}.json"
    if not (args.resume and path.exists()):
        return {**common.start_record("any_model", args), "models": []}
    record = json.loads(path.read_text())
    return {**record, "models": [found for found in record["models"] if "error" not in found]}


def main():
    """Takes the models one after the other; what is done is written after each."""
    parser = common.make_parser(__doc__)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--resume", action="store_true", help="go on with a stored run")
    parser.add_argument("--cell", choices=NETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(attempt(args.cell, pathlib.Path(folder))))
        return
    args.run = args.run or ("all" if len(args.nets) == len(NETS) else "-".join(args.nets))
    record = start(args)
    done = {found["name"] for found in record["models"]}
    for name in args.nets:
        if name in done:
            continue
        cell = common.run_module("any_model", "--cell", name, stdout=subprocess.PIPE, text=True)
        record["models"].append(json.loads(cell.stdout.splitlines()[-1]))
        print(*to_row(record["models"][-1]), sep=" | ", flush=True)
        record["models"].sort(key=lambda found: list(NETS).index(found["name"]))
        common.write("any_model", args, record, to_markdown(record))


if __name__ == "__main__":
    main()
