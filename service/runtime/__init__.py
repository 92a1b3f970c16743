"""Bundles and the networks in them; the only room that imports onnxruntime."""
