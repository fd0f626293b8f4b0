"""Makes `.sws` files that their writer never writes, and measures what reading them takes."""

import contextlib
import gc
import json
import pathlib
import time

import keras
import numpy as np

from tfmot_sws.coding.container import Section, frame
from tfmot_sws.coding.tensors import encode_tensors
from tfmot_sws.coding.text import encode_text

_STATUS = pathlib.Path("/proc/self/status")
_RESET_PEAK = pathlib.Path("/proc/self/clear_refs")


def config_of(model, library=keras):
    """The configuration of a model as it is stored, for a test to change."""
    config = json.loads(json.dumps(library.saving.serialize_keras_object(model)))
    return config if library is keras else {**config, "library": library.__name__}


def packed(config, arrays):
    """A file with right checksums."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    architecture = {Section.ARCHITECTURE: encode_text(text)}
    return b"".join(frame({**architecture, **encode_tensors(arrays).sections()}))


def values_of(model):
    """The variables of a model as arrays."""
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.variables]


@contextlib.contextmanager
def cheap(seconds=1.0, megabytes=100):
    """Checks the processor time and the memory that a block takes.

    Linux can forget the peak of the memory so far; elsewhere only the time is checked. The
    garbage collector is off: it may look for seconds through what was made before.
    """
    with contextlib.suppress(OSError):
        _RESET_PEAK.write_text("5")
    gc.disable()
    before, start = _memory("VmRSS"), time.process_time()
    try:
        yield
        took, peak = time.process_time() - start, _memory("VmHWM")
    finally:
        gc.enable()
    assert took < seconds
    assert peak - before < megabytes * 1024


def _memory(name):
    if not _RESET_PEAK.exists():
        return 0
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[name].split()[0])
