"""The margin-loss family: losses, backbones and training. PyTorch lives here and nowhere in ``service``."""
