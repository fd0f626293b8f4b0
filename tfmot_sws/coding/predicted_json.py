"""Codes the text of an architecture as what differs from what is to be expected.

A model repeats itself. The configuration of a layer is mostly that of the last layer of its
class; its name counts on from that layer's; its input is the output of the layer before, and
has the shape of one seen lately. So a value is coded as the first of a few candidates that
it equals. Each candidate costs one predicted bit, next to nothing where the choice is always
the same. What no candidate gives is kept as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tfmot_sws.coding.arithmetic import BitCoder
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.mixing import Mixer

# Limits the text that is built, and the work for it.
_MAX_WORK: Final = 1 << 27
_WORK_OF_BIT: Final = 1 << 8
_NUM_RECENT: Final = 8
_NUM_NAMES: Final = 32
_NUM_OF_KEY: Final = 3
_NUM_OF_CLASS: Final = 4
_NUM_SHAPES: Final = 5
_LAYERS, _CLASS, _NAME, _HISTORY = "layers", "class_name", "name", "keras_history"
# What sets the last axis of a layer's output.
_WIDTHS: Final = ("filters", "units")


class PredictedJson:
    """Codes one JSON value; writing and reading run the same steps.

    Args:
        coder: a `BitEncoder` or a `BitDecoder`.
        samples: a JSON value with samples of what may come.
        literals: texts that no candidate gave; filled by a writer, used up by a reader.
        is_reader: whether it reads.
    """

    def __init__(
        self, coder: BitCoder, samples: Any, literals: list[str], *, is_reader: bool
    ) -> None:
        self._coder, self._literals, self._is_reader = coder, literals, is_reader
        self._work_left = _MAX_WORK
        self._choice = Mixer(5, initial_weight=26000, rate=8, prior=1)
        self._of_class: dict[str, list[Any]] = {}
        for sample in _objects(samples):
            known = self._of_class.setdefault(sample[_CLASS], [])
            if all(list(sample) != list(other) for other in known):
                known.append(sample)
        self._recent_classes: list[str] = []
        self._names: list[str] = []
        self._shapes: list[Any] = []
        self._of_key: dict[str, list[Any]] = {}
        self._last_choice: dict[Any, int] = {}
        self._width: Any = None
        self._name: str | None = None
        self._class = self._class_before = ""

    def code(self, value: Any = None) -> Any:
        """Codes an object with a class name, and returns it; a reader passes nothing.

        Raises:
            CompressedFileError: what is read is too large, or ends early.
        """
        return self._code_object(value)

    def _code_object(self, value: Any) -> Any:
        """Codes an object whose class tells what it is like."""
        wanted = None if value is None else value[_CLASS]
        name = self._choose(_CLASS, self._expected_classes(), wanted)
        outer = self._class, self._class_before, self._name
        self._class_before = self._recent_classes[0] if self._recent_classes else outer[0]
        self._class, self._name = name, None
        known = self._of_class.setdefault(name, [])
        coded = self._code_value("", value, [*known])
        self._class, self._class_before, self._name = outer
        known.insert(0, coded)
        del known[_NUM_OF_CLASS:]
        self._recent_classes.insert(0, name)
        self._names = [*_names_in(coded), *self._names][:_NUM_NAMES]
        return coded

    def _expected_classes(self) -> list[str]:
        """What followed the last class before, then those seen lately, then all known ones."""
        seen = self._recent_classes
        after = [seen[i - 1] for i in range(1, len(seen)) if seen[i] == seen[0]]
        return [*dict.fromkeys([*after[:2], *seen, *self._of_class])]

    def _code_layers(self, value: Any) -> Any:
        """Codes a list of objects one after the other."""
        layers: list[Any] = []
        while self._bit(value is not None and len(layers) < len(value), ("more", self._class)):
            layers.append(self._code_object(None if value is None else value[len(layers)]))
        return layers

    def _code_value(self, key: str, value: Any, expected: Sequence[Any]) -> Any:
        """Codes a value of an object, given what it may be, the likeliest first."""
        if key == _LAYERS and self._bit(_are_objects(value), (key,)):
            return self._code_layers(value)
        coded, is_known = self._choose_or_none(key, self._candidates(key, expected), value)
        if not is_known:
            coded = self._code_unexpected(key, value, expected)
        self._note(key, coded)
        return coded

    def _code_unexpected(self, key: str, value: Any, expected: Sequence[Any]) -> Any:
        """Codes a value by its parts, if it has those of what was expected, or as text."""
        objects = [e for e in expected if isinstance(e, dict)]
        for number, model in enumerate(_first_of_each(objects, tuple)):
            if self._bit(_has_keys(value, model), ("parts", key, number)):
                return self._code_parts(list(model), value, objects)
        lists = [e for e in (*expected, *self._of_key.get(key, [])) if e and type(e) is list]
        for number, model in enumerate(_first_of_each(lists, len)):
            if self._bit(_is_as_long(value, model), ("parts", key, number)):
                items = [None] * len(model) if value is None else value
                return [
                    self._code_value(key, item, [alike])
                    for item, alike in zip(items, model, strict=True)
                ]
        if key and self._bit(_are_objects([value]), ("class", key)):
            return self._code_object(value)
        if self._bit(isinstance(value, dict) and bool(value), ("object", key)):
            keys = self._code_literal(None if value is None else list(value))
            return self._code_parts(keys, value, objects)
        return self._code_literal(value)

    def _code_parts(self, keys: list[str], value: Any, objects: list[Any]) -> dict[str, Any]:
        """Codes the values of an object whose keys are known."""
        return {
            part: self._code_value(
                part,
                None if value is None else value[part],
                [e[part] for e in objects if part in e],
            )
            for part in keys
        }

    def _code_literal(self, value: Any) -> Any:
        if not self._is_reader:
            self._literals.append(_text(value))
            return value
        if not self._literals:
            raise CompressedFileError(
                "The architecture ends early. The file is damaged; copy or download it again."
            )
        return json.loads(self._literals.pop(0))

    def _candidates(self, key: str, expected: Sequence[Any]) -> list[Any]:
        """What a value may be, beside what is expected of its place."""
        first = expected[0] if expected else None
        found: list[Any] = []
        if key == _NAME and isinstance(first, str):
            found += [_next_name(first)] if self._name is None else [self._name]
        elif key == _HISTORY:
            found += [[name, 0, 0] for name in self._names[:_NUM_RECENT]]
        elif isinstance(first, str) and first in self._names:
            found += self._names[:_NUM_RECENT]
        elif _is_shape(first):
            found += self._expected_shapes()
        elif isinstance(first, list) and first and all(map(_is_shape, first)):
            found += [[shape] * len(first) for shape in self._expected_shapes()]
        return [*found, *expected, *self._of_key.get(key, [])]

    def _expected_shapes(self) -> list[Any]:
        derived = [[*s[:-1], self._width] for s in self._shapes[:2] if self._width is not None]
        return [*self._shapes[:1], *derived, *self._shapes[1:]]

    def _note(self, key: str, value: Any) -> None:
        """Takes note of a value for what follows."""
        if key == _NAME and self._name is None and isinstance(value, str):
            self._name = value
        if key in _WIDTHS:
            self._width = value
        if _is_shape(value):
            self._shapes = [value, *(s for s in self._shapes if s != value)][:_NUM_SHAPES]
        text = _text(value)
        self._spend(len(text))
        others = (v for v in self._of_key.get(key, []) if _text(v) != text)
        self._of_key[key] = [value, *others][:_NUM_OF_KEY]

    def _choose(self, key: str, candidates: Sequence[Any], value: Any) -> Any:
        coded, is_known = self._choose_or_none(key, candidates, value)
        return coded if is_known else self._code_literal(value)

    def _choose_or_none(
        self, key: str, candidates: Sequence[Any], value: Any
    ) -> tuple[Any, bool]:
        """Codes which of the candidates a value is, if any."""
        place = (self._class, key)
        before = self._last_choice.get(place, -1)
        wanted = None if self._is_reader else _text(value)
        seen: set[str] = set()
        for candidate in candidates:
            text = _text(candidate)
            self._spend(len(text))
            if text in seen:
                continue
            number = len(seen)
            seen.add(text)
            contexts = (key, self._class, number, before, self._class_before)
            if self._bit(text == wanted, contexts):
                self._last_choice[place] = number
                return candidate, True
        self._last_choice[place] = -2
        return None, False

    def _bit(self, bit: bool, place: tuple[Any, ...]) -> bool:
        """Codes a bit at a place: key, class, number, choice before, class before."""
        self._spend(_WORK_OF_BIT)
        key, of_class, number, before, class_before = [*place, *[None] * 4][:5]
        contexts: Any = (
            (number,),
            (key, number),
            (key, of_class, number),
            (key, of_class, number, before),
            (key, of_class, number, class_before),
        )
        return bool(self._choice.code(self._coder, int(bit), contexts))

    def _spend(self, work: int) -> None:
        self._work_left -= work
        if self._work_left < 0:
            raise CompressedFileError(
                "The architecture is larger than that of any model. The file is damaged or "
                "hostile; do not use it."
            )


def _first_of_each(values: Sequence[Any], kind: Callable[[Any], Any]) -> list[Any]:
    """The values without those of which an earlier one is of the same kind."""
    found: dict[Any, Any] = {}
    for value in values:
        found.setdefault(kind(value), value)
    return [*found.values()]


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object with a class name in a JSON value, the inner ones first."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _objects(part)
    if isinstance(value, dict) and isinstance(value.get(_CLASS), str):
        yield value


def _names_in(layer: Any) -> list[str]:
    """The name of a layer, as others refer to it."""
    parts = [layer, layer.get("config")] if isinstance(layer, dict) else []
    names = (part.get(_NAME) for part in parts if isinstance(part, dict))
    return [name for name in names if isinstance(name, str)][:1]


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get(_CLASS), str) for part in value
    )


def _has_keys(value: Any, model: dict[str, Any]) -> bool:
    return isinstance(value, dict) and list(value) == list(model)


def _is_as_long(value: Any, model: list[Any]) -> bool:
    return isinstance(value, list) and len(value) == len(model) > 0


def _is_shape(value: Any) -> bool:
    """Whether this is the shape of a tensor: its axes, with null for any that varies."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(part is None or type(part) is int for part in value)
    )


def _next_name(name: str) -> str:
    """The name that counts on: dense, dense_1, dense_2."""
    found = re.fullmatch(r"(.*?)(\d{1,9})", name)
    if found is None:
        return f"{name}_1"
    return f"{found[1]}{int(found[2]) + 1}"
