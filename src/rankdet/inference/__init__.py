"""Running a trained detector: loading, detection, evaluation, drawing, profiling."""
