"""Architecture search: problems and archives, the search loop and its methods, the accuracy predictor, and the Pareto family."""
