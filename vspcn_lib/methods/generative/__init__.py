"""Generators of unseen-class features, the scaling of their training data, and classifiers of what they give."""
