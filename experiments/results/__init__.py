"""Results of the finished cells: tables, figures, an HTML page, MLflow."""
