"""Two-stage detectors in NumPy, float64, box by box: what ``MaskRCNNHead`` and its losses are compared with."""

from typing import Any

import numpy as np

Tree = dict[str, Any]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - width * height)


def encode(anchor: np.ndarray, box: np.ndarray, std: Any = (1, 1, 1, 1)) -> np.ndarray:
    side, target = anchor[2:] - anchor[:2], box[2:] - box[:2]
    centre, moved = anchor[:2] + side / 2, box[:2] + target / 2
    return np.concatenate([(moved - centre) / side, np.log(target / side)]) / np.asarray(std)


def decode(anchor: np.ndarray, deltas: np.ndarray, size: Any, std: Any = (1, 1, 1, 1)) -> np.ndarray:
    deltas, bound = deltas * np.asarray(std), np.log(1000 / 16)
    side = anchor[2:] - anchor[:2]
    centre = anchor[:2] + side / 2 + deltas[:2] * side
    half = side * np.exp(np.clip(deltas[2:], -bound, bound)) / 2
    box, (height, width) = np.concatenate([centre - half, centre + half]), size
    return np.clip(box, 0, [width, height, width, height])


def greedy(boxes: list[np.ndarray], scores: list[float], labels: list[int], threshold: float, count: int) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(labels[i] != labels[j] or iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept[:count]


def assign(candidates: np.ndarray, objects: np.ndarray, positive: float, negative: float, least: float, low: bool):
    """mmdetection's MaxIoUAssigner: the object of each candidate, -1 background, -2 neither."""
    overlaps = np.array([[iou(a, b) for b in objects] for a in candidates]).reshape(len(candidates), len(objects))
    matched = np.full(len(candidates), -2)
    for i, row in enumerate(overlaps):
        if row.max(initial=0) < negative:
            matched[i] = -1
        elif row.max() >= positive:
            matched[i] = row.argmax()
    for j, column in enumerate(overlaps.T if low else ()):
        if column.max() >= least:
            matched[column == column.max()] = j
    return matched


def convolution(x: np.ndarray, layer: Tree) -> np.ndarray:
    """3×3, of one map [h, w, c]."""
    padded = np.pad(x.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    h, w, _ = x.shape
    total = sum(padded[i : i + h, j : j + w] @ layer["kernel"][i, j] for i in range(3) for j in range(3))
    return total + layer["bias"]


def linear(x: np.ndarray, layer: Tree) -> np.ndarray:
    return x.astype(np.float64) @ layer["kernel"] + layer["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def align(features: np.ndarray, box: np.ndarray, output: int, stride: int) -> np.ndarray:
    """RoIAlign with half-pixel alignment and as many samples as bins are wide."""
    corner = box[:2] / stride - 0.5
    bins = (box[2:] - box[:2]) / stride / output
    x, y = (_samples(features.shape[1 - i], corner[i], bins[i], output) for i in (0, 1))
    return np.einsum("py,yxc,qx->pqc", y, features.astype(np.float64), x)


def _samples(side: int, start: float, width: float, output: int) -> np.ndarray:
    count = int(np.ceil(width))
    weights = np.zeros((output, side))
    for p in range(output):
        for k in range(count):
            at = start + width * (p + (k + 0.5) / count)
            if -1 <= at <= side:
                at = min(max(at, 0), side - 1)
                low = min(int(at), side - 1)
                weights[p, low] += (1 - (at - low)) / count
                weights[p, min(low + 1, side - 1)] += (at - low) / count
    return weights


class NumpyHead:
    """One image at a time; ``maps`` are [h, w, c] by name. ``settings`` are those of ``MaskRCNNHead``."""

    def __init__(self, params: Tree, settings: Tree):
        self.params, self.settings = params, settings

    def levels(self, maps: Tree) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(anchors [n, 4], logits [n], deltas [n, 4]) of each level."""
        rpn, found = self.params["rpn"], []
        for name, x in maps.items():
            stride, anchors = 2 ** int(name[1:]), []
            for row in range(x.shape[0]):
                for column in range(x.shape[1]):
                    for ratio in (0.5, 1.0, 2.0):
                        for scale in self.settings["anchor_scales"]:
                            width, height = stride * scale / ratio**0.5, stride * scale * ratio**0.5
                            centre = np.array([column, row, column, row]) * stride
                            anchors.append(centre + np.array([-width, -height, width, height]) / 2)
            hidden = relu(convolution(x, rpn["conv"]))
            logits, deltas = linear(hidden, rpn["classifier"]), linear(hidden, rpn["regressor"])
            found.append((np.array(anchors), logits.ravel(), deltas.reshape(-1, 4)))
        return found

    def proposals(self, levels: Any, size: Any, per_level: int, count: int) -> np.ndarray:
        boxes, scores, labels = [], [], []
        for number, (anchors, logits, deltas) in enumerate(levels):
            for i in np.argsort(-logits, kind="stable")[:per_level]:
                box = decode(anchors[i], deltas[i], size)
                if box[2] > box[0] and box[3] > box[1]:
                    boxes.append(box)
                    scores.append(sigmoid(logits[i]))
                    labels.append(number)
        kept = greedy(boxes, scores, labels, self.settings["rpn_nms_threshold"], count)
        return np.array([boxes[i] for i in kept])

    def features(self, maps: Tree, box: np.ndarray, side: int) -> np.ndarray:
        readable = {int(name[1:]): x for name, x in maps.items() if name <= "p5"}
        ratio = np.sqrt(np.prod(box[2:] - box[:2])) / self.settings["finest_scale"]
        finest, coarsest = min(readable), max(readable)
        level = int(np.clip(finest + np.floor(np.log2(ratio + 1e-6)), finest, coarsest))
        return align(readable[level], box, side, 2**level)

    def classified(self, maps: Tree, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(log probabilities [r, k + 1], deltas [r, k, 4])."""
        head = self.params["box"]
        x = np.array([self.features(maps, box, 7).ravel() for box in boxes])
        x = relu(linear(relu(linear(x, head["fc0"])), head["fc1"]))
        logits = linear(x, head["classifier"])
        logits = logits - logits.max(1, keepdims=True)
        deltas = linear(x, head["regressor"]).reshape(len(boxes), -1, 4)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True)), deltas

    def mask(self, maps: Tree, box: np.ndarray, label: int) -> np.ndarray:
        """Logits [28, 28]."""
        head, x = self.params["mask"], self.features(maps, box, 14)
        for j in range(4):
            x = relu(convolution(x, head[f"conv{j}"]))
        large = np.zeros((28, 28, x.shape[-1]))
        for u in (0, 1):
            for v in (0, 1):
                large[u::2, v::2] = x @ head["upsample"]["kernel"][u, v] + head["upsample"]["bias"]
        return linear(relu(large), head["classifier"])[..., label]

    def detections(self, maps: Tree, size: Any) -> list[tuple[np.ndarray, float, int]]:
        """(box, score, label) by falling score."""
        s = self.settings
        proposals = self.proposals(self.levels(maps), size, s["pre_nms"], s["proposals"])
        logs, deltas = self.classified(maps, proposals)
        boxes, scores, labels = [], [], []
        for i, row in enumerate(np.exp(logs)[:, :-1]):
            for label, score in enumerate(row):
                if score > s["score_threshold"]:
                    boxes.append(decode(proposals[i], deltas[i, label], size, s["box_std"]))
                    scores.append(score)
                    labels.append(label)
        kept = greedy(boxes, scores, labels, s["nms_threshold"], s["max_detections"])
        return [(boxes[i], scores[i], labels[i]) for i in kept]

    def losses(self, maps: Tree, objects: Tree, size: Any, draw: Any, proposals: Any = None) -> dict[str, np.ndarray]:
        """(sum, number that it is divided by) of each loss for one image.

        ``objects`` has boxes, labels and masks of those that there are; ``draw(stage, matched)`` gives the indices of
        positive and of background candidates. With ``proposals`` these are not computed.
        """
        s, boxes = self.settings, objects["boxes"].astype(np.float64)
        levels = self.levels(maps)
        anchors, logits, deltas = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        matched = assign(anchors, boxes, s["rpn_positive_iou"], s["rpn_negative_iou"], s["rpn_least_iou"], low=True)
        positive, background = draw("rpn", matched)
        drawn = len(positive) + len(background)
        entropy = sum(np.log1p(np.exp(-logits[i])) for i in positive)
        entropy += sum(np.log1p(np.exp(logits[i])) for i in background)
        distance = sum(np.abs(deltas[i] - encode(anchors[i], boxes[matched[i]])).sum() for i in positive)
        terms = {"rpn_class_loss": (entropy, drawn), "rpn_box_loss": (distance, drawn)}

        if proposals is None:
            proposals = self.proposals(levels, size, s["train_pre_nms"], s["train_proposals"])
        least = s["positive_iou"]
        matched = assign(proposals, boxes, least, least, least, low=s["masks"])
        regions, matched = np.concatenate([boxes, proposals]), np.concatenate([np.arange(len(boxes)), matched])
        positive, background = draw("regions", matched)
        drawn = len(positive) + len(background)
        logs, deltas = self.classified(maps, regions[[*positive, *background]])
        labels = [objects["labels"][matched[i]] for i in positive]
        entropy = -sum(row[label] for row, label in zip(logs, [*labels, *[-1] * len(background)], strict=True))
        distance = sum(
            np.abs(deltas[k, labels[k]] - encode(regions[i], boxes[matched[i]], s["box_std"])).sum()
            for k, i in enumerate(positive)
        )
        terms |= {"class_loss": (entropy, drawn), "box_loss": (distance, drawn)}
        if s["masks"]:
            entropy = 0.0
            for i, label in zip(positive, labels, strict=True):
                target = target_mask(objects["masks"][matched[i]], boxes[matched[i]], regions[i])
                x = self.mask(maps, regions[i], label)
                entropy += (np.log1p(np.exp(x)) - target * x).mean()
            terms["mask_loss"] = (entropy, len(positive))
        return {name: np.array(term) for name, term in terms.items()}


def target_mask(mask: np.ndarray, box: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The bins of ``region``, of 28 × 28, of which half is covered by ``mask``, spread over ``box``."""
    shares = []
    for low, high, start, stop in ((box[1], box[3], region[1], region[3]), (box[0], box[2], region[0], region[2])):
        edges, bins = np.linspace(low, high, len(mask) + 1), np.linspace(start, stop, 29)
        common = np.minimum(edges[1:], bins[1:, None]) - np.maximum(edges[:-1], bins[:-1, None])
        shares.append(np.maximum(common, 0) / (bins[1] - bins[0]))
    return shares[0] @ (mask / 255) @ shares[1].T >= 0.5


def totals(images: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The losses of a batch."""
    sums = {name: np.sum([image[name] for image in images], axis=0) for name in images[0]}
    return {name: total / max(number, 1) for name, (total, number) in sums.items()}
