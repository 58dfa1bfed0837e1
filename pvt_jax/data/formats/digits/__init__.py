"""scikit-learn's handwritten digits, and scenes made of them."""
