"""A finished run made visible: opened again, attention, probes, embeddings, plots and figures."""
