"""A subjective-logic opinion (Jøsang, Subjective Logic, 2016, ch. 3). Its algebra is in ``gateway.trust.opinion``."""

from __future__ import annotations

import math
from dataclasses import dataclass

TOLERANCE = 1e-9  # floating-point slack on b + d + u = 1


@dataclass(frozen=True, slots=True)
class Opinion:
    """Binomial opinion: belief + disbelief + uncertainty = 1, each and the base rate in [0, 1]. Raises ValueError otherwise."""

    belief: float
    disbelief: float
    uncertainty: float
    base_rate: float = 0.5

    def __post_init__(self) -> None:
        parts = (self.belief, self.disbelief, self.uncertainty, self.base_rate)
        if not all(math.isfinite(p) and -TOLERANCE <= p <= 1 + TOLERANCE for p in parts):
            raise ValueError(f"an opinion's parts lie in [0, 1], got {parts}")
        if abs(self.belief + self.disbelief + self.uncertainty - 1) > 1e-6:
            raise ValueError(f"belief + disbelief + uncertainty must be 1, got {self.belief + self.disbelief + self.uncertainty}")

    @property
    def projected(self) -> float:
        """Projected probability P = b + a·u."""
        return self.belief + self.base_rate * self.uncertainty
