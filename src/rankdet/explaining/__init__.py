"""`rankdet explain`: errors, primary terms and gradients of a ranking loss, as numbers, a page and an image."""

from rankdet.extras import require

require(__name__)

from rankdet.explaining.drawing import draw_explanations
from rankdet.explaining.explanation import Explanation, Localization, Loss, Part, explain, worked_example
from rankdet.explaining.page import summary, write_explanations
from rankdet.explaining.reading import explain_file
from rankdet.explaining.runs import RunExplanations, explain_run

__all__ = [
    "Explanation",
    "Localization",
    "Loss",
    "Part",
    "RunExplanations",
    "draw_explanations",
    "explain",
    "explain_file",
    "explain_run",
    "summary",
    "worked_example",
    "write_explanations",
]
