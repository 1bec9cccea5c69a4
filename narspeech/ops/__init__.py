"""Pure tensor functions without parameters, each tested against a brute-force reference."""
