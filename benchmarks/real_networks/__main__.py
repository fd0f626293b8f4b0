r"""Real networks: how small, at what error, against what one would do instead.

    python -m benchmarks.real_networks --data FOLDER
    python -m benchmarks.real_networks --nets resnet-8 --recipes dense sws --seeds 0 \
        --complexity-weights 0.02 0.1 --rates 1e-3 8e-3 --run resnet-8-scan

Every network is pretrained once a seed and kept in `--cache`. From there go: the dense network,
trained on for as many epochs; soft weight-sharing with its defaults and the training that a
user would give the network; tfmot's pruning and clustering of its tf_keras twin, under gzip;
quantization-aware training with a few values a layer, and our coder, which shows what the
prior is worth; and NNCodec on the dense network. Settings are compared on validation data;
test data gives the figures in the tables.

The folder of data holds `mnist.npz`, `cifar10_jpeg.npz` and `mlperf_tiny/pretrainedResnet.h5`;
MNIST and CIFAR-10 are downloaded where their file is missing. A row that fails leaves its
reason in the table. Results are stored after each row, and `--resume` goes on with those.
"""

import dataclasses
import itertools
import json
import pathlib
import time
import traceback

import keras
import tensorflow as tf

from benchmarks import common
from benchmarks.real_networks import NETWORKS, files
from benchmarks.real_networks.network import CACHE, OPTIMIZERS
from benchmarks.real_networks.recipes import PRETRAINED, RECIPES, NotRunError
from benchmarks.real_networks.report import to_markdown

SCRIPT = "real_networks"
# Arguments that all rows of a run have in common.
COMMON = ("settings", "epochs", "optimizer", "constant", "examples")


def choose_network(name, args):
    """A network with the training that the arguments ask for."""
    network = NETWORKS[name]
    if args.examples:
        network = network.shorten(args.examples)
    falling = False if args.constant else None
    return network.retuned(epochs=args.epochs, optimizer=args.optimizer, falling=falling)


def describe(network):
    """What the record says about a network."""
    return {
        "metric": network.task.metric,
        "note": network.note,
        "pretraining": dataclasses.asdict(network.pretraining),
        "tuning": dataclasses.asdict(network.tuning),
    }


def plan(name, seed, args):
    """The rows of a network and seed, each with the recipe and setting that make it."""
    recipes = [("dense", PRETRAINED), *((key, RECIPES[key]) for key in args.recipes)]
    for key, recipe in recipes:
        for label, setting in recipe.settings(args).items():
            row = {"network": name, "seed": seed, "recipe": key, "setting": label}
            yield row, recipe, setting


def make_row(network, seed, recipe, setting, args):
    """The figures of a row, or the problem that kept it from them."""
    keras.backend.clear_session()
    try:
        check_time(network, args)
        figures = recipe.run(network, seed, setting, args)
        dense = network.dense(seed, args.cache)
    except NotRunError as reason:
        return {"problem": f"not run: {reason}"}
    # Whatever stops one row must not stop the others.
    except Exception as error:
        traceback.print_exc()
        line = str(error).strip().partition("\n")[0]
        return {"problem": f"failed: {type(error).__name__}: {line[:200]}"}
    return {"dense bytes": 4 * dense.count_params(), **figures}


def check_time(network, args):
    """Refuses a network that takes too long, unless it is asked for or there is a GPU."""
    if network.on_request and not args.wrn and not tf.config.list_physical_devices("GPU"):
        raise NotRunError("takes days without a GPU; --wrn runs it all the same")


def run_all(args, record):
    """Runs the networks that are asked for, each with every seed."""
    for name, seed in itertools.product(args.nets, args.seeds):
        network = choose_network(name, args)
        record["networks"][name] = describe(network)
        run_network(network, list(plan(name, seed, args)), args, record)


def run_network(network, rows, args, record):
    """Runs the rows that the record does not hold yet, and stores it after each."""
    for row, recipe, setting in rows:
        if any(is_same(row, old) for old in record["rows"]):
            continue
        figures = make_row(network, row["seed"], recipe, setting, args)
        record["rows"].append({**row, **figures, "ended": time.strftime("%F %T")})
        common.write(SCRIPT, args, record, to_markdown(record))
        print(record["rows"][-1], flush=True)
        if recipe is PRETRAINED and "problem" in figures:
            break


def is_same(row, other):
    """Whether two rows are of the same network, seed, recipe and setting."""
    return all(row[key] == other[key] for key in ("network", "seed", "recipe", "setting"))


def open_record(args):
    """A new record, or the stored one of the run that is to go on."""
    record = common.start_record(SCRIPT, args)
    path = args.output / SCRIPT / f"{args.run}.json"
    if not (args.resume and path.exists()):
        return {**record, "continued": [], "networks": {}, "rows": []}
    stored = json.loads(path.read_text())
    for name in COMMON:
        before, now = stored["arguments"][name], record["arguments"][name]
        if before != now:
            raise SystemExit(f"--{name} was {before} when {path.name} began, not {now}.")
    keys = ("command", "environment")
    stored["continued"].append({key: record[key] for key in keys})
    stored["rows"] = [row for row in stored["rows"] if not is_tried_again(row, args)]
    return stored


def is_tried_again(row, args):
    """Whether a row has failed and is asked for anew."""
    asked = row["network"] in args.nets and row["seed"] in args.seeds
    return "problem" in row and asked and row["recipe"] in ("dense", *args.recipes)


def main():
    """Runs what is asked for, prints the tables and saves them."""
    args = _parse_arguments()
    files.look_in(args.data)
    record = open_record(args)
    run_all(args, record)
    print(to_markdown(record))


def _parse_arguments():
    parser = common.make_parser(__doc__)
    add = parser.add_argument
    files.add_argument(parser)
    add("--nets", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NET")
    add("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--cache", type=pathlib.Path, default=CACHE, help="folder of pretrained networks")
    add("--resume", action="store_true", help="go on with the stored rows of this run")
    add("--wrn", action="store_true", help="run wrn-16-4 without a GPU, too")
    add("--nncodec", help="python of an environment with nncodec")
    _add_settings(parser)
    args = parser.parse_args()
    words = ["all"] if args.nets == list(NETWORKS) else args.nets
    args.run = args.run or common.name_run(words, bool(args.examples))
    return args


def _add_settings(parser):
    """What the recipes try, and what all trainings of a run have in common."""
    add = parser.add_argument
    add("--complexity-weights", type=float, nargs="+", help="tau, of soft weight-sharing")
    add("--rates", type=float, nargs="+", help="learning rates of soft weight-sharing")
    add("--sparsities", type=float, nargs="+", default=[0.9, 0.75, 0.5], help="of tfmot")
    add("--values", type=int, nargs="+", default=[3, 4, 8, 16], help="without a prior")
    add("--settings", type=json.loads, default={}, help="JSON of soft weight-sharing's")
    add("--epochs", type=int, help="after the pretraining; default: each network's own")
    add("--optimizer", choices=list(OPTIMIZERS))
    add("--constant", action="store_true", help="a rate that does not fall")
    add("--examples", type=int, help="only so many, and short trainings, to try it out")


if __name__ == "__main__":
    main()
