"""Pasted masks against a loop over pixels and PyTorch, run lengths against the text of a COCO library."""

import numpy as np
import pytest
from faster_coco_eval import mask as coco_masks

from pvt_jax.tasks.detection.instance_masks import encode, paste_and_encode, paste_mask


def value_at(grid, box, y, x):
    """Bilinear, 0 beyond the grid; (y, x) in pixels of the image."""
    rows, columns = grid.shape
    x1, y1, x2, y2 = box
    y, x = (y - y1) / (y2 - y1) * rows - 0.5, (x - x1) / (x2 - x1) * columns - 0.5
    top, left = int(np.floor(y)), int(np.floor(x))
    value = 0.0
    for row, share in ((top, top + 1 - y), (top + 1, y - top)):
        for column, part in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < rows and 0 <= column < columns:
                value += share * part * float(grid[row, column])
    return value


def cases(count):
    """(grid, box, height, width, threshold): boxes within the image, beyond its edges and outside of it."""
    random = np.random.default_rng(0)
    for number in range(count):
        rows, columns = (28, 28) if number % 2 else random.integers(1, 9, 2)
        height, width = (int(side) for side in random.integers(1, 70, 2))
        centre, size = random.uniform(-20, 80, 2), random.uniform(0.1, 150, 2)
        box = np.concatenate([centre - size / 2, centre + size / 2]).astype(np.float32)
        yield random.random((rows, columns)).astype(np.float32), box, height, width, (0.1, 0.5, 0.7)[number % 3]


def test_every_pixel_has_the_value_at_its_centre():
    seen = 0
    for grid, box, height, width, threshold in cases(60):
        found = paste_mask(grid, box, height, width, threshold)
        assert found.dtype == bool and found.shape == (height, width)
        values = [[value_at(grid, box.tolist(), y + 0.5, x + 0.5) for x in range(width)] for y in range(height)]
        clear = np.abs(np.array(values) - threshold) > 1e-5
        np.testing.assert_array_equal(found[clear], (np.array(values) >= threshold)[clear])
        seen += found.sum()
    assert seen > 10_000


def test_masks_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle that make test ORACLES=1 installs")
    for grid, box, height, width, threshold in cases(200):
        x1, y1, x2, y2 = box.tolist()
        x = ((torch.arange(width).double() + 0.5 - x1) / (x2 - x1) * 2 - 1).expand(height, width)
        y = ((torch.arange(height).double() + 0.5 - y1) / (y2 - y1) * 2 - 1)[:, None].expand(height, width)
        values = torch.nn.functional.grid_sample(
            torch.from_numpy(grid)[None, None].double(), torch.stack([x, y], -1)[None], align_corners=False
        )[0, 0].numpy()
        clear = np.abs(values - threshold) > 1e-5
        np.testing.assert_array_equal(
            paste_mask(grid, box, height, width, threshold)[clear], (values >= threshold)[clear]
        )


def test_a_full_grid_fills_its_box():
    found = paste_mask(np.ones((28, 28), np.float32), np.array([2, 1, 5, 3], np.float32), 6, 8)
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(found, expected)
    # Just the threshold is enough.
    half = np.full((28, 28), 0.5, np.float32)
    assert paste_mask(half, np.array([1, 2, 29, 30], np.float32), 40, 50).sum() == 28 * 28


@pytest.mark.parametrize("box", [(3, 3, 3, 9), (3, 9, 9, 3), (0, 0, 0, 0), (900, 900, 950, 950), (-9e9, 0, -8e9, 5)])
def test_boxes_that_show_nothing(box):
    grid, box = np.ones((28, 28), np.float32), np.array(box, np.float32)
    assert not paste_mask(grid, box, 20, 30).any()
    assert paste_and_encode(grid[None], box[None], 20, 30) == [{"size": [20, 30], "counts": encoded((20, 30))}]


def encoded(mask):
    """The text of the library; of an empty mask if it is a size."""
    mask = np.zeros(mask) if isinstance(mask, tuple) else mask
    counts = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode() if isinstance(counts, bytes) else counts


def test_run_lengths_are_the_text_of_the_library():
    random = np.random.default_rng(1)
    for number in range(400):
        height, width = random.integers(1, 80, 2)
        mask = random.random((height, width)) < (0, 0.01, 0.5, 0.99, 1)[number % 5]
        # Runs from one column to the next.
        mask[:, : random.integers(width + 1) // 2] |= number % 3 == 0
        assert encode(mask) == {"size": [height, width], "counts": encoded(mask)}


def test_long_runs_have_many_digits():
    mask = np.zeros((3000, 4000), bool)
    for column, row in ((0, 0), (1, 7), (3998, 5), (3999, 2999)):
        mask[row, column] = True
    assert encode(mask)["counts"] == encoded(mask)
    assert encode(~mask)["counts"] == encoded(~mask)


def test_all_masks_of_an_image_at_once():
    random = np.random.default_rng(2)
    grids = random.random((30, 28, 28)).astype(np.float32)
    corners, sizes = random.uniform(-10, 60, (30, 2)), random.uniform(0, 60, (30, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)
    found = paste_and_encode(grids, boxes, 48, 64)
    assert found == [encode(paste_mask(grid, box, 48, 64)) for grid, box in zip(grids, boxes, strict=True)]
    assert len({mask["counts"] for mask in found}) > 20
    assert paste_and_encode(grids[:0], boxes[:0], 48, 64) == []
