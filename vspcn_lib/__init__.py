"""VSPCN (CVPR 2025): visual and semantic prompts that collaborate inside a frozen ViT, for GZSL."""
