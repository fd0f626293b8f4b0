"""Pruning, clustering, quantization and soft weight-sharing, alone and one after the other.

    python -m benchmarks.pipelines --data mnist.npz
    python -m benchmarks.pipelines --data mnist.npz --nets convnet --quick

On MNIST, all from the same pretrained network of tf_keras, every step with the same number
of epochs and, but for the rates, the same training: tfmot's pruning, clustering, both, and
both with the quantization-aware training that keeps zeros and clusters (PCQAT); ours, ours
after tfmot's pruning, and ours followed by that quantization-aware training.

A part of the training images trains, the last 5,000 are for validation. They choose one
setting on each side, tfmot's sparsity and our zero proportion: the greatest whose validation
accuracy is within `MARGIN` of the dense network's, else the smallest. Of soft weight-sharing
only the complexity weight is set beside it; the rest is as by default. Everything is measured
in the files: LiteRT runs each on the 10,000 test images, once, and values and zeros are counted
in it.
"""

import functools
import gzip
import time
import warnings

import numpy as np
import tf_keras

import tfmot_sws as sws
from benchmarks import common
from examples import lenet_mnist as lenet
from examples import tfmot_steps as steps

# BatchNorm scales clusters in float files; the table shows how far.
warnings.filterwarnings("ignore", "BatchNorm layers")
# tfmot says so where a kernel has too many or too few values to keep as clusters.
warnings.filterwarnings("ignore", "No clustering performed on layer")

SPARSITIES, ZERO_PROPORTIONS, MARGIN = (0.9, 0.75), (0.99, 0.9, 0.7), 0.01
# Set, so that the figures stay what they are when the default changes.
COMPLEXITY_WEIGHT = 0.03 * 0.2**0.5
# Smaller kernels tfmot leaves as they are: few weights would be left for its clusters.
SMALLEST_KERNEL = 500
BATCH_SIZE = 64
# Set before each training, whatever the seed of the run.
TRAINING_SEED = 0
# Greatest learning rates.
RATES = {"pretrain": 1e-3, "prune": 1e-3, "cluster": 1e-4, "share": 2e-3, "quantize": 1e-4}
# Training images, epochs of pretraining and of each step.
SETTINGS, QUICK = (10_000, 6, 7), (1_000, 1, 2)
COLUMNS = {
    "validation": "{:.2%}",
    "test": "{:.2%}",
    "values": "{:,}",
    "zeros": "{:.1%}",
    ".tflite": "{:,}",
    "gzip": "{:,}",
    ".sws": "{:,}",
    "epochs": "{}",
}


# The networks.


