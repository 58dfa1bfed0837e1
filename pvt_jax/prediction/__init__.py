"""Prediction: a trained model from wherever it is saved, applied to images, and what it finds written down."""
