"""How good the text is: error rates, their significance, and the report."""
