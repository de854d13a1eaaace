"""Reads what cells left behind: tables, figures, a page, MLflow."""
