"""What a run says about itself: event log, MLflow mirror, step metrics, live line, report."""
