"""One recording under the glass: what the model saw, drafted and refined, on one page."""
