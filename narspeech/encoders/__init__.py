"""Encoders: features in, states out."""
