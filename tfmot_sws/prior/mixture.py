"""The Gaussian mixture as an immutable value: reference mathematics in float64.

Merging and pictures read the mixture through this class, and tests compare the tensors of
the training path with it. Component 0 is the zero component.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from tfmot_sws.arguments import floats

Array = NDArray[np.float64]

# Densities of many weights are evaluated in slices, so that memory stays at
# slice x components however large the network is.
_SLICE = 1 << 18


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """A one-dimensional Gaussian mixture whose component 0 sits at zero.

    p(w) = sum_k pi_k N(w; mu_k, sigma_k^2), with mu_0 = 0.

    Args:
        means: shape (K,), mu_k in units of the weights; `means[0]` is 0.
        stddevs: shape (K,), sigma_k > 0 in units of the weights.
        mixing_proportions: shape (K,), pi_k in [0, 1], summing to 1.

    Raises:
        ValueError: when shapes differ, a width is not positive and finite, the
            proportions do not sum to 1, or the first mean is not 0.

    Example:
        >>> mixture = GaussianMixture([0.0, 0.5], [0.1, 0.1], [0.9, 0.1])
        >>> mixture.assign([0.02, 0.6]).tolist()
        [0, 1]

    References:
        Ullrich, Meeds, Welling, "Soft Weight-Sharing for Neural Network
        Compression", ICLR 2017, section 3.
    """

    means: Array
    stddevs: Array
    mixing_proportions: Array

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            array = floats(field.name, getattr(self, field.name))
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)
        self._validate()

    def _validate(self) -> None:
        shapes = {self.means.shape, self.stddevs.shape, self.mixing_proportions.shape}
        if len(shapes) != 1 or self.means.ndim != 1 or not self.means.size:
            raise ValueError(
                "means, stddevs and mixing_proportions must share one shape (K,) with "
                f"K >= 1; received shapes {self.means.shape}, {self.stddevs.shape} and "
                f"{self.mixing_proportions.shape}."
            )
        if self.means[0] != 0.0 or not np.all(np.isfinite(self.means)):
            raise ValueError(
                "The means must be finite, and the first, that of the zero component, "
                f"exactly 0; received {self.means}."
            )
        if not np.all((self.stddevs > 0) & np.isfinite(self.stddevs)):
            raise ValueError(
                f"All stddevs must be positive and finite; received {self.stddevs}."
            )
        total = self.mixing_proportions.sum()
        if np.any(self.mixing_proportions < 0) or not np.isclose(total, 1.0, atol=1e-5):
            raise ValueError(
                "The mixing proportions must be at least 0 and sum to 1; received "
                f"{self.mixing_proportions} with sum {total}."
            )

    @property
    def num_components(self) -> int:
        """Number of components K."""
        return self.means.size

    @property
    def precisions(self) -> Array:
        """lambda_k = 1 / sigma_k^2, shape (K,)."""
        return self.stddevs**-2

    def component_log_prob(self, values: ArrayLike) -> Array:
        """log(pi_k N(w; mu_k, sigma_k^2)) for values of shape S: shape S + (K,)."""
        distance = (np.asarray(values, np.float64)[..., None] - self.means) / self.stddevs
        with np.errstate(divide="ignore"):
            log_proportions = np.log(self.mixing_proportions)
        log_norm = np.log(self.stddevs) + 0.5 * np.log(2 * np.pi)
        return log_proportions - log_norm - 0.5 * distance**2

    def log_prob(self, values: ArrayLike) -> Array:
        """log p(w), same shape as `values`."""
        return logsumexp(self.component_log_prob(values), axis=-1)

    def responsibilities(self, values: ArrayLike) -> Array:
        """r_k(w) = pi_k N_k(w) / p(w) for values of shape S: shape S + (K,)."""
        joint = self.component_log_prob(values)
        return np.exp(joint - logsumexp(joint, axis=-1, keepdims=True))

    def assign(self, values: ArrayLike, width: float | None = None) -> NDArray[np.intp]:
        """Index of the component that each value belongs to.

        With a width s, argmax_k log pi_k - (w - mu_k)^2 / (2 s^2): the cheapest
        quantisation when a weight's rate is -log pi_k and its distortion counts
        1 / (2 s^2). Without one, argmax_k of the responsibilities (the paper's rule).

        Args:
            values: any shape S.
            width: the common width s > 0 in units of the weights, or `None`.

        Returns:
            Integer array of shape S.
        """
        flat = np.asarray(values, np.float64).reshape(-1)
        common = (
            self
            if width is None
            else dataclasses.replace(self, stddevs=np.full_like(self.stddevs, width))
        )
        parts = [
            common.component_log_prob(flat[start : start + _SLICE]).argmax(axis=-1)
            for start in range(0, flat.size, _SLICE)
        ]
        indices = np.concatenate(parts) if parts else np.zeros(0, np.intp)
        return indices.reshape(np.shape(values))

    def symmetric_kl(self) -> Array:
        """Symmetric KL divergence between every two components, nats, shape (K, K)."""
        variances = self.stddevs**2
        squared_gap = (self.means[:, None] - self.means) ** 2
        one_way = (variances[:, None] + squared_gap) / variances
        return 0.5 * (one_way + one_way.T) - 1.0

    def select(self, keep: NDArray[np.bool_]) -> GaussianMixture:
        """The mixture of the components marked in `keep`; component 0 always stays.

        The proportions of the others that stay are scaled to sum to 1 - pi_0.
        """
        keep = np.asarray(keep, bool).copy()
        keep[0] = True
        proportions = self.mixing_proportions[keep].copy()
        others = proportions[1:].sum()
        if others > 0:
            proportions[1:] *= (1.0 - proportions[0]) / others
        else:
            proportions[0] = 1.0
        return GaussianMixture(self.means[keep], self.stddevs[keep], proportions)

    def merge_groups(self, threshold: float) -> list[NDArray[np.intp]]:
        """Groups of components to be made one, closest pairs first.

        Two groups join when the symmetric KL divergence of the merged components is
        below `threshold` (nats). The group of the zero component keeps its mean.

        Returns:
            Sorted index arrays that partition 0..K-1; the first holds component 0.
        """
        groups = [np.array([k]) for k in range(self.num_components)]
        mixture = self
        while mixture.num_components > 1:
            divergence = mixture.symmetric_kl()
            np.fill_diagonal(divergence, np.inf)
            first, second = sorted(divmod(int(divergence.argmin()), len(groups)))
            if divergence[first, second] >= threshold:
                break
            groups[first] = np.sort(np.concatenate([groups[first], groups[second]]))
            del groups[second]
            mixture = self.merge(groups)
        return groups

    def merge(self, groups: list[NDArray[np.intp]]) -> GaussianMixture:
        """Each group of components made one by moment matching.

        pi is summed; mean and variance are those of the group's own mixture, so the
        spread between the merged means widens the result. The zero component's mean
        stays 0 and its variance is taken about 0.
        """
        means, variances, proportions = [], [], []
        for group in groups:
            pi = self.mixing_proportions[group]
            share = pi / pi.sum() if pi.sum() > 0 else np.full(len(group), 1 / len(group))
            mean = 0.0 if 0 in group else float(share @ self.means[group])
            second_moment = self.stddevs[group] ** 2 + (self.means[group] - mean) ** 2
            means.append(mean)
            variances.append(float(share @ second_moment))
            proportions.append(float(pi.sum()))
        total = np.array(proportions)
        return GaussianMixture(np.array(means), np.sqrt(variances), total / total.sum())
