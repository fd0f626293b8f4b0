"""The networks of the paper on MNIST, as examples/lenet_mnist.py has them."""

import functools

from benchmarks.real_networks import files
from benchmarks.real_networks.network import Network, Training
from examples import lenet_mnist as lenet

TUNING_EPOCHS = {"lenet-300-100": 24, "lenet-5-caffe": 16, "tutorial": 16}


@functools.cache
def load():
    """60,000 digits for training and validation, 10,000 for the test."""
    return lenet.load_mnist(files.find("mnist.npz"))


def _make(name):
    pretraining = Training(
        lenet.PRETRAIN_EPOCHS[name], lenet.PRETRAIN_RATE, lenet.PRETRAIN_BATCH
    )
    tuning = Training(
        TUNING_EPOCHS[name], lenet.SHARE_RATE, lenet.SHARE_BATCH, warmup=lenet.SHARE_WARMUP
    )
    jit_compile = None if name == "lenet-300-100" else False
    return Network(name, lenet.NETS[name], load, pretraining, tuning, jit_compile=jit_compile)


NETWORKS = [_make(name) for name in lenet.NETS]
