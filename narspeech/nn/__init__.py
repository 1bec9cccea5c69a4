"""Layers with parameters, shared by encoders and decoders."""
