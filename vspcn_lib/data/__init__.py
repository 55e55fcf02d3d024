"""Benchmarks, splits, folders of one's own, the drawn birdlets, archives and the cache of pixels."""
