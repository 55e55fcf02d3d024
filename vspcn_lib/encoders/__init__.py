"""What is pretrained and stays frozen: image backbones, their weights, and text encoders."""
