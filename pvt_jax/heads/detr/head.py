"""DETR, "End-to-End Object Detection with Transformers" (arXiv 2005.12872, section 3.2 and figure 10).

It runs on a backbone's last feature map; the PVT paper (arXiv 2102.12122) puts it on PVT-Small for detection without
convolutions, anchors and NMS.

Hugging Face's port trains differently: it has dropout on the encoder's input, by default none on attention weights and
hidden activations, and with auxiliary losses each decoder layer gets the output of the one before after the final norm.
Here all of that follows the authors' code.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pvt_jax.errors import UserError
from pvt_jax.heads.base import detections
from pvt_jax.heads.detr.layers import PostNormDecoderLayer, PostNormEncoderLayer, sine_positions
from pvt_jax.heads.detr.loss import Weights, set_losses
from pvt_jax.nn.attention import Linear
from pvt_jax.nn.settings import check, check_counts, check_num_classes
from pvt_jax.ops.boxes import clip_boxes, from_centres, to_centres
from pvt_jax.ops.padding import Maps, inside, shrunk


class DETRHead(nn.Module):
    """A backbone's ``c5`` → ``num_queries`` predictions per image, each a class or "no object".

    Boxes are relative to the size of each image without padding, as in the authors' code; Hugging Face's image
    processor makes training boxes relative to the padded size.

    Attributes:
      num_classes: without "no object", which comes last in the logits.
      dtype: of the computation; parameters, softmax, normalisation statistics, logits and boxes stay float32.
      dim, num_heads, hidden_dim: channels of the tokens, attention heads, hidden channels of feed-forward networks.
      encoder_depth, decoder_depth: number of layers.
      dropout_rate: of attention weights, hidden activations and residual branches, in training.
      num_queries: predictions per image; at least the largest number of objects in an image.
      class_weight, box_weight, giou_weight: of the loss terms and of the matching costs.
      background_weight: of "no object" in the classification loss.
      score_threshold: minimum score of a detection. 0 keeps all: low scores can only raise average precision.
      max_detections: per image; never more than ``num_queries``.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    dim: int = 256
    num_heads: int = 8
    hidden_dim: int = 2048
    encoder_depth: int = 6
    decoder_depth: int = 6
    dropout_rate: float = 0.1
    num_queries: int = 100
    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    background_weight: float = 0.1
    score_threshold: float = 0.0
    max_detections: int = 100

    needs_masks: ClassVar[bool] = False

    def setup(self) -> None:
        self._check_settings()
        layer = (self.num_heads, self.hidden_dim, self.dropout_rate, self.dtype)
        self.input_proj = Linear(self.dim, self.dtype)
        self.queries = self.param("queries", nn.initializers.normal(1.0), (self.num_queries, self.dim))
        self.encoder = Encoder(self.encoder_depth, layer)
        self.decoder = Decoder(self.decoder_depth, layer)
        # float32: it costs nothing for so few tokens, and bfloat16 resolves a coordinate to 1/256 only.
        self.classifier = Linear(self.num_classes + 1)
        self.box_mlp = BoxMLP(self.dim)

    def losses(
        self, maps: Maps, targets: dict[str, Any], sizes: Int[Array, "b 2"], region: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, ""]]:
        """Loss terms by name: the last decoder layer's, and the sum over all earlier layers (``auxiliary_loss``).

        Needs ``rngs={"dropout": key}``. Arguments: see ``DetectionModel``.

        Raises:
          UserError: an image has room for more objects than there are queries.
        """
        most = targets["boxes"].shape[1]
        if most > self.num_queries:
            raise UserError(
                f"head.num_queries is {self.num_queries}, but there are images with up to {most} objects: "
                f"set it to {most} or more"
            )
        logits, boxes = self.outputs(maps, region, train=True)
        target_boxes = to_centres(targets["boxes"]) / _scale(sizes)
        weights = Weights(self.class_weight, self.box_weight, self.giou_weight, self.background_weight)
        by_layer = jax.vmap(set_losses, (0, 0, None, None, None, None))(
            logits, boxes, target_boxes, targets["labels"], targets["valid"], weights
        )
        losses = {f"{name}_loss": part[-1] for name, part in zip(("class", "box", "giou"), by_layer, strict=True)}
        if self.decoder_depth > 1:
            losses["auxiliary_loss"] = jnp.stack(by_layer)[:, :-1].sum()
        return losses

    def detect(
        self, maps: Maps, sizes: Int[Array, "b 2"], region: Int[Array, "b 2"] | None = None
    ) -> dict[str, Float[Array, "b n ..."] | Int[Array, "b n"] | Bool[Array, "b n"]]:
        """Each query's best class except "no object", by descending score. Arguments: see ``DetectionModel``."""
        logits, boxes = (part[-1] for part in self.outputs(maps, region))
        probabilities = jax.nn.softmax(logits)[..., :-1]
        scores, order = jax.lax.top_k(probabilities.max(-1), min(self.max_detections, self.num_queries))
        labels = jnp.take_along_axis(probabilities.argmax(-1).astype(jnp.int32), order, axis=1)
        boxes = clip_boxes(from_centres(boxes) * _scale(sizes), sizes[:, None])
        boxes = jnp.take_along_axis(boxes, order[..., None], axis=1)
        valid = scores > self.score_threshold
        return detections(boxes, scores, labels, valid)

    def outputs(
        self, maps: Maps, region: Int[Array, "b 2"] | None = None, train: bool = False
    ) -> tuple[Float[Array, "d b q k1"], Float[Array, "d b q 4"]]:
        """Logits and relative boxes (centre x, centre y, width, height) of all d decoder layers.

        The last layer's are the prediction; the others serve the auxiliary losses.
        """
        batch, rows, columns, _ = maps["c5"].shape
        true_grid = shrunk(region, 32)
        mask = None if true_grid is None else inside(true_grid, (rows, columns)).reshape(batch, rows * columns)
        positions = sine_positions((rows, columns), self.dim, true_grid).astype(self.dtype)
        tokens = self.input_proj(maps["c5"]).reshape(batch, rows * columns, self.dim)
        memory = self.encoder(tokens, positions, mask, train)
        decoded = self.decoder(self.queries.astype(self.dtype), memory, positions, mask, train)
        logits, boxes = self.classifier(decoded), jax.nn.sigmoid(self.box_mlp(decoded))
        return jnp.moveaxis(logits, 1, 0), jnp.moveaxis(boxes, 1, 0)

    def _check_settings(self) -> None:
        check_num_classes(self)
        check_counts(self, "dim", "num_heads", "hidden_dim", "encoder_depth", "decoder_depth")
        check_counts(self, "num_queries", "max_detections")
        divisors = f"a multiple of 4 and of head.num_heads, {self.num_heads}"
        check(self, divisors, lambda dim: dim % 4 == 0 and dim % self.num_heads == 0, "dim")
        check(self, "at least 0 and below 1", lambda share: 0 <= share < 1, "dropout_rate", "score_threshold")
        check(self, "at least 0", lambda weight: weight >= 0, "class_weight", "box_weight", "giou_weight")
        # Or the classification loss of a batch without objects would be 0 / 0.
        check(self, "above 0", lambda weight: weight > 0, "background_weight")


