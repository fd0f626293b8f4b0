"""The README's table, from stored runs of the real networks."""

import json

from benchmarks import common
from benchmarks.real_networks.report import (
    PEERS,
    TITLES,
    average,
    find_dense,
    find_ours,
    pick_peer,
)

# The runs whose networks the table has, in its order.
RUNS = ("small", "mobile", "resnet-8")
NAMES = {
    "breast-cancer": "MLP, breast cancer table",
    "diabetes": "MLP, diabetes table (1 - R²)",
    "text": "text classifier, embedding",
    "recurrent": "Conv1D + BiLSTM, series",
    "lenet-300-100": "LeNet-300-100, MNIST",
    "unet": "U-Net, made-up pictures (1 - mIoU)",
    "transformer": "text transformer",
    "separable": "depthwise-separable, CIFAR-10",
    "resnet-8": "ResNet-8 of MLPerf Tiny, CIFAR-10",
}
START, END = "<!-- From benchmarks/results/real_networks. -->", "<!-- End of the table. -->"


def to_table():
    """The table of all networks of `RUNS`, in Markdown."""
    lines = []
    for run in RUNS:
        path = common.RESULTS / "real_networks" / f"{run}.json"
        record = json.loads(path.read_text())
        for network in record["networks"]:
            rows = [row for row in record["rows"] if row["network"] == network]
            lines.append(_line(network, average(rows)))
    headers = ["network", "float32", "error", "tfmot_sws", "error", *(TITLES[p] for p in PEERS)]
    align = ["left", *["right"] * (len(headers) - 1)]
    return common.to_table(headers, lines, align)


def _line(network, means):
    dense, ours = find_dense(means), find_ours(means)
    peers = (pick_peer(means, peer, ours) for peer in PEERS)
    return [
        NAMES[network],
        f"{dense['bytes']:,.0f}",
        f"{dense['test error']:.1%}",
        f"**{ours['bytes']:,.0f}** ({ours['dense bytes'] / ours['bytes']:.0f}x)",
        f"{ours['test error']:.1%}",
        *map(_peer, peers),
    ]


def _peer(row):
    """Bytes and error; in brackets where it is less accurate on validation data."""
    if not row:
        return "not run"
    text = f"{row['bytes']:,.0f}, {row['test error']:.1%}"
    return f"({text})" if row["worse"] else text


def put_into(text):
    """A text with the table between its marks."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{to_table()}\n\n{END}{after}"
