"""Kernels in Pallas that keep on the chip what XLA writes to memory and reads again.

A training step of a PVT is bound by memory traffic, and most of it is the hidden maps of its feed-forward networks, up
to eight times as wide as the model, and the scores of its attention. Kernels compute both block by block, and compute
them again in the backward pass. ``ops.target`` says where layers use them. Importing them imports Pallas.
"""
