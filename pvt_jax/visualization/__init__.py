"""Visualization: pictures of what a model computes, with NumPy alone."""
