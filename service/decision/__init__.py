"""From similarities to decisions: operating points given as error rates."""
