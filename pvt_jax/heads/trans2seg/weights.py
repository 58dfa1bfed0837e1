"""Weights of Trans2Seg: no files of others are read, as their numbers would stand for something else."""

from pvt_jax.weight_names import HeadWeights

# Queries are [1, classes, dim].
WEIGHTS = HeadWeights(mark="params/head/class_queries", classifier=("params/head/class_queries",), class_axis=1)
