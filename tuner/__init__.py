"""The search: the front door, and the only place where Ray Tune, Optuna and our model meet."""
