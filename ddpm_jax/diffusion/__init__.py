"""The article: schedules, posteriors, predictions, reverse variances, losses, the sampler. Pure functions, no files."""
