"""Running a trained detector: loading, detection, evaluation, drawing, profiling."""

from rankdet.extras import require

require(__name__)
