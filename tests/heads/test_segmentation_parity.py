"""Neck and heads against PyTorch, and the whole SegFormer against Hugging Face's, with the same random weights.

They run where these are installed (``make test ORACLES=1``).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pvt_jax.heads.semantic_fpn.head import SemanticFPNHead
from pvt_jax.models import create_model
from pvt_jax.nn.fpn import FeaturePyramid
from pvt_jax.tasks.segmentation.loss import segmentation_cross_entropy
from tests.helpers import reference
from tests.helpers import segmentation_oracles as oracles
from tests.helpers.dense import random_maps, random_variables
from tests.helpers.running import assert_gradients_are_equal, pictures, quick_jit

# 32 divides the sides or not; patches that drop what is left over, and patches that overlap.
SIZES = pytest.mark.parametrize(("height", "width", "rounding"), [(64, 96, "down"), (100, 170, "down"), (33, 65, "up")])
NUM_CLASSES = 5


def torch_maps(maps: dict[str, Any]) -> dict[str, Any]:
    return {name: oracles.channels_first(one) for name, one in maps.items()}


def assert_equal(found: Any, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert reference.relative_error(found, expected) < 1e-5


@SIZES
@pytest.mark.parametrize(("first", "extra"), [(2, "none"), (2, "max_pool"), (3, "convolution")])
def test_the_feature_pyramid_is_pytorch_s(first, extra, height, width, rounding):
    pyramid: Any = FeaturePyramid(12, first_level=first, extra_levels=extra)
    maps = random_maps(height, width, rounding)
    variables = random_variables(pyramid, maps)
    found = quick_jit(pyramid.apply)(variables, maps)
    expected = oracles.feature_pyramid(torch_maps(maps), oracles.tensors(variables["params"]), first, extra)
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert_equal(found[name], oracles.channels_last(one))


@SIZES
def test_the_semantic_fpn_head_is_pytorch_s(height, width, rounding):
    """In evaluation, and in training with the gradients of all parameters and the statistics that a step leaves."""
    head = SemanticFPNHead(NUM_CLASSES, channels=8, dropout_rate=0.0)
    maps = {name.replace("c", "p"): one for name, one in random_maps(height, width, rounding, dims=(12,) * 4).items()}
    variables = random_variables(head, maps)
    upstream = pictures(*maps["p2"].shape[1:3])[..., :1]

    def weighted(params: Any) -> Any:
        everything = {**variables, "params": params}
        logits, changed = head.apply(everything, jax.tree.map(jnp.asarray, maps), train=True, mutable=["batch_stats"])
        return (logits * upstream).sum(), (logits, changed["batch_stats"])

    evaluated = quick_jit(head.apply)(variables, maps)
    gradient, (logits, changed) = quick_jit(jax.grad(weighted, has_aux=True))(variables["params"])

    params, stats = oracles.tensors(variables["params"], gradient=True), oracles.tensors(variables["batch_stats"])
    expected = functools.partial(oracles.semantic_fpn, torch_maps(maps), params, stats)
    assert_equal(evaluated, oracles.channels_last(expected(train=False)))
    trained = expected(train=True)
    assert_equal(logits, oracles.channels_last(trained))
    (trained * oracles.channels_first(upstream)).sum().backward()
    assert_gradients_are_equal(gradient, jax.tree.map(lambda tensor: tensor.grad.numpy(), params))
    for path, one in jax.tree_util.tree_leaves_with_path(stats):
        *folders, leaf = [part.key for part in path]
        after = functools.reduce(lambda tree, name: tree[name], folders, changed)[leaf]
        # PyTorch's functions have no count; the layer's is in the SegFormer below.
        np.testing.assert_allclose(after, one.numpy() + (leaf == "count"), rtol=1e-5, atol=1e-6)


SEGFORMER: dict[str, Any] = {"depths": (2, 2, 2, 2), "dims": (32, 64, 160, 256), "num_heads": (1, 2, 5, 8)}


@functools.cache
def segformer(height: int, width: int) -> tuple[Any, Any, Any, np.ndarray, np.ndarray]:
    """(the other's module, our model, our variables, images, labels): MiT-B0 with its head."""
    module, variables = oracles.hf_segformer(**SEGFORMER, num_classes=NUM_CLASSES, channels=256)
    model: Any = create_model("mit_b0", head="segformer", num_classes=NUM_CLASSES, head_settings={"dropout_rate": 0.0})
    images = pictures(height, width)
    labels = np.random.default_rng(1).integers(0, NUM_CLASSES, (2, height, width))
    labels[np.random.default_rng(2).random(labels.shape) < 0.3] = 255
    return module, model, variables, images, labels


def mean_loss(logits: Any, labels: np.ndarray) -> Any:
    losses, counts = segmentation_cross_entropy(logits, jnp.asarray(labels, jnp.int32))
    return losses.sum() / counts.sum()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_the_whole_segformer_is_hugging_face_s(height, width):
    module, model, variables, images, labels = segformer(height, width)
    expected = module.eval()(oracles.channels_first(images), labels=oracles.torch.from_numpy(labels))
    logits = quick_jit(model.apply)(variables, images)
    assert logits.shape == (2, height // 4, width // 4, NUM_CLASSES) and logits.dtype == jnp.float32
    assert reference.relative_error(logits, oracles.channels_last(expected.logits)) < 1e-4
    np.testing.assert_allclose(logits, oracles.channels_last(expected.logits), rtol=0, atol=1e-4)
    np.testing.assert_allclose(mean_loss(logits, labels), float(expected.loss.detach()), rtol=0, atol=1e-4)


def test_a_training_step_of_segformer_s_head_is_hugging_face_s():
    """Loss, gradients of the head and running statistics, with the statistics of the batch."""
    module, model, variables, images, labels = segformer(64, 64)

    def loss(head: Any) -> Any:
        params = {**variables["params"], "head": head}
        logits, changed = model.apply(
            {**variables, "params": params},
            jnp.asarray(images),
            train=True,
            mutable=["batch_stats"],
        )
        return mean_loss(logits, labels), changed["batch_stats"]["head"]["norm"]

    (found, stats), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]["head"])
    expected = module.train()(oracles.channels_first(images), labels=oracles.torch.from_numpy(labels)).loss
    expected.backward()
    np.testing.assert_allclose(found, float(expected.detach()), rtol=0, atol=1e-5)
    head = module.decode_head
    norm = head.batch_norm
    np.testing.assert_allclose(stats["mean"], norm.running_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], norm.running_var, rtol=1e-5)
    assert int(stats["count"]) == int(norm.num_batches_tracked) == 4
    matrices = {"fuse": head.linear_fuse, "classifier": head.classifier}
    matrices |= {f"linear_c{i + 2}": layer.proj for i, layer in enumerate(head.linear_projections)}
    wanted = {name: {"kernel": layer.weight.grad.flatten(1).T.numpy()} for name, layer in matrices.items()}
    wanted |= {"norm": {"scale": norm.weight.grad.numpy(), "bias": norm.bias.grad.numpy()}}
    wanted["classifier"]["bias"] = head.classifier.bias.grad.numpy()
    # Batch norm takes the mean away, so the gradient of a bias before it is nothing but rounding.
    for name in [name for name in gradient if name.startswith("linear_c")]:
        assert np.abs(gradient[name].pop("bias")).max() < 1e-6
    assert_gradients_are_equal(gradient, wanted)
