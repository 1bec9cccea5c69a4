"""Decoder families: how a draft starts, how one step rewrites it, how it ends."""
