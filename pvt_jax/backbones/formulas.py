"""What the formulas of the families' costs share; see ``cost.py`` for what is counted."""

from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Of one part of a model and one image.

    output: (rows, columns, channels) of the feature map that it returns, or (classes,).
    weights: products with parameters: linear maps and convolutions.
    attention: products of two things computed from the image: queries · keys, and weights · values.
    """

    output: tuple[int, ...]
    weights: int
    attention: int

    @property
    def total(self) -> int:
        return self.weights + self.attention


def convolved(size: int, side: int, stride: int) -> int:
    """Positions of a convolution or pooling that pads by half its ``side``."""
    return (size + 2 * (side // 2) - side) // stride + 1


def attention_weights(tokens: int, keys: int, dim: int) -> int:
    """Queries, keys and values, and the linear map of the output."""
    return tokens * dim * dim + keys * dim * (2 * dim) + tokens * dim * dim


def attention(tokens: int, keys: int, dim: int) -> int:
    """Queries · keys and weights · values; the number of heads does not matter."""
    return 2 * tokens * keys * dim


def feed_forward(tokens: int, dim: int, hidden: int) -> int:
    """Two linear maps."""
    return 2 * tokens * dim * hidden


def classifier(model: Any, dim: int) -> Cost:
    """The linear map of a backbone's ``ClassificationHead``."""
    cells = sum(level**2 for level in model.spp_levels) if model.spp_levels else 1
    return Cost((model.num_classes,), cells * dim * model.num_classes, 0)
