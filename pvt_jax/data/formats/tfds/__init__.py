"""TensorFlow Datasets, read without TensorFlow."""
