"""What every package stands on: failures, typed configs, Ray tasks, figures."""
