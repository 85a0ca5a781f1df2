"""The rules of the books: pure, standard library only."""
