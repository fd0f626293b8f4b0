"""The complexity weight tau when none is given: from the numbers of examples and weights."""

from __future__ import annotations

# tau / N, the price of a nat in nats of an example's error; and the least and the most that a
# nat for each of the weights costs together.
_PRICE, _LEAST, _MOST = 7e-7, 0.012, 0.3


def resolve(given: float | None, train_size: int | None, num_weights: int) -> float | None:
    """The complexity weight tau: the one that is given, or the default.

    The default is 7e-7 N, or what lies between 0.012 N / W and 0.3 N / W: tau / N, the price
    of a nat in nats of an example's mean error, is the same whatever the number of examples.
    In the Bayesian reading tau is the same, and few examples let weights cost more; but
    whoever compresses a network wants to lose the same little accuracy with 400 examples as
    with 60,000. The bounds keep the price of all weights together within that of an error:
    a tiny network can pay more for each, a huge one would have to give up what it has
    learned. See docs/experiments.md.

    Args:
        given: tau > 0, or `None` for the default.
        train_size: N >= 1, the number of training examples; `None` while unknown.
        num_weights: W >= 1, the number of shared weights.

    Returns:
        tau, or `None` if neither it nor N is known.

    Example:
        >>> [round(resolve(None, n, 78_000), 4) for n in (50_000, 2_000)]
        [0.035, 0.0014]
        >>> resolve(0.01, 50_000, 78_000), resolve(None, None, 78_000)
        (0.01, None)
    """
    if given is not None or train_size is None:
        return given
    size = max(num_weights, 1)
    return train_size * min(max(_PRICE, _LEAST / size), _MOST / size)
