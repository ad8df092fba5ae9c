"""How sharp the loss of every class is, while training and after it."""
