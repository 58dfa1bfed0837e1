"""Visualization: pictures of what a model computes, drawn with NumPy and Pillow."""
