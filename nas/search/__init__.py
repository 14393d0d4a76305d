"""Finding architectures: the accuracy predictor, evolution and random search, and the family they yield."""
