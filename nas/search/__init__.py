"""Finding architectures: objectives, ways of searching, the accuracy predictor, and the family that they yield."""
