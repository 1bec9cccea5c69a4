"""What stands above one model and its engine: searches of wider space, other models that judge the hypotheses."""
