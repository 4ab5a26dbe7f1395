"""What the authors of SVP published, row by row: constants beside which `svp reproduce` puts what it measures.

Source: Coleman et al., "Selection via Proxy: Efficient Data Selection for Deep Learning", ICLR 2020 (arXiv 1906.11829).
Speed-ups of selection are from its poster; errors and totals of CIFAR10 at 50 % from the first README of the authors'
code (commit d5e7a3b, one Titan V); the core-set from the abstract. Their error tables at other budgets were not
available to us, so nothing stands here for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SOURCE = "Coleman et al., ICLR 2020 (arXiv 1906.11829): its poster, abstract, and the first README of the authors' code"


@dataclass(frozen=True)
class Published:
    """One row of a table. Keys are budgets: percent of the pool that is labelled, or kept.

    Attributes:
        selection_speedups: seconds of the target selecting for itself over those of the proxy.
        total_speedups: the same with the training of the final target; of a core-set over training on everything.
        proxy_errors, target_errors: top-1 error of the target in percent, mean and standard deviation, on what the
            proxy and on what the target itself selected.
    """

    selection_speedups: Mapping[int, float] = field(default_factory=dict)
    total_speedups: Mapping[int, float] = field(default_factory=dict)
    proxy_errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    target_errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def _budgets(*values: float) -> dict[int, float]:
    return dict(zip((10, 20, 30, 40, 50), values, strict=True))


_RESNET164_AT_50 = {50: (5.3, 0.1)}

PAPER: Mapping[str, Published] = {
    "cifar10_resnet20_181": Published(
        _budgets(3.8, 5.8, 6.7, 7.0, 7.2), {50: 2.5}, {50: (5.4, 0.4)}, _RESNET164_AT_50
    ),
    "cifar10_resnet20_50": Published(
        # The README says 24.6 at 50 %; the poster is quoted for all budgets.
        _budgets(10.7, 18.9, 22.2, 23.9, 25.0), {50: 2.9}, {50: (5.9, 0.3)}, _RESNET164_AT_50
    ),
    "imagenet_resnet18_90": Published(_budgets(1.2, 1.3, 1.4, 1.5, 1.6)),
    "imagenet_resnet18_45": Published(_budgets(2.1, 2.5, 2.7, 2.9, 3.1)),
    "amazon_polarity_fasttext": Published(_budgets(10.6, 20.6, 32.2, 41.9, 51.3)),
    "coreset_cifar10": Published(total_speedups={50: 1.6}),
}  # fmt: skip
