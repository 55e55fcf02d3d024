"""VSPCN (CVPR 2025): visual and semantic prompts that collaborate inside a frozen ViT, for GZSL."""

import os

# Threads that wait must not spin: on a shared machine that made panels eight times slower. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
