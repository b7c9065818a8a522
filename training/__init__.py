"""Makes bundles: data, models, training, evaluation, export and the promotion gate."""
