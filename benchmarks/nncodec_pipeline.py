"""Runs NNCodec for compression.py, in an environment that has it.

    python nncodec_pipeline.py FOLDER QP...

Reads dense.npz, stripped.npz or both; writes sizes.json and for each QP decodedQP.npz.
"""

import json
import pathlib
import sys

import numpy as np
from nncodec.nn import decode, encode


def load(path):
    """Arrays by name, in their order."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def code_indices(weights):
    """Bytes of a clustered network without loss: integer indices, and float32 codebooks.

    Indices count from zero outwards, negative values below: what the coder is made for.
    """
    values = np.unique(np.concatenate([w.ravel() for w in weights.values()]))
    zero = int(np.searchsorted(values, 0.0))
    indices = {
        n: (np.searchsorted(values, w) - zero).astype(np.int32) for n, w in weights.items()
    }
    bitstream = encode(indices, {"verbose": False, "use_dq": False})
    decoded = decode(bitstream)
    assert all(np.array_equal(decoded[n], indices[n]) for n in indices)
    return len(bitstream) + 4 * values.size


def main():
    """Codes the stripped weights, and the dense ones at each quantisation parameter."""
    folder, qps = pathlib.Path(sys.argv[1]), [int(qp) for qp in sys.argv[2:]]
    sizes, stripped = {}, folder / "stripped.npz"
    if stripped.exists():
        sizes["stripped"] = code_indices(load(stripped))
    dense = load(folder / "dense.npz") if qps else {}
    for qp in qps:
        bitstream = encode(dense, {"verbose": False, "qp": qp})
        decoded = decode(bitstream)
        np.savez(folder / f"decoded{qp}.npz", **{n: decoded[n] for n in dense})
        sizes[str(qp)] = len(bitstream)
    (folder / "sizes.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main()