def resnet_8(library):
    """Three residual blocks with BatchNorm, 16 to 64 channels; the first conv has stride 2."""
    layers = library.layers

    def conv(x, filters, size=3, stride=1):
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = library.Input((28, 28, 1))
    x = layers.ReLU()(conv(inputs, 16, stride=2))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        shortcut = x if stride == 1 else conv(x, filters, 1, stride)
        inner = conv(layers.ReLU()(conv(x, filters, stride=stride)), filters)
        x = layers.ReLU()(layers.Add()([inner, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return library.Model(inputs, layers.Dense(10)(x), name="resnet_8")


NETS = {"convnet": lenet.tutorial, "resnet-8": resnet_8}


# The steps.


def is_large(layer):
    """Whether tfmot prunes and clusters a layer."""
    weights = getattr(layer, "kernel", None)
    return weights is not None and np.prod(weights.shape) >= SMALLEST_KERNEL


def prune(model, data, epochs, sparsity):
    """tfmot's pruning of the large layers to a sparsity."""
    num_steps = epochs * -(-len(data[0]) // BATCH_SIZE)
    schedule = steps.rising_sparsity(num_steps, sparsity, frequency=10)
    training = functools.partial(train, data=data, epochs=epochs, rate=RATES["prune"])
    return steps.prune(steps.copy_model(model), schedule, training, wanted=is_large)


def cluster(model, data, epochs, preserve_sparsity):
    """tfmot's clustering of the large layers, zeros kept if so told."""
    training = functools.partial(train, data=data, epochs=epochs, rate=RATES["cluster"])
    return steps.cluster(
        steps.copy_model(model),
        training,
        preserve_sparsity=preserve_sparsity,
        wanted=is_large,
    )


def share(model, data, epochs, **settings):
    """Soft weight-sharing of all kernels, and biases where they fit in."""
    shared = sws.apply_soft_weight_sharing(
        steps.copy_model(model), complexity_weight=COMPLEXITY_WEIGHT, **settings
    )
    train(shared, data, epochs, RATES["share"], [sws.AnnealAndMerge()])
    # What comes after it trains on.
    return sws.strip_soft_weight_sharing(shared, keep_statistics=True)


def train(model, data, epochs, rate, callbacks=()):
    """The training that all steps have in common; the rate falls to zero."""
    return steps.fit(
        model,
        data,
        epochs,
        rate,
        batch_size=BATCH_SIZE,
        callbacks=callbacks,
        seed=TRAINING_SEED,
    )


def quantize_aware(model, data, epochs):
    """The .tflite file after PCQAT, which keeps the zeros and clusters of a model."""
    training = functools.partial(train, data=data, epochs=epochs, rate=RATES["quantize"])
    return steps.convert_quantized(steps.quantize_aware(steps.copy_model(model), training))


# The runs.


class Run:
    """One network, and a row for each file that was made of it."""

    def __init__(self, net, splits, epochs):
        self.net, self.epochs = net, epochs
        self.data, self.validation, self.test = splits
        self.rows, self.settings = {}, {}

    def step(self, function, model, *args, **kwargs):
        """What a step makes of a model; how long it took is printed."""
        start = time.perf_counter()
        result = function(model, self.data, self.epochs, *args, **kwargs)
        seconds = time.perf_counter() - start
        print(
            f"{time.strftime('%X')} {self.net} {function.__name__} {seconds:.0f} s", flush=True
        )
        return result

    def add(self, name, tflite, num_steps, model=None):
        """The row of a file; with its model also the size of that as .sws file."""
        values, zeros = steps.count(tflite)
        self.rows[name] = {
            "validation": measure_accuracy(tflite, self.validation),
            "test": measure_accuracy(tflite, self.test),
            "values": values,
            "zeros": zeros,
            ".tflite": len(tflite),
            "gzip": len(gzip.compress(tflite, 9)),
            ".sws": common.count_sws_bytes(model) if model else None,
            "epochs": num_steps * self.epochs,
        }

    def add_model(self, name, model, num_steps):
        """The rows of a plain model: as float32, and as int8 without further training."""
        self.add(name, sws.convert_to_tflite(model), num_steps, model)
        try:
            tflite = sws.convert_to_tflite(
                model, "int8", representative_data=self.data[0][:256]
            )
        except sws.ExportError as error:
            print(f"{name}, int8: {error}", flush=True)
        else:
            self.add(f"{name}, int8", tflite, num_steps)

    def choose(self, function, dense, name, values):
        """What the first value of a setting makes of the dense network that is good enough.

        Else the last. Values begin with the one that gives the smallest network.
        """
        limit = self.rows["dense"]["validation"] - MARGIN
        for value in values:
            model = self.step(function, dense, **{name: value})
            accuracy = measure_accuracy(sws.convert_to_tflite(model), self.validation)
            print(f"{name} {value}: {accuracy:.2%} on validation data", flush=True)
            if accuracy >= limit:
                break
        self.settings[name] = value
        return model

    def run(self, dense):
        """All pipelines."""
        self.add_model("dense", dense, 0)
        pruned = self.choose(prune, dense, "sparsity", SPARSITIES)
        self.add_model("tfmot prune", pruned, 1)
        self.add_model("tfmot cluster", self.step(cluster, dense, preserve_sparsity=False), 1)
        both = self.step(cluster, pruned, preserve_sparsity=True)
        self.add_model("tfmot prune, cluster", both, 2)
        self.add("tfmot prune, cluster, PCQAT", self.step(quantize_aware, both), 3)
        small = self.choose(share, dense, "zero_proportion", ZERO_PROPORTIONS)
        self.add_model("ours", small, 1)
        self.add("ours, tfmot PCQAT", self.step(quantize_aware, small), 2)
        kept = self.step(
            share,
            pruned,
            zero_proportion=self.settings["zero_proportion"],
            preserve_sparsity=True,
        )
        self.add_model("tfmot prune, ours", kept, 2)


def measure_accuracy(tflite, data):
    """Share of right answers of a file in LiteRT, 0 to 1."""
    logits = sws.predict_tflite(tflite, data[0])
    return steps.measure_accuracy(logits, data[1])


def run_net(net, splits, args):
    """A network from pretraining to its rows."""
    num_train, pretrain_epochs, epochs = QUICK if args.quick else SETTINGS
    (x, y), validation, test = splits
    run = Run(net, ((x[:num_train], y[:num_train]), validation, test), epochs)
    tf_keras.utils.set_random_seed(args.seed)
    start = time.perf_counter()
    dense = train(NETS[net](tf_keras), run.data, pretrain_epochs, RATES["pretrain"])
    run.run(dense)
    run.settings |= {
        "parameters": dense.count_params(),
        "images": num_train,
        "pretraining epochs": pretrain_epochs,
        "epochs a step": epochs,
        "batch": BATCH_SIZE,
        "clusters of tfmot": steps.NUM_CLUSTERS,
        "complexity weight": round(COMPLEXITY_WEIGHT, 4),
        "seconds": round(time.perf_counter() - start),
    }
    return {"settings": run.settings, "rows": run.rows}


# The results.


def to_markdown(record):
    """Command, environment, and a section with settings and table for each network."""
    blocks = [common.to_header(record)]
    for net, result in record["nets"].items():
        settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items())
        section = common.to_section(net, f"{settings}\n\n{_table(result['rows'])}")
        blocks += [f"## {net}", section]
    return common.join(*blocks)


def _table(rows):
    cells = [[name, *map(_cell, COLUMNS, row.values())] for name, row in rows.items()]
    align = ["left"] + ["right"] * len(COLUMNS)
    return common.to_table(["file", *COLUMNS], cells, align)


def _cell(column, value):
    return "" if value is None else COLUMNS[column].format(value)


def main():
    """Runs the networks, prints the tables and saves them."""
    args = _parse_arguments()
    record = common.start_record("pipelines", args)
    steps.silence_remarks()
    splits = lenet.load_mnist(args.data)
    record["nets"] = {net: run_net(net, splits, args) for net in args.nets}
    text = to_markdown(record)
    print(text)
    common.write("pipelines", args, record, text)


def _parse_arguments():
    parser = common.make_parser(__doc__)
    common.add_data_argument(parser)
    parser.add_argument("--nets", nargs="+", choices=sorted(NETS), default=list(NETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="little data, few epochs")
    args = parser.parse_args()
    args.run = args.run or common.name_run(args.nets, args.quick)
    return args


if __name__ == "__main__":
    main()