class Encoder(nn.Module):
    """``depth`` self-attention layers, of these settings, over the tokens of a feature map."""

    depth: int
    layer: tuple[Any, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], positions: Float[Array, "#b n c"], mask: Bool[Array, "b n"] | None, train: bool
    ) -> Float[Array, "b n c"]:
        for i in range(self.depth):
            x = PostNormEncoderLayer(*self.layer, name=f"layer{i}")(x, positions, mask, train)
        return x


class Decoder(nn.Module):
    """``depth`` layers on zeros, with learnt queries as positions; gives every layer's output, normed, float32."""

    depth: int
    layer: tuple[Any, ...]

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "q c"],
        memory: Float[Array, "b m c"],
        positions: Float[Array, "#b m c"],
        mask: Bool[Array, "b m"] | None,
        train: bool,
    ) -> Float[Array, "b d q c"]:
        x = jnp.zeros((memory.shape[0], *queries.shape), queries.dtype)
        after = []
        for i in range(self.depth):
            layer = PostNormDecoderLayer(*self.layer, name=f"layer{i}")
            x = layer(x, queries[None], memory, positions, mask, train)
            after.append(x)
        # Batch axis first: linear layers flatten the leading axes, and with layers first that would gather the whole
        # sharded batch on every device.
        return nn.LayerNorm(1e-5, jnp.float32, name="norm")(jnp.stack(after, axis=1))


class BoxMLP(nn.Module):
    """Three linear layers with ReLUs between → the four coordinates of a box before the sigmoid; float32."""

    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"]) -> Float[Array, "*rows 4"]:
        for i in range(2):
            x = nn.relu(Linear(self.dim, name=f"fc{i}")(x))
        return Linear(4, name="fc2")(x)


def _scale(sizes: Int[Array, "b 2"]) -> Float[Array, "b 1 4"]:
    """(width, height, width, height) of each image in pixels."""
    return jnp.tile(sizes[:, ::-1], 2)[:, None].astype(jnp.float32)
