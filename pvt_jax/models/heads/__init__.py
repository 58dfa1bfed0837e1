"""Heads: from a backbone's features to the prediction of one task; ``HEADS`` in ``pvt_jax/models`` names them."""
